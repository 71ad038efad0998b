"""The field beside JointDNN's engine: other ways to place layers, on the same problem, to compare with.

    mobile-only, cloud-only   no choice at all
    single-cut                the best of n + 1 cuts: mobile first, then cloud (Neurosurgeon, Kang et al. 2017)
    min-cut                   a minimum cut of the graph of layers (DADS, Hu et al. 2019)
    exhaustive                every placement of up to two switches (Scission, Lockhart et al. 2020)
    jointdnn                  any number of switches (bottlekit.planning.schedule)

Each gives a Schedule, whose costs are those of the problem, whatever the planner believed.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from bottlekit.planning.planners.exhaustive import exhaustive
from bottlekit.planning.planners.min_cut import min_cut
from bottlekit.planning.planners.regression import LayerRegression, LayerShape
from bottlekit.planning.planners.single_cut import cloud_only, mobile_only, single_cut
from bottlekit.planning.schedule import Schedule, ScheduleProblem, schedule_from_problem

PLANNERS: Mapping[str, Callable[[ScheduleProblem], Schedule]] = MappingProxyType(
    {
        "mobile-only": mobile_only,
        "cloud-only": cloud_only,
        "single-cut": single_cut,
        "min-cut": min_cut,
        "exhaustive": exhaustive,
        "jointdnn": schedule_from_problem,
    }
)

__all__ = [
    "PLANNERS",
    "LayerRegression",
    "LayerShape",
    "cloud_only",
    "exhaustive",
    "min_cut",
    "mobile_only",
    "single_cut",
]
