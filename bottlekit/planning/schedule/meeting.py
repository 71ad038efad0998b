"""The least objective within bounds: labels from the start meet tails from the end.

    start --labels--> ... boundary m ... <--tails-- end

Each turn goes on at the side with fewer labels, until all boundaries before m are visited from the start and the
others from the end. A label that arrives behind m, by a step across it, meets the tails of the state it arrives at.
Without `ahead` m is the end: all is searched from the start.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bottlekit.planning.schedule.labels import Labels, Search
from bottlekit.planning.schedule.multipliers import within
from bottlekit.planning.schedule.paths import Path
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.tails import Ahead, Tails


@dataclasses.dataclass(frozen=True)
class Found:
    """`path`: the least objective up to `upper`, None if there is none. `known`: of any schedule that was seen."""

    path: Path | None
    known: float
    labels: int


def best_within_bounds(search: Search, upper: float, ahead: Ahead | None = None) -> Found:
    """The schedule within the bounds whose objective is the least, of those up to `upper`. Exact."""
    labels, tails = Labels(search, upper), Tails(search, upper, ahead)
    begin, end = 0, search.steps.count
    while begin < end:
        if ahead is None or labels.size <= tails.size:
            labels.visit(begin)
            begin += 1
        else:
            end -= 1
            tails.visit(end)
    least, path = np.inf, None
    halves = (0, 0, 0)
    for number, tail in tails.of.items():
        values, numbers = labels.arrived(number)
        if not len(values):
            continue
        objective, row, of_tail = _least_pair(search, values, tail.values)
        # A price lets through what costs more than `upper` and leaves much of a bound.
        if objective <= labels.upper + within(labels.upper) and objective < least:
            least, path = objective, Path((), values[row] + tail.values[of_tail])
            halves = (int(numbers[row]), number, of_tail)
    if path is not None:
        label, number, of_tail = halves
        path = dataclasses.replace(path, groups=(*labels.way(label), *tails.way(number, of_tail)))
    return Found(path, labels.known, labels.kept)


def _least_pair(search: Search, values: Table, tails: Table) -> tuple[float, int, int]:
    """The least objective of a label and a tail that keep the bounds together: it, the label's row, the tail's."""
    objective = (values @ search.weights)[:, None] + tails @ search.weights
    for resource, most in search.most.items():
        objective[values[:, resource, None] + tails[:, resource] > most + within(most)] = np.inf
    row, of_tail = divmod(int(objective.argmin()), len(tails))
    return float(objective[row, of_tail]), row, of_tail
