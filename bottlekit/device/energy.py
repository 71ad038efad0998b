"""What one inference costs, from what the sensor said and what was done when; or why that cannot be told.

    trace, record --interior_of--> power of each run, of idle before and after
                  --------------> repeats: energy of one inference, gross and net of idle
                  --mean_interval--> their mean and how far it may be off
                  --------------> reasons: whatever makes it no energy at all

With P the mean power between the trimmed ends of a run, T the time between them, B the part of it spent inferring,
n inferences in it and P0 idle power:

    gross = (P * T - P0 * (T - B)) / n    as MLPerf counts: power x time / queries, gaps between blocks taken out
    net   = (P * T - P0 * T) / n          what inference adds to a machine that is on anyway

A machine in a gap of 0..20 ms is taken to draw its idle power. Where it does not come down that fast, both are too
high by the difference times (T - B) / n.
"""

from math import hypot
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from .confidence import Interval, bootstrap_interval, mean_interval
from .energy_doubts import doubts_of_run, many_windows_mw
from .energy_effort import IDLE_DRIFT, EnergyEffort
from .energy_protocol import Record, Run
from .integrate import Interior, Reason, interior_of
from .power_trace import PowerTrace
from .stats import is_outlier

# Of the bootstrap.
_SEED = 0


class Idle(NamedTuple):
    """Idle power of the boundary in mW: before, after, their mean, and how far the mean may be off."""

    before_mw: float
    after_mw: float
    mean_mw: float
    half_width_mw: float

    @property
    def drift(self) -> float:
        """By which fraction of the first the second differs."""
        return abs(self.after_mw - self.before_mw) / self.before_mw if self.before_mw else float(self.after_mw > 0)


class Repeat(NamedTuple):
    """One run: its time, the inferences in it, its mean power, and the energy of one inference in mJ."""

    run: Run
    interior: Interior
    mean_mw: float
    mean_mw_half_width: Optional[float]
    gross_mj: float
    net_mj: float

    @property
    def seconds(self) -> float:
        """From the first inference to the last."""
        return self.run.end_s - self.run.begin_s


def energy_from_record(trace: PowerTrace, record: Record, effort: EnergyEffort) -> Dict[str, Any]:
    """The energy of one inference as JSON values; docs/reference/profile.md describes them.

    `energy_mj` is None where `reasons` is not empty: an invalid measurement has raw data, and no result.
    """
    idle_interiors = [interior_of(trace, begin, end) for begin, end in (record.idle_before_s, record.idle_after_s)]
    interiors = [interior_of(trace, run.begin_s, run.end_s, effort.min_readings) for run in record.runs]
    reasons: List[Reason] = []
    for name, interior in zip(("idle before", "idle after"), idle_interiors):
        reasons += [Reason(one.code, "{}: {}".format(name, one.reason)) for one in interior.reasons]
    if not record.warm_up["stable"]:
        reasons.append(
            Reason(
                "warm_up",
                "it never settled: after {:g} s of warm-up three windows still differ".format(
                    record.warm_up["seconds"]
                ),
            )
        )
    idle = _idle(trace, idle_interiors, effort.confidence)
    if idle is not None and idle.drift > IDLE_DRIFT:
        reasons.append(
            Reason(
                "idle_drift",
                "idle power drifted by {:.1f} %, from {:.0f} to {:.0f} mW".format(
                    100 * idle.drift, idle.before_mw, idle.after_mw
                ),
            )
        )
    repeats = []
    idle_mw = None if idle is None else idle.mean_mw
    for number, (run, interior) in enumerate(zip(record.runs, interiors), start=1):
        for one in doubts_of_run(trace, run, interior, idle_mw, effort):
            reasons.append(Reason(one.code, "run {}: {}".format(number, one.reason)))
        repeat = _repeat(trace, run, interior, idle, effort.confidence)
        if repeat is not None:
            repeats.append(repeat)
    gross, net = _intervals(repeats, idle, effort.confidence)
    valid = not reasons and gross is not None and net is not None
    return dict(
        _told(trace, effort, valid, reasons),
        energy_mj=gross.mean if valid and gross else None,
        energy_ci_mj=[gross.low, gross.high] if valid and gross else None,
        net_energy_mj=net.mean if valid and net else None,
        net_energy_ci_mj=[net.low, net.high] if valid and net else None,
        confidence=effort.confidence,
        idle=None if idle is None else {name: round(value, 3) for name, value in zip(idle._fields, idle)},
        warm_up=record.warm_up,
        rails_mj=_rails_mj(trace, repeats, idle_interiors),
        repeats=_repeats_told(repeats),
    )


def no_energy(meter: str, boundary: str, reason: str, code: str = "no_meter") -> Dict[str, Any]:
    """What stands in the place of an energy where nothing was measured: the meter that was tried, and why not."""
    return {
        "meter": meter,
        "boundary": boundary,
        "valid": False,
        "indicative": False,
        "reasons": [reason],
        "codes": [code],
        "energy_mj": None,
        "net_energy_mj": None,
    }


def _told(trace: PowerTrace, effort: EnergyEffort, valid: bool, reasons: List[Reason]) -> Dict[str, Any]:
    return {
        "meter": trace.meter.get("name", "unknown"),
        "boundary": trace.meter.get("boundary", trace.rails[0]),
        "refresh_s": trace.refresh_s,
        "valid": valid,
        "indicative": effort.indicative,
        "reasons": [one.reason for one in reasons],
        "codes": [one.code for one in reasons],
    }


def _idle(trace: PowerTrace, interiors: List[Interior], confidence: float) -> Optional[Idle]:
    """Idle power, somewhere between what it was before and after."""
    means = [float(one.mean_mw[0]) for one in interiors if one.mean_mw is not None]
    if len(means) < len(interiors):
        return None
    widths = [_mean_half_width(trace, one, confidence) or 0.0 for one in interiors]
    return Idle(
        before_mw=means[0],
        after_mw=means[1],
        mean_mw=0.5 * (means[0] + means[1]),
        half_width_mw=0.5 * hypot(widths[0], widths[1]) + 0.5 * abs(means[1] - means[0]),
    )


def _mean_half_width(trace: PowerTrace, interior: Interior, confidence: float) -> Optional[float]:
    """How far the mean power of an interior may be off, mW; None where it is too short to tell."""
    powers = many_windows_mw(trace, interior)
    if powers is None:
        return None
    block = round(powers.size ** (1.0 / 3.0))
    return bootstrap_interval([float(power) for power in powers], block, _SEED, confidence).half_width


def _repeat(
    trace: PowerTrace, run: Run, interior: Interior, idle: Optional[Idle], confidence: float
) -> Optional[Repeat]:
    if interior.mean_mw is None or idle is None:
        return None
    power_mw = float(interior.mean_mw[0])
    gross_mj, net_mj = _gross_and_net(power_mw, idle.mean_mw, run, interior)
    width = _mean_half_width(trace, interior, confidence)
    return Repeat(run, interior, power_mw, width, gross_mj, net_mj)


def _gross_and_net(power_mw: float, idle_mw: float, run: Run, interior: Interior) -> Tuple[float, float]:
    seconds = interior.end_s - interior.begin_s
    busy_s, inferences = run.within(interior.begin_s, interior.end_s)
    whole_mj = power_mw * seconds
    return (whole_mj - idle_mw * (seconds - busy_s)) / inferences, (whole_mj - idle_mw * seconds) / inferences


def _intervals(
    repeats: List[Repeat], idle: Optional[Idle], confidence: float
) -> Tuple[Optional[Interval], Optional[Interval]]:
    """Gross and net: Student's t over the repeats; all of them share one idle power, which may be off, too."""
    if idle is None or len(repeats) < 2:
        return None, None
    gross = mean_interval([repeat.gross_mj for repeat in repeats], confidence)
    net = mean_interval([repeat.net_mj for repeat in repeats], confidence)
    gap_s = float(np.mean([(one.seconds - one.run.busy_s) / one.run.inferences for one in repeats]))
    whole_s = float(np.mean([one.seconds / one.run.inferences for one in repeats]))
    return (
        gross._replace(half_width=hypot(gross.half_width, idle.half_width_mw * gap_s)),
        net._replace(half_width=hypot(net.half_width, idle.half_width_mw * whole_s)),
    )


def _rails_mj(trace: PowerTrace, repeats: List[Repeat], idle: List[Interior]) -> Dict[str, Dict[str, float]]:
    """Every rail's part of the energy, the mean of the repeats; of rails that lie within others, too."""
    means = [one.mean_mw for one in idle if one.mean_mw is not None]
    if not repeats or len(means) < len(idle):
        return {}
    told = {}
    for row, rail in enumerate(trace.rails):
        idle_mw = float(np.mean([mean[row] for mean in means]))
        parts = [
            _gross_and_net(float(one.interior.mean_mw[row]), idle_mw, one.run, one.interior)
            for one in repeats
            if one.interior.mean_mw is not None
        ]
        gross, net = np.mean(parts, axis=0)
        told[rail] = {"energy_mj": float(gross), "net_energy_mj": float(net)}
    return told


def _repeats_told(repeats: List[Repeat]) -> List[Dict[str, Any]]:
    if not repeats:
        return []
    flags = is_outlier(np.array([repeat.gross_mj for repeat in repeats]))
    return [
        {
            "energy_mj": one.gross_mj,
            "net_energy_mj": one.net_mj,
            "seconds": round(one.seconds, 6),
            "busy_seconds": round(one.run.busy_s, 6),
            "inferences": one.run.inferences,
            "mean_mw": one.mean_mw,
            "mean_mw_half_width": one.mean_mw_half_width,
            "readings": one.interior.readings,
            "refresh_s": one.interior.refresh_s,
            "coverage": one.interior.coverage,
            "longest_gap_s": one.interior.longest_gap_s,
            "outlier": bool(flag),
        }
        for one, flag in zip(repeats, flags)
    ]
