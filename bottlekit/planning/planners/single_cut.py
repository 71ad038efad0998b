"""One cut: the first layers on the mobile, the rest on the cloud (Neurosurgeon), and the two ways without any."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bottlekit.errors import PlanError
from bottlekit.planning.planners.placement import SLACK, schedule_from_placement
from bottlekit.planning.schedule import Schedule, ScheduleProblem
from bottlekit.planning.schedule.costs import (
    CLOUD,
    MOBILE,
    RESOURCES,
    group_costs_from_problem,
    sending_from_problem,
)

Array = npt.NDArray[np.float64]


def mobile_only(problem: ScheduleProblem) -> Schedule:
    """All layers as one group on the mobile."""
    return schedule_from_placement(problem, [MOBILE] * problem.count, "mobile-only")


def cloud_only(problem: ScheduleProblem) -> Schedule:
    """The input to the cloud, the result back."""
    return schedule_from_placement(problem, [CLOUD] * problem.count, "cloud-only")


def single_cut(problem: ScheduleProblem, believed: ScheduleProblem | None = None) -> Schedule:
    """The best of the n + 1 cuts within the bounds, mobile-only and cloud-only among them. O(n).

    `believed`: what the planner takes the problem for, such as one of predicted times (Neurosurgeon's regression);
    the schedule's costs are those of `problem` itself.
    """
    guess = problem if believed is None else believed
    costs = cut_costs(guess)
    allowed = np.isfinite(costs[0])
    for resource, name in enumerate(RESOURCES):
        bound = getattr(guess.bounds, name)
        if bound is not None:
            allowed &= costs[resource] <= bound * SLACK
    if not allowed.any():
        raise PlanError("single-cut has no schedule: no cut keeps the bounds; --planner jointdnn looks for others")
    objective = np.where(allowed, costs[0 if guess.objective == "latency" else 1], np.inf)
    cut = int(objective.argmin())
    machines = [MOBILE] * cut + [CLOUD] * (problem.count - cut)
    return schedule_from_placement(problem, machines, "single-cut")


def cut_costs(problem: ScheduleProblem) -> Array:
    """(3, n + 1): latency, energy and cloud time of each cut k: layers before k on the mobile, the others not.

    Latency is infinity where a cut cannot be.
    """
    count = problem.count
    groups, sending = group_costs_from_problem(problem), sending_from_problem(problem)
    # Up go the tensors made before the cut that are read behind it; down, those made behind it that are the result.
    steps, down = np.zeros(count + 2), np.zeros(count + 2)
    results = [tensor.source for tensor in problem.tensors if count in tensor.readers]
    for tensor in problem.tensors:
        layers = [reader for reader in tensor.readers if reader < count]
        if layers:
            steps[tensor.source] += tensor.upload_bytes
            steps[max(layers) + 1] -= tensor.upload_bytes
        if count in tensor.readers:
            down[: tensor.source] += tensor.download_bytes
    up = np.cumsum(steps)
    costs = np.zeros((3, count + 1))
    for cut in range(count + 1):
        if cut:
            costs[:, cut] += groups.costs(MOBILE, 0, cut - 1)
        if cut < count:
            costs[:, cut] += groups.costs(CLOUD, cut, count - 1)
            costs[:, cut] += sending.cost_of_bytes(CLOUD, float(up[cut]), switches=True)
            if cut in problem.fixed_boundaries:
                costs[0, cut] = np.inf
            comes_back = max(results, default=0) > cut
            costs[:, cut] += sending.cost_of_bytes(MOBILE, float(down[cut]), switches=comes_back)
            costs[1, cut] += problem.radio_tail_mj
    return costs
