"""From a trace of readings to energy, or to the reason why there is none.

    trace, begin, end --energy_between_mj--> energy of each rail: the trapezoid between two moments, nothing else
    trace, begin, end --interior_of--------> mean power of each rail, two refreshes trimmed at each end, and every
                                             reason not to trust it

A sensor shows what was drawn a while ago: the mean of its last window, until it refreshes. At the ends of a run its
readings belong half to what came before or after; they are trimmed. mW times s is mJ.
"""

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from .errors import ReportError
from .power_trace import PowerTrace

# Refreshes left out at each end.
TRIMMED = 2
# Readings further apart than this many refreshes leave a gap.
GAP_REFRESHES = 5
# Readings no further apart than this many cover the time between them.
COVERED_REFRESHES = 2
LEAST_COVERAGE = 0.95
# A sensor that changes at random does not stay the same for this many times its usual interval between changes.
STUCK_INTERVALS = 50
# Intervals between changes that tell what is usual.
_USUAL = 10


class Reason(NamedTuple):
    """Why a figure is not to be trusted: a `code` for programs, one line for people."""

    code: str
    reason: str


class Interior(NamedTuple):
    """What a trace tells of a time, its ends trimmed.

    `mean_mw` is (rails,), None where the readings cannot be added up; `readings` counts those that differ from the
    one before; `refresh_s` is the longest of the refresh at start-up, the distance of the samples and the usual
    interval between changes; `coverage` is 0..1.
    """

    begin_s: float
    end_s: float
    mean_mw: Optional[np.ndarray]
    readings: int
    refresh_s: float
    coverage: float
    longest_gap_s: float
    reasons: Tuple[Reason, ...]


def energy_between_mj(trace: PowerTrace, begin_s: float, end_s: float) -> np.ndarray:
    """The energy of each rail between two moments of a trace: (rails,) in mJ.

    Power is integrated by the trapezoid, counters are subtracted; both are straight lines between readings.
    ReportError for moments that the trace does not hold.
    """
    energy: np.ndarray = np.diff(accumulated_mj(trace, np.array([begin_s, end_s])), axis=1)[:, 0]
    return energy


def accumulated_mj(trace: PowerTrace, moments_s: np.ndarray) -> np.ndarray:
    """The energy of each rail from the last reading before the first moment to each of the rising `moments_s` (m,).

    (rails, m), mJ. Readings outside have no part in it. ReportError for moments that the trace does not hold.
    """
    times, values = trace.times_s, trace.values
    if times.size < 2 or not times[0] <= moments_s[0] <= moments_s[-1] <= times[-1]:
        held = "from {:.3f} to {:.3f} s".format(times[0], times[-1]) if times.size else "none"
        raise ReportError(
            "the trace does not hold {:.3f}..{:.3f} s: it has {} readings, {}".format(
                moments_s[0], moments_s[-1], times.size, held
            )
        )
    before = np.clip(np.searchsorted(times, moments_s, side="right") - 1, 0, times.size - 2)
    # Sums over hours of readings would cost a short time its last digits, and one bad reading all of them.
    part = slice(before[0], before[-1] + 2)
    times, values, before = times[part], values[:, part], before - before[0]
    elapsed, steps = moments_s - times[before], np.diff(times)
    here = values[:, before] + np.diff(values, axis=1)[:, before] * (elapsed / steps[before])
    if trace.kind == "energy":
        counted: np.ndarray = here - values[:, :1]
        return counted
    whole = np.zeros_like(values)
    np.cumsum(0.5 * (values[:, 1:] + values[:, :-1]) * steps, axis=1, out=whole[:, 1:])
    return np.asarray(whole[:, before] + 0.5 * (values[:, before] + here) * elapsed)


def interior_of(trace: PowerTrace, begin_s: float, end_s: float, min_readings: int = 1) -> Interior:
    """The mean power of a run between two moments, its ends trimmed, with every reason not to trust it.

    The reasons' codes:

        not_a_number, negative, clock   readings that cannot be: NaN, power below zero or a counter that runs back,
                                        times that do not rise
        too_short   nothing is left between the trimmed ends
        gap         two readings of power further apart than five refreshes; a counter misses nothing
        coverage    readings cover less than 95 % of the time
        stuck       the sensor stopped changing
        few_readings  fewer than `min_readings` distinct readings
    """
    inside = (trace.times_s >= begin_s) & (trace.times_s <= end_s)
    times, values = trace.times_s[inside], trace.values[:, inside]
    broken = _impossible(times, values, trace.kind)
    if broken:
        return Interior(begin_s, end_s, None, 0, trace.refresh_s, 0.0, 0.0, tuple(broken))
    changes_s = _changes_s(times, values)
    refresh_s = _refresh_s(trace.refresh_s, times, changes_s)
    begin_s, end_s = begin_s + TRIMMED * refresh_s, end_s - TRIMMED * refresh_s
    held = times[(times >= begin_s) & (times <= end_s)]
    if held.size < 2:
        words = "nothing is left of it: it lasted less than {} refreshes of {:.4g} s".format(2 * TRIMMED, refresh_s)
        return Interior(begin_s, end_s, None, 0, refresh_s, 0.0, 0.0, (Reason("too_short", words),))
    changed = changes_s[(changes_s >= begin_s) & (changes_s <= end_s)]
    gaps = np.diff(np.concatenate([[begin_s], held, [end_s]]))
    if trace.kind == "power":
        first_s, last_s = max(begin_s, float(times[0])), min(end_s, float(times[-1]))
        coverage = _coverage(times, begin_s, end_s, refresh_s)
    else:
        # A counter is up to date at the moment it changes.
        first_s, last_s = (float(changed[0]), float(changed[-1])) if changed.size > 1 else (held[0], held[-1])
        coverage = min(1.0, (last_s - first_s + COVERED_REFRESHES * refresh_s) / (end_s - begin_s))
    readings = int(changed.size) + 1
    reasons = _holes(trace.kind, gaps, coverage, refresh_s)
    if trace.kind == "power":
        reasons += _stuck(changed, end_s, refresh_s)
    if readings < min_readings:
        reasons.append(Reason("few_readings", "{} distinct readings; it takes {}".format(readings, min_readings)))
    mean_mw = energy_between_mj(trace, first_s, last_s) / (last_s - first_s)
    return Interior(first_s, last_s, mean_mw, readings, refresh_s, coverage, float(gaps.max()), tuple(reasons))


def window_means_mw(trace: PowerTrace, interior: Interior, windows: int) -> np.ndarray:
    """The mean power of each rail in equal successive windows of an interior that has a mean: (rails, windows)."""
    moments_s = np.linspace(interior.begin_s, interior.end_s, windows + 1)
    return np.asarray(np.diff(accumulated_mj(trace, moments_s), axis=1) / np.diff(moments_s))


def _refresh_s(at_start_s: float, times: np.ndarray, changes_s: np.ndarray) -> float:
    """How often there was something new; sensors change their pace under load, so start-up does not tell all."""
    known = [at_start_s]
    if times.size > 1:
        known.append(float(np.median(np.diff(times))))
    if changes_s.size > _USUAL:
        known.append(float(np.median(np.diff(changes_s))))
    return max(known)


def _impossible(times: np.ndarray, values: np.ndarray, kind: str) -> List[Reason]:
    """Readings that nothing can be computed from."""
    found = []
    if not np.isfinite(values).all() or not np.isfinite(times).all():
        count = int((~np.isfinite(values)).any(axis=0).sum() + (~np.isfinite(times)).sum())
        return [Reason("not_a_number", "{} readings are no numbers".format(count))]
    if (np.diff(times) <= 0).any():
        back_s = float(-np.diff(times).min())
        found.append(Reason("clock", "the clock ran back, or stood: by {:.6g} s at most".format(back_s)))
    if kind == "energy":
        if (np.diff(values, axis=1) < 0).any():
            found.append(Reason("negative", "the energy counter ran back"))
    elif (values < 0).any():
        count = int((values < 0).any(axis=0).sum())
        found.append(Reason("negative", "{} readings are below zero".format(count)))
    return found


def _changes_s(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """When a reading of any rail was another than the one before."""
    changed: np.ndarray = times[1:][(np.diff(values, axis=1) != 0).any(axis=0)]
    return changed


def _coverage(times: np.ndarray, begin_s: float, end_s: float, refresh_s: float) -> float:
    """The part of a time that lies between readings at most two refreshes apart, 0..1."""
    starts, ends = np.maximum(times[:-1], begin_s), np.minimum(times[1:], end_s)
    near = np.diff(times) <= COVERED_REFRESHES * refresh_s * (1.0 + 1e-9)
    covered = np.where(near, np.maximum(ends - starts, 0.0), 0.0).sum()
    return float(covered / (end_s - begin_s))


def _holes(kind: str, gaps: np.ndarray, coverage: float, refresh_s: float) -> List[Reason]:
    """Whether there are holes between the readings, and how much they leave."""
    found = []
    if kind == "power" and gaps.max() > GAP_REFRESHES * refresh_s:
        found.append(
            Reason(
                "gap",
                "no reading for {:.4g} s; more than {} refreshes of {:.4g} s are too much".format(
                    float(gaps.max()), GAP_REFRESHES, refresh_s
                ),
            )
        )
    if coverage < LEAST_COVERAGE:
        found.append(
            Reason(
                "coverage",
                "readings cover {:.1f} % of the time; it takes {:.0f} %".format(
                    100 * coverage, 100 * LEAST_COVERAGE
                ),
            )
        )
    return found


def _stuck(changed: np.ndarray, end_s: float, refresh_s: float) -> List[Reason]:
    """Whether the sensor stopped changing: its longest stay at one reading against the usual one."""
    stays = np.diff(np.append(changed, end_s))
    if stays.size <= _USUAL:
        return []
    usual, longest = float(np.median(stays)), float(stays.max())
    if longest <= max(STUCK_INTERVALS * usual, GAP_REFRESHES * refresh_s):
        return []
    words = "the sensor stayed the same for {:.4g} s; it changes every {:.4g} s".format(longest, usual)
    return [Reason("stuck", words)]
