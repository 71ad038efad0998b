"""What every planner does at its end: a placement becomes a schedule that can run and keeps the bounds."""

from __future__ import annotations

from collections.abc import Sequence

from bottlekit.errors import PlanError
from bottlekit.planning.schedule import Schedule, ScheduleProblem, groups_from_machines, schedule_from_groups
from bottlekit.planning.schedule.problem import BOUND_OPTIONS

# Sums in floating point are not exact.
SLACK = 1.0 + 1e-9


def schedule_from_placement(problem: ScheduleProblem, machines: Sequence[int], planner: str) -> Schedule:
    """The schedule of one group for each run of layers on one machine (0 the mobile, 1 the cloud).

    PlanError if a machine cannot run its group, if a switch is where none may be, or if a bound is not kept.
    """
    schedule = schedule_from_groups(problem, groups_from_machines(machines))
    why = why_not(problem, schedule)
    if why:
        raise PlanError(f"{planner} has no schedule: {why}; --planner jointdnn looks for one with more switches")
    return schedule


def why_not(problem: ScheduleProblem, schedule: Schedule) -> str:
    """Why a schedule cannot be used, or nothing."""
    before = "mobile"
    for segment in schedule.segments:
        if segment.ms == float("inf"):
            layers = f"{problem.names[segment.first]}..{problem.names[segment.last]}"
            return f"the {segment.machine} cannot run the layers {layers}"
        if segment.machine != before and segment.first in problem.fixed_boundaries:
            return f"no switch may be at boundary {segment.first}"
        before = segment.machine
    for name, option in BOUND_OPTIONS.items():
        bound = getattr(problem.bounds, name)
        value = getattr(schedule, name)
        if bound is not None and value > bound * SLACK:
            return f"{option} {bound:g} is not kept: its {name} is {value:.6g}, {value - bound:.6g} too much"
    return ""
