"""Which of many cost vectors no other one is at least as good as in everything."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
FIRST_BLOCK = 32


def pareto_rows(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The rows of `values` (m, d) that no other row equals or undercuts in all d columns; of equals, one stays.

    Ascending in the first column. Up to three columns.
    """
    if len(values) <= 1:
        return np.arange(len(values))
    columns = values.shape[1]
    order = np.lexsort(values.T[::-1])
    if columns == 1:
        return order[:1]
    second = values[order, 1]
    if columns == 2:
        # In ascending order of the first: whoever is below everything before it in the second.
        least_before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        kept: npt.NDArray[np.intp] = order[second < least_before]
        return kept
    if columns == 3:
        return order[_below_staircase(second, values[order, 2])]
    raise ValueError(f"{columns} columns are more than three")


def _below_staircase(second: Column, third: Column) -> list[int]:
    """Positions that no earlier one equals or undercuts in both columns."""
    kept: list[int] = []
    # The stairs so far: ascending in `xs`, descending in `ys`.
    xs: list[float] = []
    ys: list[float] = []
    begin, size = 0, FIRST_BLOCK
    while begin < len(second):
        # Most of a block stands above the stairs of those before it: those go at once, only the rest one by one.
        block = np.arange(begin, min(begin + size, len(second)))
        if xs:
            at = np.searchsorted(xs, second[block], side="right")
            block = block[np.concatenate([[np.inf], ys])[at] > third[block]]
        for position, x, y in zip(block.tolist(), second[block].tolist(), third[block].tolist(), strict=True):
            if _lowers(xs, ys, x, y):
                kept.append(position)
        begin, size = begin + size, 2 * size
    return kept


def _lowers(xs: list[float], ys: list[float], x: float, y: float) -> bool:
    """Whether (x, y) is below the stairs; if so, it becomes one of them."""
    at = bisect_right(xs, x)
    if at and ys[at - 1] <= y:
        return False
    # What stands to the right and is not lower has become useless; so has a stair at the same place.
    begin = at - 1 if at and xs[at - 1] == x else at
    end = begin
    while end < len(ys) and ys[end] >= y:
        end += 1
    xs[begin:end] = [x]
    ys[begin:end] = [y]
    return True
