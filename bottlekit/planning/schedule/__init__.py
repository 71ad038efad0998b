"""JointDNN's scheduling engine: layers between a mobile and a cloud, with any number of switches, within bounds."""

from bottlekit.planning.schedule.engine import schedule_from_problem
from bottlekit.planning.schedule.problem import (
    Bounds,
    ScheduleProblem,
    Tensor,
    chain_tensors,
    summed_groups,
    with_skips,
)
from bottlekit.planning.schedule.schedule import (
    Schedule,
    Segment,
    Transfer,
    groups_from_machines,
    schedule_from_groups,
)
from bottlekit.planning.schedule.training import BackwardTimes, training_problem

__all__ = [
    "BackwardTimes",
    "Bounds",
    "Schedule",
    "ScheduleProblem",
    "Segment",
    "Tensor",
    "Transfer",
    "chain_tensors",
    "groups_from_machines",
    "schedule_from_groups",
    "schedule_from_problem",
    "summed_groups",
    "training_problem",
    "with_skips",
]
