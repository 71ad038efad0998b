"""What the sensor said while a phase was measured: power over time, with what was done when.

    timed phase --> trace and record --> power_picture

The boundary's rail is drawn large, rails within it thin. A trace that was rejected is drawn as well, with why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bottlekit.device.power_trace import PowerTrace
from bottlekit.errors import BundleError, ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.energies import energy_of_phase
from bottlekit.report.profiles import phases_of_profile
from bottlekit.report.render import number_text
from bottlekit.report.setups import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# More readings than this are drawn as their range in as many columns.
_MOST_POINTS = 1500
_RAIL_COLOURS = (drawing.SKY, drawing.GREEN, drawing.PURPLE, drawing.YELLOW, drawing.GRAY)
_SPAN_COLOURS = {"idle": drawing.GRAY, "run": drawing.ORANGE, "warm-up": drawing.YELLOW}
_LONGEST_TITLE = 100


class Span(NamedTuple):
    """What was done from one moment to another, in seconds of the trace's clock: "idle", "warm-up" or "run"."""

    kind: str
    title: str
    begin_s: float
    end_s: float


def power_pictures(profile: Values) -> list[Picture]:
    """One picture for each phase that brought a trace."""
    return [
        power_picture(bundle, phase, timed)
        for bundle, phase, timed in phases_of_profile(profile)
        if isinstance(timed.get("energy"), Mapping) and timed["energy"].get("trace")
    ]


def power_picture(bundle: str, phase: str, timed: Values) -> Picture:
    """The power trace of one phase. Raises ReportError for a trace that is damaged or empty."""
    told = timed["energy"]
    try:
        trace = PowerTrace.from_dict(told["trace"], f"the power trace of {phase} of {bundle}")
    except BundleError as error:
        raise ReportError(str(error)) from error
    if trace.times_s.size < 2:
        readings = trace.times_s.size
        raise ReportError(f"the power trace of {phase} of {bundle} has {readings} readings: nothing to draw")
    spans = list(_spans(told.get("record")))
    energy = energy_of_phase(timed)
    begin_s = float(trace.times_s[0])
    with drawing.style():
        figure = drawing.new_figure(10, 3.6)
        axes = figure.subplots()
        times_s, powers_w = _powers_w(trace)
        axes.set_xlim(0.0, float(times_s[-1]) - begin_s)
        for row in reversed(range(len(trace.rails))):
            _rail(axes, times_s - begin_s, powers_w[row], row, trace.rails[row])
        highest = float(np.nanmax(powers_w))
        axes.set_ylim(0.0, 1.22 * highest if highest > 0 else 1.0)
        for span in spans:
            _mark(axes, span, begin_s)
        axes.set_xlabel("time, s")
        axes.set_ylabel(f"power, W ({timed['origin']})")
        drawing.quiet_grid(axes, "y")
        axes.set_title(_title(bundle, phase, timed, energy.missing))
        _legend(figure, axes, spans)
        words = f"power over time while {phase} of {bundle} was measured ({timed['origin']})"
        svg = drawing.svg_from_figure(figure, f"power-{bundle}-{phase}", words)
    return Picture(
        f"Power trace: {phase} of {bundle} ({timed['origin']})", _caption(trace, energy.missing), svg, figure
    )


def _title(bundle: str, phase: str, timed: Values, missing: str) -> str:
    """What was measured, and what came of it."""
    energy = energy_of_phase(timed)
    if energy.gross_mj is None:
        words = f"{phase} of {bundle}: no energy ({missing})"
        return words if len(words) <= _LONGEST_TITLE else words[: _LONGEST_TITLE - 2] + "…)"
    net = "" if energy.net_mj is None else f", {number_text(energy.net_mj, 'mJ')} mJ above idle"
    short = ", indicative" if energy.indicative else ""
    return f"{phase} of {bundle}: {number_text(energy.gross_mj, 'mJ')} mJ{net} ({timed['origin']}{short})"


def _caption(trace: PowerTrace, missing: str) -> str:
    words = (
        f"{trace.times_s.size:,} readings of {trace.meter.get('name', 'the meter')}, whose sensor has a new value "
        f"every {1e3 * trace.refresh_s:.3g} ms. Energy is that of the runs; net is what comes on top of idle."
    )
    if trace.times_s.size > _MOST_POINTS:
        words += (
            " Where readings are too many to see, the band spans their lowest and highest, the line their mean."
        )
    return f"{words} Rejected: {missing}." if missing else words


def _spans(record: Any) -> Iterator[Span]:
    """What the record of the protocol says was done when; nothing for a trace without one."""
    if not isinstance(record, Mapping):
        return
    for key, title in (("idle_before_s", "idle"), ("idle_after_s", "idle")):
        span = record.get(key)
        if span:
            yield Span("idle", title, float(span[0]), float(span[1]))
    runs = [run["blocks"] for run in record.get("runs") or () if run.get("blocks")]
    if runs and record.get("idle_before_s"):
        yield Span("warm-up", "warm-up", float(record["idle_before_s"][1]), float(runs[0][0][0]))
    for number, blocks in enumerate(runs, start=1):
        yield Span("run", f"run {number}", float(blocks[0][0]), float(blocks[-1][1]))


def _powers_w(trace: PowerTrace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and power of each rail; of a counter of energy, the slope between two readings at the second's time."""
    if trace.kind == "power":
        return trace.times_s, trace.values / 1e3
    steps_s = np.diff(trace.times_s)
    moved = steps_s > 0
    return trace.times_s[1:][moved], np.diff(trace.values, axis=1)[:, moved] / steps_s[moved] / 1e3


def _rail(axes: Axes, times_s: NDArray[np.float64], power_w: NDArray[np.float64], row: int, name: str) -> None:
    """One rail as steps, or as its range in columns where there are too many readings to see."""
    colour = drawing.BLUE if row == 0 else _RAIL_COLOURS[(row - 1) % len(_RAIL_COLOURS)]
    width = 1.3 if row == 0 else 0.8
    if times_s.size <= _MOST_POINTS:
        axes.step(times_s, power_w, where="post", color=colour, linewidth=width, label=name)
        return
    edges = np.linspace(0, times_s.size, _MOST_POINTS // 2 + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, times_s.size))
    middles = np.add.reduceat(times_s, edges) / counts
    axes.fill_between(
        middles, np.minimum.reduceat(power_w, edges), np.maximum.reduceat(power_w, edges),
        color=colour, alpha=0.3, linewidth=0,
    )  # fmt: skip
    axes.plot(middles, np.add.reduceat(power_w, edges) / counts, color=colour, linewidth=width, label=name)


def _mark(axes: Axes, span: Span, begin_s: float) -> None:
    """The span as a coloured ground, its name above where there is room for it."""
    left, right = span.begin_s - begin_s, span.end_s - begin_s
    axes.axvspan(left, right, color=_SPAN_COLOURS[span.kind], alpha=0.16, linewidth=0)
    if span.kind == "run":
        for moment in (left, right):
            axes.axvline(moment, color=_SPAN_COLOURS[span.kind], linewidth=0.8, linestyle=":")
    shown = (right - left) / (axes.get_xlim()[1] - axes.get_xlim()[0])
    if shown > 0.0095 * len(span.title):
        axes.annotate(
            span.title, (0.5 * (left + right), 0.99), xycoords=("data", "axes fraction"), ha="center", va="top",
            fontsize=9,
        )  # fmt: skip


def _legend(figure: Figure, axes: Axes, spans: list[Span]) -> None:
    """Rails, and what the colours of the ground mean."""
    from matplotlib.patches import Patch

    lines = list(reversed(axes.get_legend_handles_labels()[0]))
    kinds = dict.fromkeys(span.kind for span in spans)
    patches = [Patch(color=_SPAN_COLOURS[kind], alpha=0.3, label=kind) for kind in kinds]
    handles = [*lines, *patches]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)))
