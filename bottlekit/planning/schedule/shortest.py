"""Shortest paths over the states for one cost, a weighted sum of resources: O(n^2), a row of a table at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bottlekit.planning.schedule.costs import CLOUD, MOBILE, GroupCosts, Vector
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.states import States

INFINITY = float("inf")


@dataclasses.dataclass(frozen=True)
class ToGo:
    """For each state the least cost from there to the end, and the step that begins it.

    `machine[s]` is who works next and `until[s]` up to which boundary; -1 at the end, and where no way leads there.
    `sending[s]` is the row of `Steps.sendings` that is paid before.
    """

    cost: Vector
    machine: Sequence[int]
    until: Sequence[int]
    target: Sequence[int]
    sending: Sequence[int]


@dataclasses.dataclass(frozen=True)
class FromStart:
    """The least cost from the start.

    `cost` (states,): to be in a state before boundary n. `entering` (2, n): to be at a boundary with all that a
    machine needs for a far step from there.
    """

    cost: Vector
    entering: Table


class Steps:
    """The states and steps of a problem as arrays, to be walked again and again with other weights.

    `sendings` (k, 3): the cost of what is sent, in this order: before the far steps of every state on either
    machine, at the end in every state, and before every near step. `near_costs` (near steps, 3): with their groups.
    """

    def __init__(self, states: States, groups: GroupCosts) -> None:
        self.states, self.groups = states, groups
        self.count = groups.shape[0]
        total = len(states.all)
        near = [(state, step) for state in states.all for step in state.near]
        rows: list[Vector | None] = [sending for state in states.all for sending in state.far_sending]
        rows += [state.end_sending for state in states.all]
        rows += [step.sending for _, step in near]
        nothing = np.zeros(3)
        self.sendings: Table = np.array([nothing if row is None else row for row in rows])
        self.impossible = np.array([row is None for row in rows])
        self.near_begin = [0, *np.cumsum([len(state.near) for state in states.all]).tolist()]
        self.near_target = [step.target for _, step in near]
        self.first_end, self.first_near = 2 * total, 3 * total
        machine = np.array([step.machine for _, step in near], dtype=np.intp)
        first = np.array([state.boundary for state, _ in near], dtype=np.intp)
        last = np.array([step.until - 1 for _, step in near], dtype=np.intp)
        self.near_costs: Table = self.sendings[self.first_near :] + groups.of_many(machine, first, last)
        for worker, allowed in enumerate(groups.allowed):
            if allowed is not None:
                forbidden = (machine == worker) & ~allowed[first, last]
                self.impossible[self.first_near :] |= forbidden
        self._near = [(step.machine, step.until) for _, step in near]
        self._tables = np.empty((2, self.count, self.count))
        self._scratch = np.empty((self.count, self.count))

    def near_steps(self, number: int) -> range:
        """The near steps that begin in a state, by number."""
        return range(self.near_begin[number], self.near_begin[number + 1])

    def near_machine(self, step: int) -> int:
        """Who works in a near step."""
        return self._near[step][0]

    def far(self, number: int, machine: int) -> Vector | None:
        """What is sent before a far step of state `number`; None if the work may not move."""
        return self.states.all[number].far_sending[machine]

    def to_go(self, weights: Sequence[float]) -> ToGo:
        """The least cost from every state to the end, backwards. Of equal steps the farthest is taken."""
        states, count, total = self.states, self.count, len(self.states.all)
        tables = self._weighted(weights)
        sending, near = self._weighted_steps(weights)
        cost = [INFINITY] * total
        machine, until, target, before = [-1] * total, [-1] * total, [-1] * total, [-1] * total
        # The settled states' costs as rows, to be added to rows of the tables.
        settled = np.full((2, count + 1), INFINITY)
        for boundary in range(count, -1, -1):
            horizon = states.horizon[boundary]
            far: list[tuple[int, float, int]] = []
            if horizon <= count:
                rows = tables[:, boundary, horizon - 1 :] + settled[:, horizon:]
                # The last of equals: one large group rather than many small ones.
                ends = (rows.shape[1] - 1 - rows[:, ::-1].argmin(axis=1)).tolist()
                far = [(worker, float(rows[worker, at]), horizon + at) for worker, at in enumerate(ends)]
            for number in states.at[boundary]:
                best = sending[self.first_end + number]
                for worker, row_cost, row_until in far:
                    value = sending[2 * number + worker] + row_cost
                    if value < best:
                        best, machine[number], until[number] = value, worker, row_until
                        target[number], before[number] = states.settled[worker][row_until], 2 * number + worker
                for step in self.near_steps(number):
                    value = near[step] + cost[self.near_target[step]]
                    if value < best:
                        best, (machine[number], until[number]) = value, self._near[step]
                        target[number], before[number] = self.near_target[step], self.first_near + step
                cost[number] = best
            if boundary:
                settled[:, boundary] = [cost[states.settled[worker][boundary]] for worker in (MOBILE, CLOUD)]
        return ToGo(np.array(cost), machine, until, target, before)

    def reduced_costs(self, weights: Sequence[float], to_go: ToGo) -> Table:
        """(2, n, n): the least cost of a schedule with a far step of machine m and group i..j; else infinity."""
        states, count = self.states, self.count
        tables = self._weighted(weights)
        entering = self._forwards(weights, tables).entering
        settled = np.array([to_go.cost[list(numbers)] for numbers in states.settled])
        reduced: Table = tables + entering[:, :, None]
        reduced += settled[:, None, 1:]
        for boundary in range(count):
            reduced[:, boundary, : states.horizon[boundary] - 1] = INFINITY
        return reduced

    def from_start(self, weights: Sequence[float]) -> FromStart:
        """The least cost from the start to everywhere."""
        return self._forwards(weights, self._weighted(weights))

    def _forwards(self, weights: Sequence[float], tables: Table) -> FromStart:
        states, count = self.states, self.count
        sending, near = self._weighted_steps(weights)
        cost = [INFINITY] * len(states.all)
        cost[0] = 0.0
        settled = np.full((2, count + 1), INFINITY)
        entering = np.full((2, count), INFINITY)
        for boundary in range(count):
            if boundary:
                for worker in (MOBILE, CLOUD):
                    number = states.settled[worker][boundary]
                    cost[number] = min(cost[number], float(settled[worker, boundary]))
            here = states.at[boundary]
            for worker in (MOBILE, CLOUD):
                entering[worker, boundary] = min(cost[number] + sending[2 * number + worker] for number in here)
            horizon = states.horizon[boundary]
            if horizon <= count:
                rows = tables[:, boundary, horizon - 1 :] + entering[:, boundary, None]
                np.minimum(settled[:, horizon:], rows, out=settled[:, horizon:])
            for number in here:
                for step in self.near_steps(number):
                    target = self.near_target[step]
                    cost[target] = min(cost[target], cost[number] + near[step])
        return FromStart(np.array(cost), entering)

    def _weighted(self, weights: Sequence[float]) -> Table:
        """(2, n, n): the groups' one cost; the same memory every time."""
        for machine in (MOBILE, CLOUD):
            self.groups.weighted(machine, weights, self._tables[machine], self._scratch)
        return self._tables

    def _weighted_steps(self, weights: Sequence[float]) -> tuple[list[float], list[float]]:
        """One cost of every sending, and of every near step with its group; infinity where there is none."""
        sending = self.sendings @ np.array(weights)
        near = self.near_costs @ np.array(weights)
        sending[self.impossible] = INFINITY
        near[self.impossible[self.first_near :]] = INFINITY
        return sending.tolist(), near.tolist()
