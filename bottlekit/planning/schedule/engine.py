"""JointDNN's scheduling: the best schedule with any number of switches, exactly, within bounds.

    problem -> states and steps -> shortest path                         no bound, or none that binds
                                -> prices -> label-setting -> schedule   otherwise

The paper writes the same as an integer linear programme (sections 3.3 and 3.4). Among schedules that cost the same,
the one that is better by the other objective is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from itertools import combinations

import numpy as np

from bottlekit.errors import InfeasibleError, PlanError
from bottlekit.planning.schedule.costs import (
    ENERGY,
    LATENCY,
    RESOURCES,
    GroupCosts,
    group_costs_from_problem,
)
from bottlekit.planning.schedule.labels import Search, best_within_bounds
from bottlekit.planning.schedule.multipliers import Relaxation, relaxation, within
from bottlekit.planning.schedule.paths import Path, path_to_end, resources_to_go
from bottlekit.planning.schedule.problem import BOUND_OPTIONS, ScheduleProblem
from bottlekit.planning.schedule.schedule import Schedule, schedule_from_groups
from bottlekit.planning.schedule.shortest import ToGo, costs_from_start, costs_to_go, weighted_tables
from bottlekit.planning.schedule.states import States, states_from_problem

# How far above the lower bound the optimum is looked for, in turns, as a fraction of it; then without limit.
GAPS = (1e-4, 1e-3, 1e-2, 1e-1, float("inf"))
UNITS = {"latency_ms": "ms", "energy_mj": "mJ", "cloud_ms": "ms of cloud time"}

Most = Mapping[int, float]


def schedule_from_problem(problem: ScheduleProblem) -> Schedule:
    """The best schedule of a problem by its objective, within its bounds.

    Raises InfeasibleError, which says which bound cannot be kept and the least value that can be reached, and
    PlanError if no machine can run some layer.
    """
    most = {at: value for at, name in enumerate(RESOURCES) if (value := getattr(problem.bounds, name)) is not None}
    if problem.radio_tail_mj:
        return _with_tail(problem, most)
    return _best(problem, most)


def _with_tail(problem: ScheduleProblem, most: Most) -> Schedule:
    """Using the radio at all costs its tail: the best without it, against the best with that much less energy."""
    everywhere = frozenset(range(problem.count + 1))
    local = dataclasses.replace(problem, fixed_boundaries=everywhere)
    left = {at: value - (problem.radio_tail_mj if at == ENERGY else 0.0) for at, value in most.items()}
    found: list[Schedule] = []
    errors: list[PlanError] = []
    for one, bounds in ((local, most), (problem, left)):
        try:
            found.append(_best(one, bounds))
        except PlanError as error:
            errors.append(error)
    if not found:
        raise errors[-1]
    return min(found, key=lambda schedule: schedule.cost(problem.objective))


def _best(problem: ScheduleProblem, most: Most) -> Schedule:
    solver = _Solver(problem)
    path = solver.best(LATENCY if problem.objective == "latency" else ENERGY, most)
    if path is None:
        raise solver.infeasible(most)
    return schedule_from_groups(problem, path.groups)


class _Solver:
    """The shortest paths and searches over one problem."""

    def __init__(self, problem: ScheduleProblem) -> None:
        self.names = problem.names
        self.states: States = states_from_problem(problem)
        self.groups: GroupCosts = group_costs_from_problem(problem)
        self.by_resource: dict[int, ToGo] = {}

    def shortest(self, weights: tuple[float, ...]) -> tuple[ToGo, Path]:
        """The least weighted sum of resources; PlanError if no way leads to the end at all."""
        to_go = costs_to_go(self.states, weighted_tables(self.groups, weights), weights)
        path = path_to_end(self.states, self.groups, to_go)
        if path is None:
            raise PlanError(f"no schedule exists: {self._stuck} cannot be run by a machine that may run it there")
        return to_go, path

    @cached_property
    def _stuck(self) -> str:
        lonely = [
            name
            for layer, name in enumerate(self.names)
            if not any(self._runs(machine, layer) for machine in range(2))
        ]
        return f"the layer {lonely[0]}" if lonely else "some layer"

    def _runs(self, machine: int, layer: int) -> bool:
        allowed = self.groups.allowed[machine]
        return allowed is None or bool(allowed[: layer + 1, layer:].any())

    def least(self, resource: int) -> ToGo:
        """For each state the least of one resource that is still to come."""
        if resource not in self.by_resource:
            self.by_resource[resource], _ = self.shortest(_only(resource))
        return self.by_resource[resource]

    def best(self, objective: int, most: Most) -> Path | None:
        """The least objective within `most`, and of those with it, the least of the second objective."""
        found = self.optimum(objective, most)
        if found is None:
            return None
        first, search = found
        value = float(first.resources[objective])
        second = ENERGY if objective == LATENCY else LATENCY
        within_both = {**most, objective: value}
        # At a price so high nothing is saved at the first objective's expense: what keeps all bounds is the answer.
        price = 1e6 * max(float(first.resources[second]), 1e-9) / max(value, 1e-9)
        weights = {second: 1.0, objective: price}
        _, priced = self.shortest(tuple(weights.get(at, 0.0) for at in range(len(RESOURCES))))
        if _keeps(priced, within_both):
            return priced
        columns = tuple(dict.fromkeys((second, objective, *most)))
        better = self._search(dataclasses.replace(search, completion=None), columns, within_both, value)
        return first if better is None else better

    def optimum(self, objective: int, most: Most) -> tuple[Path, Search] | None:
        """The least `objective` within `most`, and the search that found it; None if nothing is within."""
        if any(float(self.least(at).cost[0]) > value + within(value) for at, value in most.items()):
            return None
        to_go, path = self.shortest(_only(objective))
        self.by_resource[objective] = to_go
        scale = max(float(path.resources[objective]), 1e-9)
        if _keeps(path, most):
            return path, self._prepared(Relaxation(scale, _only(objective), 0.0, to_go, path))
        others = [(at, value) for at, value in most.items() if at != objective]
        relaxed = relaxation(objective, others, self.shortest, scale)
        # The prices leave the objective's own bound out.
        best = relaxed.best if relaxed.best is not None and _keeps(relaxed.best, most) else None
        upper = most.get(objective, np.inf) if best is None else float(best.resources[objective])
        search = self._prepared(relaxed)
        columns = (objective, *(at for at, _ in others))
        for gap in GAPS:
            limit = min(relaxed.lower + gap * max(abs(relaxed.lower), 1e-6 * scale), upper)
            found = self._search(search, columns, {**most, objective: limit}, limit)
            if found is not None:
                return found, search
            if limit == upper:
                break
        return None if best is None else (best, search)

    def _prepared(self, relaxed: Relaxation) -> Search:
        """What all searches with these prices share."""
        tables = weighted_tables(self.groups, relaxed.weights)
        from_start = costs_from_start(self.states, tables, relaxed.weights)
        completion = resources_to_go(self.states, self.groups, relaxed.to_go)
        return Search(self.states, self.groups, (), {}, {}, relaxed, tables, from_start, np.inf, completion)

    def _search(self, search: Search, columns: tuple[int, ...], most: Most, upper: float) -> Path | None:
        to_go = {at: self.least(at) for at in most}
        return best_within_bounds(
            dataclasses.replace(search, columns=columns, most=most, to_go=to_go, upper=upper)
        )[0]

    def infeasible(self, most: Most) -> InfeasibleError:
        """Which bounds cannot be kept together, the fewest, and how close one comes to each when the others are."""
        for size in range(1, len(most) + 1):
            for chosen in combinations(most, size):
                least = {}
                for resource in chosen:
                    found = self.optimum(resource, {at: most[at] for at in chosen if at != resource})
                    if found is not None:
                        least[RESOURCES[resource]] = float(found[0].resources[resource])
                beyond = {
                    RESOURCES[at]: least[RESOURCES[at]]
                    for at in chosen
                    if RESOURCES[at] in least and least[RESOURCES[at]] > most[at] + within(most[at])
                }
                if len(beyond) == size:
                    return _infeasible({RESOURCES[at]: most[at] for at in chosen}, beyond)
        raise AssertionError("every set of bounds can be kept, and yet no schedule was found")


def _only(resource: int) -> tuple[float, ...]:
    return tuple(1.0 if at == resource else 0.0 for at in range(len(RESOURCES)))


def _keeps(path: Path, most: Most) -> bool:
    return all(path.resources[at] <= value + within(value) for at, value in most.items())


def _infeasible(bounds: Mapping[str, float], least: Mapping[str, float]) -> InfeasibleError:
    words = [f"{BOUND_OPTIONS[name]} {value:g}" for name, value in bounds.items()]
    short = [
        f"{least[name]:.6g} {UNITS[name]}, {least[name] - value:.6g} too much" for name, value in bounds.items()
    ]
    if len(bounds) == 1:
        message = f"no schedule keeps {words[0]}: the least that can be reached is {short[0]}"
    else:
        message = (
            f"no schedule keeps {' and '.join(words)} together: while the others are kept, the least that can be "
            f"reached is {'; '.join(short)}"
        )
    return InfeasibleError(message, dict(least))
