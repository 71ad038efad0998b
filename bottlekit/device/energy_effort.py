"""How long energy is measured: every duration of the protocol in one place."""

from typing import NamedTuple

from .confidence import CONFIDENCE
from .errors import UsageError


class EnergyEffort(NamedTuple):
    """How long the parts of an energy measurement take. Seconds, unless the name says otherwise.

    idle            before and after, with the engine loaded and the sampler running; `settle_s` before the second
    warm-up         at least `warm_up_s`, until three windows of `window_s` agree, `warm_up_max_s` at most
    `repeats` runs  of max(`run_s`, `run_refreshes` refreshes of the sensor, `run_inferences`), longer where the
                    sensor gave fewer than `min_readings` distinct readings, `run_max_s` at most

    A run is made of blocks of `block_s`; a sensor that shows power is waited for 0..`gap_max_s` between them.
    `indicative` measurements are too short for a table, and say so.
    """

    idle_s: float = 30.0
    settle_s: float = 5.0
    warm_up_s: float = 10.0
    window_s: float = 5.0
    warm_up_max_s: float = 120.0
    repeats: int = 5
    run_s: float = 60.0
    run_refreshes: int = 200
    run_inferences: int = 1000
    run_max_s: float = 600.0
    min_readings: int = 100
    block_s: float = 0.1
    gap_max_s: float = 0.02
    confidence: float = CONFIDENCE
    indicative: bool = False


QUICK_ENERGY = EnergyEffort(
    idle_s=5.0,
    settle_s=1.0,
    warm_up_s=3.0,
    window_s=1.0,
    warm_up_max_s=15.0,
    repeats=3,
    run_s=10.0,
    run_refreshes=0,
    run_inferences=1,
    run_max_s=30.0,
    min_readings=10,
    indicative=True,
)

# What agrees, and what does not: fractions.
IDLE_DRIFT = 0.03
POWER_AGREES = 0.05


def checked_energy_effort(effort: EnergyEffort) -> EnergyEffort:
    """`effort` if it makes sense; UsageError naming the field that does not."""
    for name, value in zip(effort._fields, effort):
        least = 2 if name == "repeats" else 0
        if not least <= value < float("inf"):
            raise UsageError("{} of an energy measurement must be at least {}, not {}".format(name, least, value))
    for name in ("window_s", "run_s", "block_s", "idle_s"):
        if getattr(effort, name) <= 0:
            raise UsageError("{} of an energy measurement must be more than 0".format(name))
    return effort
