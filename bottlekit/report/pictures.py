"""The pictures of the report, from profiles and plans.

    {link: plan.json} -> terms_picture      device, uplink, server: stacked bars for each setup and network
    profile.json      -> phases_picture     how long each phase took, all samples
    profile.json      -> bytes_picture      what is sent: JPEG input, payload, with framing
    profile.json      -> accuracy_picture   what is lost for those bytes
    examples          -> examples_picture   (examples.py)

The words measured, modelled and emulated stand in every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bottlekit.errors import ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.profiles import samples_of_phase
from bottlekit.report.render import number_text
from bottlekit.report.setups import (
    Key,
    Values,
    candidate_key,
    candidate_title,
    emulation_words,
    held_out_words,
    link_title,
    ordered_candidates,
    plan_emulation_words,
    term_names,
    term_origin,
)
from bottlekit.report.table import combined_origin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERM_COLOURS = {
    "device": drawing.BLUE,
    "uplink": drawing.ORANGE,
    "rtt": drawing.YELLOW,
    "server": drawing.GREEN,
    "downlink": drawing.PURPLE,
}
PHASE_COLOURS = {
    "head": drawing.BLUE,
    "encode": drawing.SKY,
    "decode": drawing.YELLOW,
    "tail": drawing.GREEN,
    "full": drawing.ORANGE,
    "baseline": drawing.GRAY,
}


def terms_picture(profile: Values, plans: Mapping[str, Values], quantity: str = "latency") -> Picture:
    """Stacked bars: what the latency ("latency") or the device's energy ("energy") of each setup is made of.

    One panel a network, each with its own scale. Raises ReportError when there is nothing to draw.
    """
    unit, unit_title = {"latency": ("ms", "ms"), "energy": ("mj", "mJ")}[quantity]
    if not plans:
        raise ReportError(f"there is no plan to draw the {quantity} of")
    order = [candidate_key(candidate) for candidate in ordered_candidates(profile, next(iter(plans.values())))]
    origins: dict[str, list[str]] = {}
    with drawing.style():
        figure = drawing.new_figure(10, 1.5 + 0.38 * len(order))
        panels = figure.subplots(1, len(plans), squeeze=False, sharey=True)[0]
        for axes, plan in zip(panels, plans.values(), strict=True):
            names = term_names(plan, f"terms_{unit}")
            for candidate in plan["ranking"]:
                key, left = candidate_key(candidate), 0.0
                if key not in order:
                    continue
                for name in names:
                    value = candidate[f"terms_{unit}"].get(name)
                    if value is not None:
                        origins.setdefault(name, []).append(term_origin(candidate, name, unit))
                        axes.barh(order.index(key), value, left=left, height=0.62, color=_term_colour(name))
                        left += value
                beside(axes, left, order.index(key), f"{number_text(left, unit_title)} {unit_title}")
            describe_panel(axes, plan, f"{quantity}, {unit_title}")
        name_setups(panels[0], order)
        _legend_of_terms(figure, origins)
        svg = drawing.svg_from_figure(figure, f"terms-{quantity}", f"{quantity} of each setup per network, stacked")
    whose = "from image to class" if quantity == "latency" else "spent by the device for one inference"
    caption = (
        f"What the {quantity} {whose} is made of. Each network has its own scale. "
        "Where a bar is made of measured and modelled terms, the sum is both."
    )
    trust = plan_emulation_words(next(iter(plans.values())))
    title = f"{quantity.capitalize()} per setup and network"
    return Picture(title, _with_trust(caption, trust), svg, figure)


def describe_panel(axes: Axes, plan: Values, quantity: str) -> None:
    """The words around the bars of one plan: its network, and what the bars are."""
    axes.set_title(f"{link_title(plan)}, {plan['link']['uplink_mbps']:g} Mbit/s up")
    axes.set_xlabel(quantity)
    axes.margins(x=0.4)
    axes.set_xlim(left=0)
    drawing.quiet_grid(axes, "x")


def name_setups(axes: Axes, order: Sequence[Key]) -> None:
    """The setups' names beside their bars, the first on top."""
    axes.set_yticks(
        range(len(order)), [candidate_title({"setup": setup, "split": split}) for setup, split in order]
    )
    axes.invert_yaxis()


def _term_colour(name: str) -> str:
    return TERM_COLOURS.get(name, drawing.GRAY)


def _legend_of_terms(figure: Figure, origins: Mapping[str, Sequence[str]]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_term_colour(name), label=f"{name} ({combined_origin(words)})")
        for name, words in origins.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, len(handles)))


def phases_picture(profile: Values) -> Picture:
    """One panel a bundle, one row a phase: a histogram of all samples over a common logarithmic time axis."""
    entries = [entry for entry in profile["bundles"] if entry["phases"]]
    if not entries:
        raise ReportError("the profile holds no timed phase to draw")
    every = [
        time_ms
        for entry in entries
        for timed in entry["phases"].values()
        for time_ms in samples_of_phase(timed) or [timed["summary"]["p50_ms"]]
    ]
    low, high = min(sample for sample in every if sample > 0), max(every)
    with drawing.style():
        rows = sum(len(entry["phases"]) for entry in entries)
        figure = drawing.new_figure(10, 0.8 + 0.42 * rows + 0.35 * len(entries))
        heights = [len(entry["phases"]) for entry in entries]
        panels = figure.subplots(len(entries), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, entry in zip(panels, entries, strict=True):
            axes.set_xscale("log")
            for row, (name, timed) in enumerate(entry["phases"].items()):
                _ridge(axes, row, timed, PHASE_COLOURS.get(name, drawing.GRAY), low, high)
            axes.set_yticks(range(len(entry["phases"])), list(entry["phases"]))
            axes.set_ylim(len(entry["phases"]) - 0.4, -0.9)
            axes.set_title(str(entry["bundle"]["name"]))
            drawing.quiet_grid(axes, "x")
            _plain_log_ticks(axes)
        origin = combined_origin(timed["origin"] for entry in entries for timed in entry["phases"].values())
        panels[-1].set_xlabel(f"time of one run, ms ({origin}), logarithmic")
        panels[-1].set_xlim(low / 1.3, high * 1.3)
        svg = drawing.svg_from_figure(figure, "phases", "distribution of the time of each phase of each bundle")
    caption = (
        "All samples of each phase as a histogram, the median as a line. head and encode run on the device, decode "
        "and tail on the server; full is the bottlenecked network in one piece, baseline the uncompressed one."
    )
    trust = emulation_words(profile.get("emulation"))
    return Picture("Time of each phase", _with_trust(caption, trust), svg, figure)


def _with_trust(caption: str, trust: str) -> str:
    """The caption, and how far to trust what of it is emulated."""
    return f"{caption} {trust[0].upper()}{trust[1:]}." if trust else caption


def _ridge(axes: Axes, row: int, timed: Values, colour: str, low: float, high: float) -> None:
    """A histogram standing on line `row`, its median as a line, and as words in the right margin.

    A phase that was emulated has no samples: its one time is the line.
    """
    import numpy as np

    if not samples_of_phase(timed):
        time_ms = timed["summary"]["p50_ms"]
        _median_line(axes, row, time_ms, f"{number_text(time_ms, 'ms')} ms, {timed['origin']}")
        return
    samples = np.asarray(samples_of_phase(timed), dtype=float)
    edges = np.geomspace(low / 1.05, high * 1.05, 90)
    counts, _ = np.histogram(samples, edges)
    axes.stairs(
        row + 0.35 - 0.75 * counts / max(counts.max(), 1), edges, baseline=row + 0.35, fill=True, color=colour
    )
    median = float(np.median(samples))
    _median_line(axes, row, median, f"median {number_text(median, 'ms')} ms, {len(samples)} samples")


def _median_line(axes: Axes, row: int, median_ms: float, words: str) -> None:
    """A line at the median on line `row`, and `words` in the right margin."""
    axes.plot([median_ms, median_ms], [row + 0.42, row - 0.42], color=drawing.INK, linewidth=1.4)
    axes.annotate(
        words, (1, row), (6, 0),
        xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=9,
    )  # fmt: skip


def bytes_picture(profile: Values) -> Picture:
    """Bytes of one inference on a logarithmic axis: the JPEG of the input, each split's payload, with framing."""
    entries = profile["bundles"]
    if not entries:
        raise ReportError("the profile holds no bundle to draw")
    jpeg = next((entry["input_jpeg_bytes"] for entry in entries if entry.get("input_jpeg_bytes")), None)
    names = ["cloud-only, JPEG input"] if jpeg else []
    names += [f"collaborative at {entry['bundle']['split']}" for entry in entries]
    with drawing.style():
        figure = drawing.new_figure(10, 1.5 + 0.36 * len(names))
        axes = figure.subplots()
        axes.set_xscale("log")
        if jpeg:
            axes.plot(jpeg["mean"], 0, "D", color=drawing.VERMILION, markersize=8, label="JPEG file of the input")
            beside(axes, jpeg["mean"], 0, f"{number_text(jpeg['mean'], 'B')} B")
        for row, entry in enumerate(entries, start=len(names) - len(entries)):
            first = row == len(names) - len(entries)
            payload, framed = entry["payload_bytes"], (entry.get("framed_bytes") or {}).get("request")
            axes.plot([payload["p50"], payload["max"]], [row, row], color=drawing.BLUE, linewidth=2, alpha=0.5)
            axes.plot(
                payload["mean"], row, "o", color=drawing.BLUE, markersize=8,
                label="payload: mean, line to the largest" if first else None,
            )  # fmt: skip
            words = f"{number_text(payload['mean'], 'B')} B"
            if framed is not None:
                axes.plot(
                    framed, row, "s", markersize=8, markerfacecolor="none", markeredgecolor=drawing.ORANGE,
                    markeredgewidth=2, label="with the wire's framing" if first else None,
                )  # fmt: skip
                words += f", framed {number_text(framed, 'B')} B"
            beside(axes, max(payload["max"], framed or 0), row, words)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.28)
        axes.set_xlabel("bytes sent for one inference (measured), logarithmic")
        drawing.quiet_grid(axes, "x")
        _plain_log_ticks(axes)
        figure.legend(loc="outside lower center", ncols=3)
        svg = drawing.svg_from_figure(figure, "bytes", "bytes sent for one inference by each setup")
    return Picture(
        "Offloaded bytes", "What crosses the network for one image. Mobile-only sends nothing.", svg, figure
    )


def accuracy_picture(profile: Values) -> Picture:
    """Accuracy against bytes sent: one point a split, one for cloud-only; the uncompressed network as a line.

    Raises ReportError when no bundle of the profile has an accuracy.
    """
    entries = [entry for entry in profile["bundles"] if entry["accuracy"] is not None]
    if not entries:
        raise ReportError("the profile holds no bundle with an accuracy to draw")
    baseline = next((e["accuracy"]["baseline"] for e in entries if e["accuracy"].get("baseline") is not None), None)
    jpeg = next((entry["input_jpeg_bytes"] for entry in entries if entry.get("input_jpeg_bytes")), None)
    with drawing.style():
        figure = drawing.new_figure(10, 3.8)
        axes = figure.subplots()
        axes.set_xscale("log")
        values = [100 * entry["accuracy"]["split"] for entry in entries]
        if baseline is not None:
            values.append(100 * baseline)
            axes.axhline(100 * baseline, color=drawing.GRAY, linestyle="--", label="uncompressed network")
            axes.axhspan(
                100 * baseline - 2, 100 * baseline, color=drawing.GRAY, alpha=0.15, label="2 points below it"
            )
        for number, entry in enumerate(entries):
            point = (entry["payload_bytes"]["mean"], 100 * entry["accuracy"]["split"])
            axes.plot(*point, "o", color=drawing.BLUE, markersize=9, label=None if number else "collaborative")
            # Above and below in turn, so that the names of near splits do not cover each other.
            _above(axes, *point, str(entry["bundle"]["split"]), 11 if number % 2 == 0 else -12)
        if jpeg and jpeg.get("accuracy") is not None:
            point = (jpeg["mean"], 100 * jpeg["accuracy"])
            values.append(point[1])
            axes.plot(*point, "D", color=drawing.VERMILION, markersize=9, label="cloud-only, JPEG input")
            _above(axes, *point, f"quality {jpeg['quality']}", 12)
        axes.set_ylim(min(values) - 3, min(max(values) + 2, 101))
        axes.margins(x=0.2)
        axes.set_xlabel("payload, bytes (measured), logarithmic")
        axes.set_ylabel("accuracy, % (measured)")
        drawing.quiet_grid(axes, "both")
        _plain_log_ticks(axes)
        figure.legend(loc="outside lower center", ncols=4)
        svg = drawing.svg_from_figure(figure, "accuracy", "accuracy of each split against the bytes it sends")
    words = held_out_words(profile)
    caption = f"{words[0].upper()}{words[1:]}. The axis of accuracy does not start at zero."
    return Picture("Accuracy against bytes", caption, svg, figure)


def beside(axes: Axes, x: float, y: float, words: str) -> None:
    """Words to the right of a point."""
    axes.annotate(words, (x, y), (9, 0), textcoords="offset points", va="center", fontsize=9)


def _above(axes: Axes, x: float, y: float, words: str, points: float) -> None:
    axes.annotate(words, (x, y), (0, points), textcoords="offset points", ha="center", va="center", fontsize=9)


def _plain_log_ticks(axes: Axes) -> None:
    """Ticks at 1, 2, 5, 10, ..., more of them where there are few, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low > 30 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
