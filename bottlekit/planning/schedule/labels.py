"""Label-setting: the exact search under bounds, as a resource-constrained shortest path.

    label    a way from the start to a state, with its resources

At each state only the labels stay that no other one undercuts in everything (Pareto). A label is dropped as soon
as what is surely still to come breaks a bound, or, with any of Lagrange's prices, costs more than `upper`; before
that, so is every step that no label can use. Every label is also completed by the ways that the prices know to the
end, which lowers `upper`. The states are visited in the order of their boundaries, so every label is final when it
is extended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bottlekit.planning.schedule.costs import CLOUD, MOBILE, GroupCosts, Ints, Vector
from bottlekit.planning.schedule.multipliers import Price, within
from bottlekit.planning.schedule.pareto import pareto_rows
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.shortest import Steps


@dataclasses.dataclass(frozen=True)
class Search:
    """What the search is given.

    `weights`: of the resources in the objective. `most[resource]`: the bounds; `least[resource]`: (states,), the
    least still to come of each. `compared`: the bounded resources that the objective does not hold already.
    `prices`: what no schedule within the bounds can undercut, from each state. `completions` (few, states, 3): what
    known ways to the end cost. `reduced` (2, n, n): the first price for every far step.
    """

    steps: Steps
    weights: Vector
    most: Mapping[int, float]
    least: Mapping[int, Vector]
    compared: Sequence[int]
    prices: Sequence[Price]
    completions: Table
    reduced: Table


class Labels:
    """All labels ever kept, for the way back, and those that wait at the states; visited boundary by boundary."""

    def __init__(self, search: Search, upper: float) -> None:
        self.search, self.upper, self.known = search, upper, float("inf")
        self.parent: list[Ints] = [np.array([-1])]
        self.state: list[Ints] = [np.array([0])]
        self.kept = 1
        count = len(search.steps.states.all)
        self.waiting: list[list[tuple[Table, Ints]]] = [[] for _ in range(count)]
        # One column for each thing that a label can fail: a price, then a bound.
        axes = np.eye(3)
        self.measures = np.array([*(price.weights for price in search.prices), *(axes[at] for at in search.most)]).T
        self.to_come = np.array(
            [
                *(price.to_go.cost + price.constant for price in search.prices),
                *(search.least[at] for at in search.most),
            ]
        ).T
        self.limits = np.array(
            [np.inf] * len(search.prices) + [most + within(most) for most in search.most.values()]
        )
        self._arriving = _steps_of_use(search, upper)
        # For each machine and boundary the labels that may take a far step there, what they lack already sent.
        self._entered: tuple[list[tuple[Table, Ints] | None], ...] = ([], [])
        # How many labels stayed at the boundary that was visited last.
        self.size = 0
        self._lower(upper)

    def _lower(self, upper: float) -> None:
        self.upper = upper
        self.limits[: len(self.search.prices)] = upper + within(upper)

    def visit(self, boundary: int) -> None:
        """Take in what arrived at a boundary's states, and send it on."""
        steps, self.size = self.search.steps, 0
        entering: tuple[list[tuple[Table, Ints]], ...] = ([], [])
        for number in steps.states.at[boundary]:
            values, numbers = self.arrived(number) if number else (np.zeros((1, 3)), np.zeros(1, dtype=np.intp))
            self.size += len(values)
            if not len(values):
                continue
            for worker in (MOBILE, CLOUD):
                sending = steps.far(number, worker)
                if sending is not None:
                    entering[worker].append((values + sending, numbers))
            for step in steps.near_steps(number):
                if not steps.impossible[steps.first_near + step]:
                    self.waiting[steps.near_target[step]].append((values + steps.near_costs[step], numbers))
        for worker in (MOBILE, CLOUD):
            self._entered[worker].append(self._together(entering[worker]))

    def arrived(self, number: int) -> tuple[Table, Ints]:
        """The labels that reach a state from the boundaries that were visited: values (m, 3), and their numbers."""
        state = self.search.steps.states.all[number]
        machine, boundary = state.machine, state.boundary
        far = []
        if number == self.search.steps.states.settled[machine][boundary]:
            groups, entered = self.search.steps.groups, self._entered[machine]
            far = _far_labels(entered, self._arriving[machine][boundary], groups, machine, boundary)
        return self._take(number, far)

    def _together(self, entering: list[tuple[Table, Ints]]) -> tuple[Table, Ints] | None:
        if len(entering) < 2:
            return entering[0] if entering else None
        values = np.concatenate([one for one, _ in entering])
        numbers = np.concatenate([one for _, one in entering])
        rows = pareto(self.search, values)
        return values[rows], numbers[rows]

    def way(self, number: int) -> tuple[tuple[int, int, int], ...]:
        """The groups of a label: (machine, first layer, last layer)."""
        parents, where = np.concatenate(self.parent), np.concatenate(self.state)
        states, groups = self.search.steps.states.all, []
        while parents[number] >= 0:
            state, before = states[where[number]], states[where[parents[number]]]
            groups.append((state.machine, before.boundary, state.boundary - 1))
            number = int(parents[number])
        return tuple(reversed(groups))

    def _take(self, number: int, arrived: list[tuple[Table, Ints]]) -> tuple[Table, Ints]:
        """The labels that reached state `number`, only those of use; they get their numbers now."""
        arrived = [*arrived, *self.waiting[number]]
        self.waiting[number] = []
        if not arrived:
            return np.zeros((0, 3)), np.zeros(0, dtype=np.intp)
        values = np.concatenate([one for one, _ in arrived])
        useful = (values @ self.measures + self.to_come[number] <= self.limits).all(axis=1)
        values = values[useful]
        if not len(values):
            return values, np.zeros(0, dtype=np.intp)
        parents = np.concatenate([one for _, one in arrived])[useful]
        rows = pareto(self.search, values)
        values, parents = values[rows], parents[rows]
        self._complete(values, number)
        self.parent.append(parents)
        self.state.append(np.full(len(rows), number))
        numbers = np.arange(self.kept, self.kept + len(rows))
        self.kept += len(rows)
        return values, numbers

    def _complete(self, values: Table, number: int) -> None:
        """Lower `upper` to the best of these labels with a known way to the end that keeps the bounds."""
        search = self.search
        whole = (values[None, :, :] + search.completions[:, None, number, :]).reshape(-1, 3)
        objective = whole @ search.weights
        for resource, most in search.most.items():
            objective[whole[:, resource] > most + within(most)] = np.inf
        best = float(objective.min())
        if best < self.known:
            self.known = best
            if best < self.upper:
                self._lower(best)


def pareto(search: Search, values: Table) -> Ints:
    """The rows that nothing undercuts in the objective and all bounded resources."""
    if len(values) == 1:
        return np.zeros(1, dtype=np.intp)
    return pareto_rows(np.column_stack([values @ search.weights, values[:, search.compared]]))


def _far_labels(
    entered: Sequence[tuple[Table, Ints] | None], firsts: Ints, groups: GroupCosts, machine: int, boundary: int
) -> list[tuple[Table, Ints]]:
    """The labels that far steps bring to a boundary, from the boundaries `firsts`."""
    begun = firsts[firsts < len(entered)].tolist()
    found = [(first, labels) for first in begun if (labels := entered[first]) is not None]
    if not found:
        return []
    costs = groups.of(machine, np.array([first for first, _ in found]), boundary - 1).T
    values = np.concatenate([values for _, (values, _) in found])
    values += np.repeat(costs, [len(numbers) for _, (_, numbers) in found], axis=0)
    return [(values, np.concatenate([numbers for _, (_, numbers) in found]))]


def _steps_of_use(search: Search, upper: float) -> tuple[list[Ints], list[Ints]]:
    """For each machine and boundary, where far steps begin that end there and a schedule up to `upper` may have."""
    result = []
    for reduced in search.reduced:
        first, last = np.nonzero((reduced <= upper + within(upper)) & np.isfinite(reduced))
        order = np.argsort(last, kind="stable")
        ends = np.searchsorted(last[order], np.arange(search.steps.count + 1))
        result.append([np.zeros(0, dtype=np.intp), *np.split(first[order], ends[1:])[: search.steps.count]])
    return result[MOBILE], result[CLOUD]
