"""Which of many cost vectors no other one is at least as good as in everything."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt


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
        return order[_below_staircase(second.tolist(), values[order, 2].tolist())]
    raise ValueError(f"{columns} columns are more than three")


def _below_staircase(second: list[float], third: list[float]) -> list[int]:
    """Positions that no earlier one equals or undercuts in both lists."""
    kept: list[int] = []
    # The stairs so far: ascending in `xs`, descending in `ys`.
    xs: list[float] = []
    ys: list[float] = []
    for position, (x, y) in enumerate(zip(second, third, strict=True)):
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(position)
        # What stands to the right and is not lower has become useless; so has a stair at the same place.
        begin = at - 1 if at and xs[at - 1] == x else at
        end = begin
        while end < len(ys) and ys[end] >= y:
            end += 1
        xs[begin:end] = [x]
        ys[begin:end] = [y]
    return kept
