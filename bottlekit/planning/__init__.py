"""Pure functions over specs and profiles: links, energy, Algorithm 1. No I/O, no clock."""

from bottlekit.planning.candidates import Candidate, candidates_from_profile
from bottlekit.planning.energy import TX2_POWER_MW
from bottlekit.planning.links import LINKS, link_from_name
from bottlekit.planning.plan import plan_from_profile
from bottlekit.planning.selection import OBJECTIVES, Choice, rank

__all__ = [
    "LINKS",
    "OBJECTIVES",
    "TX2_POWER_MW",
    "Candidate",
    "Choice",
    "candidates_from_profile",
    "link_from_name",
    "plan_from_profile",
    "rank",
]
