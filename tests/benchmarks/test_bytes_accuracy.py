"""What bytes_accuracy.py is asked for, what it goes on with, and which networks it compares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.bottleneck import BottleneckTraining


@pytest.fixture
def ask(benchmark_module: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The options of a command line."""

    def asked(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["bytes_accuracy.py", *words])
        return benchmark_module("bytes_accuracy").arguments()

    return asked


def test_channels_are_for_all_splits_or_for_each(benchmark_module: Any, ask: Any) -> None:
    script = benchmark_module("bytes_accuracy")
    assert script.channels_of_splits(ask("--splits", "rb1,rb4")) == [("rb1", 1), ("rb4", 1)]
    one_each = ask("--splits", "rb1,rb4,rb8", "--channels", "1,2,5")
    assert script.channels_of_splits(one_each) == [("rb1", 1), ("rb4", 2), ("rb8", 5)]


def test_channels_that_fit_no_splits_are_refused(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ask("--splits", "rb1,rb4,rb8", "--channels", "1,2")
    assert "--channels has 2 numbers, and --splits 3" in capsys.readouterr().err


def test_every_way_to_train_has_a_file_of_its_own(benchmark_module: Any, ask: Any) -> None:
    script = benchmark_module("bytes_accuracy")
    options = ask(
        "--qualities", "5,20", "--jpeg-ranges", "image,static", "--bits", "1,2", "--rate-weights", "0,1e-3"
    )
    ways = script.ways(options)
    names = [script.name_of("rb1", codec, how, seed) for codec, how in ways for seed in (0, 1)]
    assert len(ways) == 8
    assert len(set(names)) == len(names)
    assert all(how.distill_epochs == 2 for _, how in ways)


@pytest.mark.parametrize(
    ("left", "going_on"),
    [((), False), (("x.safetensors.resume",), True), (("x.safetensors.warm-up.resume",), True)],
)
def test_an_interrupted_training_goes_on(
    benchmark_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...], going_on: bool
) -> None:
    small = benchmark_module("small_trainings")
    asked: list[bool] = []
    monkeypatch.setattr(small, "train_bottleneck", lambda *words, resume, quiet: asked.append(resume))
    for name in left:
        (tmp_path / name).touch()
    path = tmp_path / "x.safetensors"
    rest = (BottleneckSpec("bottlenet", "rb1", 1), CodecSpec("jpeg"), None, None, 0, BottleneckTraining())
    small.bottleneck_of(path, tmp_path / "network.safetensors", *rest)
    assert asked == [going_on]
    path.touch()
    small.bottleneck_of(path, tmp_path / "network.safetensors", *rest)
    assert asked == [going_on]


def point(codec: str, size: float, choice: str, held_out: str, **others: Any) -> dict[str, Any]:
    """A network's answers with a codec, 1 where right."""
    found: dict[str, Any] = {
        "split": "rb1", "trained_with": "jpeg", "trained_range": "image", "rate_weight": 0.0, "seed": 0,
        "codec": codec, "bits": 8, "quality": 20, "range": "image",
    } | others  # fmt: skip
    for part, right in (("choice", choice), ("held_out", held_out)):
        share = right.count("1") / len(right)
        found[part] = {"accuracy": share, "mean_bytes": size, "mean_framed_bytes": size + 20, "right": right}
    return found


def learned(size: float, choice: str, held_out: str, weight: float, seed: int = 0) -> dict[str, Any]:
    """A network that was trained for the learned codec."""
    trained = {"trained_with": "learned", "trained_range": "static", "bits": 2, "range": "static"}
    return point("learned", size, choice, held_out, rate_weight=weight, seed=seed, **trained)


def test_the_choice_images_choose_and_the_held_out_ones_are_reported(benchmark_module: Any) -> None:
    points = [
        point("jpeg-lean", 50.0, "1110", "1100"),
        point("jpeg-lean", 30.0, "1100", "1000", range="static"),
        point("jpeg-lean", 40.0, "1111", "1111", range="static", trained_range="static"),
        point("jpeg", 300.0, "1110", "1100"),
        learned(25.0, "1110", "0001", 0.001),
        learned(20.0, "1100", "1111", 0.003),
    ]
    rows = benchmark_module("bytes_points").comparison(points)
    assert [(row["range"], row["trained_range"], row["learned_rate_weight"]) for row in rows] == [
        ("image", "image", 0.001), ("static", "image", 0.003), ("static", "static", 0.001)
    ]  # fmt: skip
    assert [row["as_accurate_on_choice"] for row in rows] == [True, True, False]
    first = rows[0]
    assert (first["learned_of_lean"], first["difference"]) == (0.5, -0.25)
    assert (first["only_learned_right"], first["only_lean_right"], first["answers"]) == (1, 2, 4)


def test_a_setting_without_all_seeds_is_not_compared(benchmark_module: Any) -> None:
    points = [
        *(point("jpeg-lean", 50.0, "1110", "1100", seed=seed) for seed in (0, 1)),
        learned(10.0, "1111", "1111", 0.01),
        *(learned(25.0, "1110", "1100", 0.001, seed) for seed in (0, 1)),
    ]
    (row,) = benchmark_module("bytes_points").comparison(points)
    assert (row["learned_rate_weight"], row["seeds"]) == (0.001, [0, 1])
