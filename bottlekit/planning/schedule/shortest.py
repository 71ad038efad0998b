"""Shortest paths over the states for one cost, a weighted sum of resources: O(n^2), a row of a table at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bottlekit.planning.schedule.costs import CLOUD, MOBILE, GroupCosts, Vector
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.states import State, States


@dataclasses.dataclass(frozen=True)
class ToGo:
    """For each state the least cost from there to the end, and the step that begins it.

    `machine[s]` is who works next and `until[s]` up to which boundary; -1 at the end, and where no way leads there.
    """

    cost: Vector
    machine: tuple[int, ...]
    until: tuple[int, ...]
    target: tuple[int, ...]


def sending_weighted(sending: Vector | None, weights: Sequence[float]) -> float:
    """One number for what is sent; infinity where the work may not move."""
    return float("inf") if sending is None else float(np.dot(sending, weights))


def weighted_tables(groups: GroupCosts, weights: Sequence[float]) -> tuple[Table, Table]:
    """(n, n) for each machine: the groups' one cost."""
    return groups.weighted(MOBILE, weights), groups.weighted(CLOUD, weights)


def costs_to_go(states: States, tables: tuple[Table, Table], weights: Sequence[float]) -> ToGo:
    """The least cost from every state to the end, backwards from there. Of equal steps the farthest is taken."""
    count = tables[MOBILE].shape[0]
    total = len(states.all)
    cost = np.full(total, np.inf)
    machine, until, target = [-1] * total, [-1] * total, [-1] * total
    # The settled states' costs as rows, to be added to rows of the tables.
    settled = (np.full(count + 1, np.inf), np.full(count + 1, np.inf))
    for boundary in range(count, -1, -1):
        far = _far_rows(states, tables, settled, boundary)
        for number in states.at[boundary]:
            state = states.all[number]
            best = sending_weighted(state.end_sending, weights)
            for worker, (row_cost, row_until) in enumerate(far):
                value = sending_weighted(state.far_sending[worker], weights) + row_cost
                if value < best:
                    best = value
                    machine[number], until[number] = worker, row_until
                    target[number] = states.settled[worker][row_until]
            for step in state.near:
                value = (
                    sending_weighted(step.sending, weights)
                    + float(tables[step.machine][boundary, step.until - 1])
                    + cost[step.target]
                )
                if value < best:
                    best = value
                    machine[number], until[number], target[number] = step.machine, step.until, step.target
            cost[number] = best
        if boundary:
            for worker in (MOBILE, CLOUD):
                settled[worker][boundary] = cost[states.settled[worker][boundary]]
    return ToGo(cost, tuple(machine), tuple(until), tuple(target))


def _far_rows(
    states: States, tables: tuple[Table, Table], settled: tuple[Vector, Vector], boundary: int
) -> list[tuple[float, int]]:
    """For each machine the cheapest far step from `boundary` with what follows it, and where it ends."""
    count = tables[MOBILE].shape[0]
    horizon = states.horizon[boundary]
    if horizon > count:
        return []
    rows = []
    for worker in (MOBILE, CLOUD):
        row = tables[worker][boundary, horizon - 1 :] + settled[worker][horizon:]
        # The last of equals: one large group rather than many small ones.
        at = len(row) - 1 - int(row[::-1].argmin())
        rows.append((float(row[at]), horizon + at))
    return rows


def costs_from_start(states: States, tables: tuple[Table, Table], weights: Sequence[float]) -> Vector:
    """The least cost from the start to every state, forwards."""
    count = tables[MOBILE].shape[0]
    cost = np.full(len(states.all), np.inf)
    cost[0] = 0.0
    settled = (np.full(count + 1, np.inf), np.full(count + 1, np.inf))
    for boundary in range(count):
        if boundary:
            for worker in (MOBILE, CLOUD):
                number = states.settled[worker][boundary]
                cost[number] = min(cost[number], settled[worker][boundary])
        horizon = states.horizon[boundary]
        for worker in (MOBILE, CLOUD):
            entering = min(
                entering_cost(states.all[number], worker, cost[number], weights) for number in states.at[boundary]
            )
            if horizon <= count and entering < np.inf:
                row = tables[worker][boundary, horizon - 1 :] + entering
                np.minimum(settled[worker][horizon:], row, out=settled[worker][horizon:])
        for number in states.at[boundary]:
            for step in states.all[number].near:
                value = (
                    cost[number]
                    + sending_weighted(step.sending, weights)
                    + float(tables[step.machine][boundary, step.until - 1])
                )
                cost[step.target] = min(cost[step.target], value)
    for worker in (MOBILE, CLOUD):
        number = states.settled[worker][count]
        cost[number] = min(cost[number], settled[worker][count])
    return cost


def entering_cost(state: State, worker: int, cost: float, weights: Sequence[float]) -> float:
    """The cost of being at a state with all that `worker` needs for a far step."""
    return float(cost) + sending_weighted(state.far_sending[worker], weights)
