"""Why one run of an energy measurement is not to be trusted: its trace, its pace, its power, what throttled."""

from math import sqrt
from typing import Any, List, Optional

import numpy as np

from .energy_effort import POWER_AGREES, EnergyEffort
from .energy_protocol import Run
from .integrate import Interior, Reason, window_means_mw
from .power_trace import PowerTrace
from .stats import STABLE_WITHIN, WINDOWS, agree

# Windows of a run for the bootstrap, and those whose scatter tells the run's noise: of two refreshes at least.
_MOST_WINDOWS = 100
_SCATTER_WINDOWS = 30
_FEWEST_WINDOWS = 8
# Three means of equal size scatter over more than this many of their standard deviations one time in a thousand
# (Tukey's studentised range with 20 degrees of freedom).
_RANGE_OF_THREE = 6.06


def doubts_of_run(
    trace: PowerTrace, run: Run, interior: Interior, idle_mw: Optional[float], effort: EnergyEffort
) -> List[Reason]:
    """Every reason not to trust a run.

    The reasons of its interior (`interior_of`), and:

        throttled       something held the machine back
        few_inferences  the longest time was over before there were enough
        power_drift     the power of its thirds differs by more than 5 %, and by more than it scatters anyway
        pace_drift      the inferences a second of its thirds differ by more than a tenth
    """
    found = list(interior.reasons)
    found += [Reason("throttled", "throttled: {}".format(line)) for line in run.throttled]
    if run.inferences < effort.run_inferences:
        words = "{} inferences in {:.0f} s; it takes {}".format(
            run.inferences, run.end_s - run.begin_s, effort.run_inferences
        )
        found.append(Reason("few_inferences", words))
    if interior.mean_mw is not None and idle_mw is not None:
        thirds = _thirds_mw(trace, run, interior, idle_mw)
        if not agree(thirds, POWER_AGREES) and max(thirds) - min(thirds) > _scatter_mw(trace, run, interior):
            found.append(
                Reason("power_drift", "power drifted: {} mW in its thirds".format(_words(thirds, "{:.0f}")))
            )
    paces = _paces(run)
    if paces is not None and not agree(paces, STABLE_WITHIN):
        words = "the pace changed: {} inferences a second in its thirds".format(_words(paces, "{:.1f}"))
        found.append(Reason("pace_drift", words))
    return found


def many_windows_mw(trace: PowerTrace, interior: Interior, most: int = _MOST_WINDOWS) -> Optional[np.ndarray]:
    """The boundary's mean power in up to `most` windows of an interior; None where it is too short for eight."""
    windows = min(most, int((interior.end_s - interior.begin_s) / (2.0 * interior.refresh_s)))
    if interior.mean_mw is None or windows < _FEWEST_WINDOWS:
        return None
    powers: np.ndarray = window_means_mw(trace, interior, windows)[0]
    return powers


def _thirds_mw(trace: PowerTrace, run: Run, interior: Interior, idle_mw: float) -> List[float]:
    """The power while it infers, without the gaps, in the first, second and last third of an interior."""
    moments_s = np.linspace(interior.begin_s, interior.end_s, WINDOWS + 1)
    found = []
    for power_mw, begin_s, end_s in zip(window_means_mw(trace, interior, WINDOWS)[0], moments_s, moments_s[1:]):
        busy_s, seconds = run.within(begin_s, end_s)[0], end_s - begin_s
        found.append(float((power_mw * seconds - idle_mw * (seconds - busy_s)) / busy_s) if busy_s > 0 else 0.0)
    return found


def _scatter_mw(trace: PowerTrace, run: Run, interior: Interior) -> float:
    """By how much the thirds of a run that does not drift may differ, by the noise of its windows.

    Half the mean square of successive differences (von Neumann 1941) is a variance that a drift has no part in.
    """
    powers = many_windows_mw(trace, interior, _SCATTER_WINDOWS)
    busy_s = run.within(interior.begin_s, interior.end_s)[0]
    if powers is None or busy_s <= 0:
        return 0.0
    deviation_mw = sqrt(0.5 * float(np.mean(np.diff(powers) ** 2)) * WINDOWS / powers.size)
    return _RANGE_OF_THREE * deviation_mw * (interior.end_s - interior.begin_s) / busy_s


def _paces(run: Run) -> Optional[List[float]]:
    """Inferences a second of the first, second and last third of the blocks; None for too few blocks."""
    blocks = np.array(run.blocks, dtype=np.float64)
    if len(blocks) < WINDOWS:
        return None
    thirds = np.array_split(blocks, WINDOWS)
    return [float(third[:, 2].sum() / (third[:, 1] - third[:, 0]).sum()) for third in thirds]


def _words(values: Any, form: str) -> str:
    return ", ".join(form.format(float(value)) for value in values)
