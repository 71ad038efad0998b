"""Labels from the other side: ways from a state to the end, that no other one undercuts in everything.

They meet the labels from the start somewhere in the middle: two halves have far fewer labels than one whole.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bottlekit.planning.schedule.costs import CLOUD, MOBILE, Ints, Vector
from bottlekit.planning.schedule.labels import Search, pareto
from bottlekit.planning.schedule.multipliers import within
from bottlekit.planning.schedule.problem import Table

# Prices that a tail can fail at: each needs a shortest path from the start.
MOST_PRICES = 8


@dataclasses.dataclass(frozen=True)
class Ahead:
    """What every tail costs at least before it begins, a column for each price and each bound.

    `cost` (states, k), `entering` (2, n, k), `measures` (3, k): the weights of the resources in each column.
    """

    cost: Table
    entering: Table
    measures: Table


def ahead_from_search(search: Search) -> Ahead:
    """The least costs from the start."""
    axes = np.eye(3)
    prices = search.prices[:MOST_PRICES]
    weights = [*(np.array(price.weights) for price in prices), *(axes[at] for at in search.most)]
    constants = [*(price.constant for price in prices), *(0.0 for _ in search.most)]
    found = [search.steps.from_start(one.tolist()) for one in weights]
    return Ahead(
        np.stack([one.cost + more for one, more in zip(found, constants, strict=True)], axis=-1),
        np.stack([one.entering + more for one, more in zip(found, constants, strict=True)], axis=-1),
        np.array(weights).T,
    )


@dataclasses.dataclass(frozen=True)
class Tail:
    """Ways to the end: `values` (m, 3); the first step's machine, the state it leads to, and which tail of that."""

    values: Table
    machine: Ints
    target: Ints
    row: Ints


class Tails:
    """The tails of all states, from the last boundary on backwards. Those of boundary n are there at once."""

    def __init__(self, search: Search, upper: float, ahead: Ahead | None) -> None:
        self.search, self._ahead, self._upper = search, ahead, upper
        steps = search.steps
        nothing = np.array([-1])
        self.of: dict[int, Tail] = {
            number: Tail(steps.sendings[steps.first_end + number][None], nothing, nothing, nothing)
            for number in steps.states.at[steps.count]
        }
        self.size = len(self.of)
        # Far steps of use, by where they begin.
        self._leaving = [(reduced <= upper + within(upper)) & np.isfinite(reduced) for reduced in search.reduced]

    def visit(self, boundary: int) -> None:
        """Find the tails that begin at a boundary; those behind it are known."""
        assert self._ahead is not None
        steps, self.size = self.search.steps, 0
        far = [self._far(worker, boundary) for worker in (MOBILE, CLOUD)]
        for number in steps.states.at[boundary]:
            found = []
            for worker in (MOBILE, CLOUD):
                sending, tail = steps.far(number, worker), far[worker]
                if sending is not None and tail is not None:
                    found.append(dataclasses.replace(tail, values=tail.values + sending))
            for step in steps.near_steps(number):
                target = steps.near_target[step]
                if target in self.of and not steps.impossible[steps.first_near + step]:
                    values = self.of[target].values + steps.near_costs[step]
                    found.append(_tail(values, steps.near_machine(step), target))
            best = self._best(found, self._ahead.cost[number])
            if best is not None:
                self.of[number] = best
                self.size += len(best.values)

    def way(self, number: int, row: int) -> tuple[tuple[int, int, int], ...]:
        """The groups of a tail: (machine, first layer, last layer)."""
        groups, states = [], self.search.steps.states.all
        while (tail := self.of[number]).machine[row] >= 0:
            target = int(tail.target[row])
            groups.append((int(tail.machine[row]), states[number].boundary, states[target].boundary - 1))
            number, row = target, int(tail.row[row])
        return tuple(groups)

    def _far(self, worker: int, boundary: int) -> Tail | None:
        """The tails that begin with a far step of a machine that has all it needs."""
        assert self._ahead is not None
        steps = self.search.steps
        settled = steps.states.settled[worker]
        lasts = [
            last
            for last in np.flatnonzero(self._leaving[worker][boundary]).tolist()
            if settled[last + 1] in self.of
        ]
        if not lasts:
            return None
        targets = [settled[last + 1] for last in lasts]
        counts = [len(self.of[target].values) for target in targets]
        costs = steps.groups.of_many(np.full(len(lasts), worker), np.full(len(lasts), boundary), np.array(lasts))
        values = np.concatenate([self.of[target].values for target in targets]) + np.repeat(costs, counts, axis=0)
        row = np.concatenate([np.arange(count) for count in counts])
        far = Tail(values, np.full(len(row), worker), np.repeat(targets, counts), row)
        return self._best([far], self._ahead.entering[worker, boundary])

    def _best(self, found: list[Tail], ahead: Vector) -> Tail | None:
        """Those of use: within the bounds and `upper` with the least that comes before, and undercut by none."""
        if not found:
            return None
        assert self._ahead is not None
        search = self.search
        limits = [most + within(most) for most in search.most.values()]
        prices = self._ahead.measures.shape[1] - len(limits)
        limits = [self._upper + within(self._upper)] * prices + limits
        values = np.concatenate([one.values for one in found])
        rows = np.flatnonzero((values @ self._ahead.measures + ahead <= limits).all(axis=1))
        if not len(rows):
            return None
        rows = rows[pareto(search, values[rows])]
        machine, target, row = (
            np.concatenate([getattr(one, name) for one in found])[rows] for name in ("machine", "target", "row")
        )
        return Tail(values[rows], machine, target, row)


def _tail(values: Table, machine: int, target: int) -> Tail:
    count = len(values)
    return Tail(values, np.full(count, machine), np.full(count, target), np.arange(count))
