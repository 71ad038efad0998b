from __future__ import annotations

import pytest

from bottlekit.errors import UsageError
from bottlekit.specs import SplitSpec
from bottlekit.training.search.grid import Reduction, grid, numbers_from_text

SPLIT = SplitSpec("rb3", 3, "layer2.0", 8, 5, 5, 8)


def test_a_grid_is_ordered_by_the_values_sent() -> None:
    found = grid("bottlenet", SPLIT, [4, 1, 2], [2, 1])
    assert [str(width) for width in found] == ["c1-s2", "c2-s2", "c1", "c4-s2", "c2", "c4"]
    assert [width.values(SPLIT) for width in found] == [9, 18, 25, 36, 50, 100]


def test_what_is_wider_than_the_split_point_is_left_out() -> None:
    assert grid("butterfly", SPLIT, [1, 8, 9], [1]) == (Reduction(1), Reduction(8))


def test_filters_grow_with_the_stride() -> None:
    assert [Reduction(2, s).spec("bottlenet", "rb3").kernel for s in (1, 2, 3, 4)] == [3, 3, 4, 5]


@pytest.mark.parametrize(
    ("kind", "channels", "spatials", "reason"),
    [
        ("bottlenet", [], [2], "the grid is empty"),
        ("bottlenet", [1], [], "the grid is empty"),
        ("bottlenet", [9, 10], [2], "the grid is empty at rb3, which has 8 channels of 5 x 5: --channels 9"),
        ("bottlenet", [0], [2], "must be 1 or more, not 0"),
        ("bottlenet", [1], [0], "--spatial must be 1"),
        ("butterfly", [1], [2], "reduces channels only"),
        ("moth", [1], [1], "--unit must be bottlenet or butterfly"),
    ],
)
def test_what_is_no_grid_is_refused(kind: str, channels: list[int], spatials: list[int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        grid(kind, SPLIT, channels, spatials)  # type: ignore[arg-type]


def test_numbers_and_ranges() -> None:
    assert numbers_from_text("10, 1-3,2", "--channels") == [1, 2, 3, 10]


@pytest.mark.parametrize("text", ["", ",", "a", "1.5", "-1", "3-1", "1-", "1 2"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--channels"):
        numbers_from_text(text, "--channels")
