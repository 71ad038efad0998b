"""JointDNN's scheduling: the best schedule with any number of switches, exactly, within bounds.

    problem -> states and steps -> shortest path                         no bound, or none that binds
                                -> prices -> label-setting -> schedule   otherwise

The prices (Lagrange's) give a lower bound, and every schedule that is seen on the way an upper one. What cannot
lie between the two is never looked at, so the label-setting begins close to the lower bound and goes higher only as
long as it finds nothing; where many labels are to be expected, from both ends.

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
from bottlekit.planning.schedule.labels import Search
from bottlekit.planning.schedule.meeting import best_within_bounds
from bottlekit.planning.schedule.multipliers import Relaxation, relaxation, within
from bottlekit.planning.schedule.paths import Path, path_to_end, resources_to_go
from bottlekit.planning.schedule.problem import BOUND_OPTIONS, ScheduleProblem, Table
from bottlekit.planning.schedule.schedule import Schedule, schedule_from_groups
from bottlekit.planning.schedule.shortest import Steps, ToGo
from bottlekit.planning.schedule.states import states_from_problem
from bottlekit.planning.schedule.tails import Ahead, ahead_from_search

# How far above the lower bound the optimum is looked for, in turns, as a fraction of it; then without limit.
GAPS = (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2, 1e-1, float("inf"))
# Up to which of them nobody asks whether two bounds can be kept together: asking is a search of its own.
WITHOUT_DOUBT = 5e-3
# Where so many labels are to be expected, the search is from both ends. Their number grows with the distance to the
# lower bound, to a power of about three. With one bound a label takes a fraction of the time.
MANY_LABELS = 35_000
MANY_WITH_ONE_BOUND = 140_000
# What a schedule is allowed to cost more than the least if that makes it better by the other objective.
TIE = 1e-9
UNITS = {"latency_ms": "ms", "energy_mj": "mJ", "cloud_ms": "ms of cloud time"}

Most = Mapping[int, float]
Weights = tuple[float, ...]


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
        self.groups: GroupCosts = group_costs_from_problem(problem)
        self.steps = Steps(states_from_problem(problem), self.groups)
        self.by_resource: dict[int, tuple[ToGo, Path]] = {}
        self.by_question: dict[tuple[tuple[float, ...], tuple[tuple[int, float], ...]], Path | None] = {}

    def shortest(self, weights: Weights) -> tuple[ToGo, Path]:
        """The least weighted sum of resources; PlanError if no way leads to the end at all."""
        to_go = self.steps.to_go(weights)
        path = path_to_end(self.steps, to_go)
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

    def least(self, resource: int) -> tuple[ToGo, Path]:
        """The least of one resource alone, from every state and from the start."""
        if resource not in self.by_resource:
            self.by_resource[resource] = self.shortest(_only(resource))
        return self.by_resource[resource]

    def best(self, objective: int, most: Most) -> Path | None:
        """The least objective within `most`, and of those with it, the least of the second objective."""
        if any(self._beyond(at, value) for at, value in most.items()):
            return None
        first = self.least(objective)[1]
        second = ENERGY if objective == LATENCY else LATENCY
        value, other = (max(float(first.resources[at]), 1e-9) for at in (objective, second))
        if _keeps(first, most):
            # At a price so high nothing is saved at the first objective's expense.
            priced = self.shortest(_weights({objective: 1e6 * other / value, second: 1.0}))[1]
            if _keeps(priced, {**most, objective: float(first.resources[objective])}):
                return priced
        # Whatever the schedule, the second objective's share stays below what sums in floating point are exact to.
        largest = max(-float(self.steps.to_go(_weights({second: -1.0})).cost[0]), 1e-9)
        return self.optimum(_weights({objective: 1.0, second: TIE * value / largest}), most)

    def optimum(self, weights: Weights, most: Most) -> Path | None:
        """The least weighted sum of resources within `most`; None if nothing is within."""
        question = (weights, tuple(sorted(most.items())))
        if question not in self.by_question:
            self.by_question[question] = self._optimum(weights, most)
        return self.by_question[question]

    def _beyond(self, resource: int, most: float) -> bool:
        return float(self.least(resource)[1].resources[resource]) > most + within(most)

    def _optimum(self, weights: Weights, most: Most) -> Path | None:
        if any(self._beyond(at, value) for at, value in most.items()):
            return None
        objective = weights.index(1.0)
        path = self.shortest(weights)[1]
        others = {at: value for at, value in most.items() if at != objective}
        if _keeps(path, most) or not others:
            return path if _keeps(path, most) else None
        known = [path, *(self.least(at)[1] for at in most)]
        relaxed = relaxation(weights, others, self.shortest, self._completed, known)
        best = relaxed.best if relaxed.best is not None and _keeps(relaxed.best, most) else None
        if best is not None:
            upper = float(best.resources @ np.array(weights))
        else:
            # A little above the objective's own bound, which is kept apart: there is the second objective's share.
            upper = most.get(objective, np.inf) * (1 + 1e-6)
        return best if relaxed.lower > upper + within(upper) else self._search(weights, most, relaxed, upper, best)

    def _search(
        self, weights: Weights, most: Most, relaxed: Relaxation, upper: float, best: Path | None
    ) -> Path | None:
        """The optimum between the relaxation's lower bound and `upper`, which `best` reaches if there is one."""
        lower, price = relaxed.lower, relaxed.prices[0]
        compared = [at for at in most if weights[at] != 1.0]
        search = Search(
            steps=self.steps,
            weights=np.array(weights),
            most=most,
            least={at: self.least(at)[0].cost for at in most},
            compared=compared,
            prices=relaxed.prices,
            completions=relaxed.completions,
            reduced=self.steps.reduced_costs(price.weights, price.to_go) + price.constant,
        )
        in_doubt = best is None and len(compared) > 1
        many = MANY_LABELS if len(compared) > 1 else MANY_WITH_ONE_BOUND
        ahead: Ahead | None = None
        labels, before = 0, np.inf
        for gap in GAPS:
            if in_doubt and gap > WITHOUT_DOUBT:
                # Two bounds that can be kept one by one, and no schedule so far: is there any that keeps both?
                first, second = compared
                least = self.optimum(_only(first), {second: most[second]})
                if least is None or not _keeps(least, {first: most[first]}):
                    return None
                in_doubt = False
                if _keeps(least, most) and float(least.resources @ search.weights) < upper:
                    best, upper = least, float(least.resources @ search.weights)
            limit = lower + gap * max(abs(lower), 1e-9)
            if limit + 0.3 * (limit - lower) >= upper:
                limit = upper
            if ahead is None and labels * ((limit - lower) / (before - lower)) ** 3 > many:
                ahead = ahead_from_search(search)
            found = best_within_bounds(search, limit, ahead)
            if found.path is not None:
                return found.path
            if limit >= upper:
                break
            upper = min(upper, found.known)
            in_doubt = in_doubt and found.known == np.inf
            labels, before = found.labels, limit
        return best

    def _completed(self, to_go: ToGo) -> Table:
        return resources_to_go(self.steps, to_go)

    def infeasible(self, most: Most) -> InfeasibleError:
        """Which bounds cannot be kept together, the fewest, and how close one comes to each when the others are."""
        for size in range(1, len(most) + 1):
            for chosen in combinations(most, size):
                least = {}
                for resource in chosen:
                    found = self.optimum(_only(resource), {at: most[at] for at in chosen if at != resource})
                    if found is not None:
                        least[RESOURCES[resource]] = float(found.resources[resource])
                beyond = {
                    RESOURCES[at]: least[RESOURCES[at]]
                    for at in chosen
                    if RESOURCES[at] in least and least[RESOURCES[at]] > most[at] + within(most[at])
                }
                if len(beyond) == size:
                    return _infeasible({RESOURCES[at]: most[at] for at in chosen}, beyond)
        raise AssertionError("every set of bounds can be kept, and yet no schedule was found")


def _weights(chosen: Mapping[int, float]) -> Weights:
    return tuple(chosen.get(at, 0.0) for at in range(len(RESOURCES)))


def _only(resource: int) -> Weights:
    return _weights({resource: 1.0})


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
