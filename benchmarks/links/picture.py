"""A measured trace as a picture: the true rate, what was chosen, and what it took."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from bottlekit.report import drawing
from links.verdict import MOBILE_ONLY

_COLOURS = {"outage": drawing.VERMILION, "cut": drawing.PURPLE, "stall": drawing.ORANGE}
_WORDS = {"outage": "outage", "cut": "cable out", "stall": "server stopped"}


def draw(result: Mapping[str, Any]) -> drawing.Picture:
    """Above the latencies, in the middle the splits, below the true rate."""
    answers = result["answers"]["adaptive"]
    at_s, latency_ms, splits, lost = (list(column) for column in zip(*answers, strict=True))
    names = ["", *sorted({name for name in splits if name != MOBILE_ONLY}), MOBILE_ONLY]
    with drawing.style():
        figure = drawing.new_figure(9, 6)
        above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1.4))
        for axes in (above, middle, below):
            for one in result["breaks"]:
                axes.axvspan(one["begin_s"], one["end_s"], color=_COLOURS[one["kind"]], alpha=0.2, linewidth=0)
        above.plot(at_s, latency_ms, ".", color=drawing.BLUE, markersize=3, markeredgewidth=0)
        late = [(when, taken) for when, taken, gone in zip(at_s, latency_ms, lost, strict=True) if gone]
        if late:
            above.plot(
                *zip(*late, strict=True),
                "x",
                color=drawing.VERMILION,
                markersize=5,
                label="server lost, answered here",
            )
            above.legend(loc="upper right")
        above.set_ylabel("latency, ms")
        above.set_ylim(0, 1.35 * max(latency_ms))  # room for the legend
        above.set_title("splits chosen while the link changes and breaks (measured)")
        for one in result["breaks"]:
            middle.text(
                (one["begin_s"] + one["end_s"]) / 2, len(names) - 0.45, _WORDS[one["kind"]], ha="center", fontsize=8
            )
        oracle = [*result["stretches"], [result["seconds"], result["stretches"][-1][1]]]
        for (begin_s, choice), (end_s, _) in itertools.pairwise(oracle):
            if choice in names:
                middle.plot(
                    [begin_s, end_s], [names.index(choice)] * 2, color=drawing.GRAY, linewidth=5, alpha=0.45
                )
        middle.plot(
            at_s, [names.index(name) for name in splits], ".", color=drawing.BLUE, markersize=4, markeredgewidth=0
        )
        middle.set_yticks(range(1, len(names)), names[1:])
        middle.set_ylim(0.5, len(names) - 0.1)
        middle.set_ylabel("chosen; gray: oracle")
        begins = [begin_s for begin_s, _ in result["rates"]]
        rates = [mbps or float("nan") for _, mbps in result["rates"]]
        below.step([*begins, result["seconds"]], [*rates, rates[-1]], where="post", color=drawing.GREEN)
        below.set_yscale("log")
        below.set_yticks((0.3, 1, 3, 10), ["0.3", "1", "3", "10"])
        below.set_yticks([], minor=True)
        below.set_ylabel("Mbit/s up")
        below.set_xlabel("s")
        below.set_xlim(0, result["seconds"])
        for axes in (above, middle, below):
            drawing.quiet_grid(axes, "y")
        svg = drawing.svg_from_figure(figure, "links", "splits chosen along a measured trace, and the true rate")
    return drawing.Picture("Splits chosen along a measured trace", "Measured.", svg, figure)
