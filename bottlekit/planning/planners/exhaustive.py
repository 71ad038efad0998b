"""Scission (Lockhart et al. 2020): everything was measured, so enumerate the placements and ask for the best.

    mobile 0..a-1 | cloud a..b-1 | mobile b..n-1       for all 0 <= a <= b <= n

Bounds are its queries. Up to two switches, as Scission's pipelines do not come back to a machine more than once.
"""

from __future__ import annotations

from collections.abc import Iterator

from bottlekit.errors import PlanError
from bottlekit.planning.planners.placement import why_not
from bottlekit.planning.schedule import Schedule, ScheduleProblem, schedule_from_groups
from bottlekit.planning.schedule.costs import CLOUD, MOBILE

MOST_LAYERS = 200


def exhaustive(problem: ScheduleProblem) -> Schedule:
    """The best of the placements that can run and keep the bounds. O(n^3): PlanError beyond 200 layers."""
    if problem.count > MOST_LAYERS:
        raise PlanError(
            f"exhaustive enumerates up to {MOST_LAYERS} layers, not {problem.count}; jointdnn has no limit"
        )
    best: Schedule | None = None
    for groups in placements(problem.count):
        schedule = schedule_from_groups(problem, groups)
        better = best is None or schedule.cost(problem.objective) < best.cost(problem.objective)
        if better and not why_not(problem, schedule):
            best = schedule
    if best is None:
        raise PlanError("exhaustive has no schedule: no placement keeps the bounds; --planner jointdnn has more")
    return best


def placements(count: int) -> Iterator[list[tuple[int, int, int]]]:
    """Every (machine, first, last) cover with the cloud's layers in one piece; mobile-only once."""
    yield [(MOBILE, 0, count - 1)]
    for begin in range(count):
        for end in range(begin + 1, count + 1):
            groups = [(MOBILE, 0, begin - 1), (CLOUD, begin, end - 1), (MOBILE, end, count - 1)]
            yield [group for group in groups if group[1] <= group[2]]
