"""How long each call of a phase took: every sample in the order it was taken, their distribution, percentile marks.

    profile.json -> latency_pictures -> one Picture a bundle

On the left a drift or a disturbance is seen, on the right the distribution; both share the axis of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bottlekit.device.stats import MINIMUM_COUNTS
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.pictures import PHASE_COLOURS
from bottlekit.report.profiles import samples_of_phase
from bottlekit.report.render import number_text
from bottlekit.report.setups import Values
from bottlekit.report.table import combined_origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

# From the shortest to the longest sample by more than this factor: a logarithmic axis.
_WIDE = 4.0
_MOST_DOTS = 2000
# The least distance of two marks' words, in heights of a panel.
_APART = 0.17


def latency_pictures(profile: Values) -> list[Picture]:
    """One picture for each bundle that has samples; phases without any (emulated ones) are not drawn."""
    return [
        _of_bundle(entry) for entry in profile["bundles"] if any(map(samples_of_phase, entry["phases"].values()))
    ]


def _of_bundle(entry: Values) -> Picture:
    name = str(entry["bundle"]["name"])
    phases = {phase: timed for phase, timed in entry["phases"].items() if samples_of_phase(timed)}
    with drawing.style():
        figure = drawing.new_figure(10, 0.6 + 1.45 * len(phases))
        panels = figure.subplots(len(phases), 2, squeeze=False, sharey="row", width_ratios=(3.2, 1))
        for (left, right), (phase, timed) in zip(panels, phases.items(), strict=True):
            samples = np.asarray(samples_of_phase(timed), dtype=np.float64)
            colour = PHASE_COLOURS.get(phase, drawing.GRAY)
            _samples(left, samples, colour)
            left.set_title(f"{phase}, {samples.size:,} samples ({timed['origin']})")
            left.set_ylabel("ms")
            left.margins(x=0.01)
            _axis_of_time(left, samples)
            _histogram(right, samples, colour)
            _percentile_marks(left, right, samples)
            drawing.quiet_grid(left, "y")
        panels[-1, 0].set_xlabel("sample, in the order they were taken")
        panels[-1, 1].set_xlabel("how many")
        origin = combined_origin(timed["origin"] for timed in phases.values())
        words = f"every sample of each phase of {name} ({origin}), and their distribution"
        svg = drawing.svg_from_figure(figure, f"latency-{name}", words)
    caption = (
        "Left, every sample; right, how often each time occurred. Lines mark percentiles, where there are samples "
        "enough to tell them. Axes are logarithmic where the longest sample is far from the shortest."
    )
    return Picture(f"Latency of {name} ({origin})", caption, svg, figure)


def _samples(axes: Axes, samples: NDArray[np.float64], colour: str) -> None:
    """A dot for each sample; of more samples than can be told apart, the range of neighbours.

    All of them are one line with gaps: thousands of marks would make a drawing of megabytes.
    """
    edges = np.unique(np.linspace(0, samples.size, _MOST_DOTS + 1).astype(int)[:-1])
    lowest, highest = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
    # A line of no length is not drawn; one that is far shorter than it is wide is a dot.
    highest = np.maximum(highest, lowest * (1.0 + 1e-6))
    gaps = np.full(edges.size, np.nan)
    axes.plot(
        np.repeat(edges + 1.0, 3), np.column_stack([lowest, highest, gaps]).ravel(),
        color=colour, linewidth=2.2, solid_capstyle="round",
    )  # fmt: skip


def _axis_of_time(axes: Axes, samples: NDArray[np.float64]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = max(float(samples.min()), 1e-6), float(samples.max())
    if high / low > _WIDE:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        decades = high / low > 50.0
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.08 * (high - low) or 0.1 * high
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.4g}"))


def _histogram(axes: Axes, samples: NDArray[np.float64], colour: str) -> None:
    """A histogram that lies on its side, in steps that are even on the axis."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    edges = np.geomspace(low, high, 41) if axes.get_yscale() == "log" else np.linspace(low, high, 41)
    counts, _ = np.histogram(samples, edges)
    axes.stairs(counts, edges, orientation="horizontal", fill=True, color=colour)
    axes.set_xlim(0, 1.05 * counts.max())
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))


def _percentile_marks(left: Axes, right: Axes, samples: NDArray[np.float64]) -> None:
    """A line through both panels for each percentile that the samples support, its name and value at the right."""
    told = [percentile for percentile, count in MINIMUM_COUNTS.items() if samples.size >= count]
    values = [float(np.percentile(samples, percentile)) for percentile in told]
    low, high = right.get_ylim()
    if right.get_yscale() == "log":
        heights = [float(np.log(value / low) / np.log(high / low)) for value in values]
    else:
        heights = [(value - low) / (high - low) for value in values]
    for percentile, value, height, word_height in zip(told, values, heights, _spread(heights), strict=True):
        for axes in (left, right):
            axes.axhline(value, color=drawing.INK, linewidth=0.8, alpha=0.75 if percentile == 50 else 0.45)
        right.annotate(
            f"p{percentile}  {number_text(value, 'ms')}",
            (1.0, height), (1.14, word_height), xycoords="axes fraction", textcoords="axes fraction",
            va="center", fontsize=9, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": drawing.GRAY, "linewidth": 0.7, "relpos": (0.0, 0.5),
                "shrinkA": 2, "shrinkB": 0,
            },
        )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """Heights from 0 to 1, in rising order, moved apart so that words beside them do not meet."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _APART) if moved else max(height, 0.02))
    # From the top back down, so that the last ones stay beside the panel.
    top = max(1.0, _APART * (len(moved) - 1))
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], top - _APART * (len(moved) - 1 - index))
    return moved
