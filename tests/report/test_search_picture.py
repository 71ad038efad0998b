from __future__ import annotations

from typing import Any

import pytest

from bottlekit.errors import ReportError
from bottlekit.report.search_picture import search_picture


def training(channels: int, accuracy: float | None, spatial: int = 1, rung: int = 0) -> dict[str, Any]:
    return {"channels": channels, "spatial": spatial, "rung": rung, "accuracy": accuracy}


def found(*splits: tuple[int | None, list[dict[str, Any]]]) -> dict[str, Any]:
    entries = [
        {"split": f"rb{n}", "found": None if taken is None else trainings[taken], "trainings": trainings}
        for n, (taken, trainings) in enumerate(splits, start=1)
    ]
    numbers = {"baseline_accuracy": 0.98, "least_accuracy": 0.96}
    return {"backbone": "resnet18", "unit": "butterfly", **numbers, "splits": entries}


def lines(result: dict[str, Any]) -> dict[str, list[float]]:
    """What is drawn: label -> heights."""
    figure = search_picture(result).figure
    assert figure is not None
    return {str(line.get_label()): list(line.get_ydata()) for line in figure.axes[0].get_lines()}  # type: ignore[arg-type]


def test_a_line_for_each_width_and_a_ring_for_what_was_taken() -> None:
    result = found(
        (0, [training(1, 0.97)]), (1, [training(1, 0.9), training(2, 0.965)]), (None, [training(1, None)])
    )
    drawn = lines(result)
    assert drawn["1 channel"][:2] == [97.0, 90.0]
    assert drawn["2 channels"][1] == 96.5
    assert str(drawn["1 channel"][2]) == str(drawn["2 channels"][0]) == "nan"
    assert drawn["accurate enough"] == [96.0, 96.0]
    figure = search_picture(result).figure
    assert figure is not None
    rings = figure.axes[0].collections[0].get_offsets()
    assert [tuple(point) for point in rings.tolist()] == [(0.0, 97.0), (1.0, 96.5)]  # type: ignore[union-attr]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["rb1", "rb2", "rb3"]


def test_the_last_rung_counts_and_several_strides_are_told_apart() -> None:
    drawn = lines(found((None, [training(1, 0.8, rung=1), training(1, 0.5, rung=0), training(1, 0.7, spatial=2)])))
    assert drawn["1 channel, s = 1"] == [80.0]
    assert drawn["1 channel, s = 2"] == [70.0]


def test_the_picture_is_the_same_for_the_same_search() -> None:
    result = found((0, [training(1, 0.97)]))
    assert search_picture(result).svg == search_picture(result).svg


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ReportError, match="nothing to draw"):
        search_picture(found((None, [training(1, None)])))
