"""Label-setting: the exact search under bounds, as a resource-constrained shortest path.

    label    a way from the start to a state, as its cost vector (objective, bounded resources)

At each state only the labels stay that no other one undercuts in everything (Pareto). A label is dropped as soon as
what is surely still to come breaks a bound, or, with Lagrange's prices, costs more than `upper`; before that, so is
every step that no label can use. The states are visited in the order of their boundaries, so every label is final
when it is extended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bottlekit.planning.schedule.costs import CLOUD, MOBILE, GroupCosts, Vector
from bottlekit.planning.schedule.multipliers import Relaxation, within
from bottlekit.planning.schedule.pareto import pareto_rows
from bottlekit.planning.schedule.paths import Path
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.shortest import ToGo
from bottlekit.planning.schedule.states import States

Ints = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class Search:
    """What the search is given.

    `columns`: the resources of a label; of what is found, the least in the first is returned. `most[resource]`: the
    bounds. `to_go[resource]`: the least still to come, for each bound. `tables`: the groups' relaxed costs;
    `from_start`: the least relaxed cost up to every state. Schedules of a relaxed cost above `upper` are left out.
    `completion`: (states, 3), what one known way to the end costs; given it, the first column is the objective, and
    `upper` falls with every schedule that is found by completing a label.
    """

    states: States
    groups: GroupCosts
    columns: tuple[int, ...]
    most: Mapping[int, float]
    to_go: Mapping[int, ToGo]
    relaxation: Relaxation
    tables: tuple[Table, Table]
    from_start: Vector
    upper: float
    completion: Table | None


class _Labels:
    """All labels ever kept, for the way back, and those that wait at the states."""

    def __init__(self, search: Search) -> None:
        self.search, self.upper = search, search.upper
        # A bound of the objective is `upper`'s business.
        self.most = {
            resource: most
            for resource, most in search.most.items()
            if search.completion is None or resource != search.columns[0]
        }
        self.parent: list[Ints] = [np.array([-1])]
        self.state: list[Ints] = [np.array([0])]
        self.kept = 1
        count = len(search.states.all)
        self.waiting: list[list[tuple[Table, Ints]]] = [[] for _ in range(count)]
        self.waiting[0].append((np.zeros((1, 3)), np.array([-1])))

    def useful(self, values: Table, states: Ints) -> npt.NDArray[np.bool_]:
        """Which of `values` (m, 3) at `states` (m,) can still end within the bounds and not above `upper`."""
        search, relaxed = self.search, self.search.relaxation
        cost = values @ np.array(relaxed.weights) + relaxed.to_go.cost[states] + relaxed.constant
        upper = self.upper + within(self.upper)
        keep: npt.NDArray[np.bool_] = cost <= upper
        if search.completion is not None:
            first = search.columns[0]
            keep &= values[:, first] + search.to_go[first].cost[states] <= upper
        for resource, most in self.most.items():
            keep &= values[:, resource] + search.to_go[resource].cost[states] <= most + within(most)
        return keep

    def complete(self, values: Table, states: Ints) -> None:
        """Lower `upper` to the best of these labels with the known way to the end, if it keeps the bounds."""
        if self.search.completion is None:
            return
        whole = values + self.search.completion[states]
        objective = whole[:, self.search.columns[0]]
        for resource, most in self.most.items():
            objective = np.where(whole[:, resource] <= most + within(most), objective, np.inf)
        self.upper = min(self.upper, float(objective.min()))

    def take(self, number: int) -> tuple[Table, Ints]:
        """The labels that reached state `number`, only the best of them; they get their numbers now."""
        arrived = self.waiting[number]
        self.waiting[number] = []
        if not arrived:
            return np.zeros((0, 3)), np.zeros(0, dtype=np.intp)
        values = np.concatenate([one for one, _ in arrived])
        parents = np.concatenate([one for _, one in arrived])
        rows = pareto_rows(values[:, self.search.columns])
        values, parents = values[rows], parents[rows]
        if number == 0:
            return values, np.zeros(1, dtype=np.intp)
        self.parent.append(parents)
        self.state.append(np.full(len(rows), number))
        numbers = np.arange(self.kept, self.kept + len(rows))
        self.kept += len(rows)
        return values, numbers

    def bring(self, values: Table, parents: Ints, targets: Ints) -> None:
        """Let labels wait at their states, if they are of use."""
        keep = self.useful(values, targets)
        if not keep.any():
            return
        values, parents, targets = values[keep], parents[keep], targets[keep]
        self.complete(values, targets)
        order = np.argsort(targets, kind="stable")
        ends = np.flatnonzero(np.diff(targets[order])) + 1
        for part in np.split(order, ends):
            self.waiting[targets[part[0]]].append((values[part], parents[part]))


def best_within_bounds(search: Search) -> tuple[Path | None, int]:
    """The schedule within the bounds and `upper` that has least in the first column; and how many labels were kept.

    Exact. None: there is no such schedule.
    """
    states, groups = search.states, search.groups
    labels = _Labels(search)
    reachable = _steps_of_use(search)
    best: tuple[float, int, Vector] | None = None
    count = groups.shape[0]
    for boundary in range(count + 1):
        entering: tuple[list[tuple[Table, Ints]], ...] = ([], [])
        for number in states.at[boundary]:
            values, numbers = labels.take(number)
            if not len(values):
                continue
            state = states.all[number]
            for worker in (MOBILE, CLOUD):
                sending = state.far_sending[worker]
                if sending is not None:
                    entering[worker].append((values + sending, numbers))
            for step in state.near:
                if np.isfinite(search.tables[step.machine][boundary, step.until - 1]):
                    cost = step.sending + groups.of(step.machine, boundary, step.until - 1)
                    labels.bring(values + cost, numbers, np.full(len(values), step.target))
            if state.end_sending is not None:
                ended = values + state.end_sending
                allowed = labels.useful(values, np.full(len(values), number))
                for row in np.flatnonzero(allowed):
                    value = float(ended[row, search.columns[0]])
                    if best is None or value < best[0]:
                        best = (value, int(numbers[row]), ended[row])
        for worker in (MOBILE, CLOUD):
            ends = reachable[worker][boundary]
            if not entering[worker] or not len(ends):
                continue
            values = np.concatenate([one for one, _ in entering[worker]])
            numbers = np.concatenate([one for _, one in entering[worker]])
            rows = pareto_rows(values[:, search.columns])
            cost = groups.of(worker, boundary, ends - 1).T
            targets = np.array(states.settled[worker])[ends]
            labels.bring(
                (values[rows][:, None, :] + cost[None, :, :]).reshape(-1, 3),
                np.repeat(numbers[rows], len(ends)),
                np.tile(targets, len(rows)),
            )
    if best is None:
        return None, labels.kept
    return Path(_way(states, labels, best[1]), best[2]), labels.kept


def _steps_of_use(search: Search) -> tuple[list[Ints], list[Ints]]:
    """For each machine and boundary, where far steps may end that some schedule below `upper` could take."""
    states, relaxed = search.states, search.relaxation
    count = search.groups.shape[0]
    result: tuple[list[Ints], list[Ints]] = ([], [])
    weights = np.array(relaxed.weights)
    for worker in (MOBILE, CLOUD):
        to_go = relaxed.to_go.cost[list(states.settled[worker])]
        for boundary in range(count + 1):
            horizon = states.horizon[boundary]
            entering = [
                search.from_start[number] + float(sending @ weights)
                for number in states.at[boundary]
                if (sending := states.all[number].far_sending[worker]) is not None
            ]
            if horizon > count or not entering:
                result[worker].append(np.zeros(0, dtype=np.intp))
                continue
            row = (
                search.tables[worker][boundary, horizon - 1 :] + to_go[horizon:] + min(entering) + relaxed.constant
            )
            usable = (row <= search.upper + within(search.upper)) & np.isfinite(row)
            result[worker].append(horizon + np.flatnonzero(usable))
    return result


def _way(states: States, labels: _Labels, number: int) -> tuple[tuple[int, int, int], ...]:
    parents, where = np.concatenate(labels.parent), np.concatenate(labels.state)
    groups = []
    while parents[number] >= 0:
        state, before = states.all[where[number]], states.all[where[parents[number]]]
        groups.append((state.machine, before.boundary, state.boundary - 1))
        number = int(parents[number])
    return tuple(reversed(groups))
