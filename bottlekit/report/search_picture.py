"""Accuracy by width at every split point, as figure 7 of Butterfly shows it."""

from __future__ import annotations

from bottlekit.errors import ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.setups import Values

COLOURS = (
    drawing.VERMILION,
    drawing.ORANGE,
    drawing.GREEN,
    drawing.SKY,
    drawing.BLUE,
    drawing.PURPLE,
)
MARKERS = "osD^vPX"


def search_picture(found: Values) -> Picture:
    """The picture of a search.json: a line for each width over the split points, a ring where it was taken.

    Of a width that was trained in several rungs the last is shown. ReportError if there is no accuracy at all.
    """
    names = [entry["split"] for entry in found["splits"]]
    lines: dict[tuple[int, int], dict[int, float]] = {}
    for place, entry in enumerate(found["splits"]):
        for training in sorted(entry["trainings"], key=lambda one: int(one["rung"])):
            if training["accuracy"] is not None:
                width = (training["spatial"], training["channels"])
                lines.setdefault(width, {})[place] = 100 * training["accuracy"]
    if not lines:
        raise ReportError("no training of this search has an accuracy, so there is nothing to draw")
    with drawing.style():
        figure = drawing.new_figure(max(6.0, 2.5 + 0.6 * len(names)), 4.2)
        axes = figure.subplots()
        drawing.quiet_grid(axes, "y")
        several = len({spatial for spatial, _ in lines}) > 1
        for number, (width, points) in enumerate(sorted(lines.items())):
            label = f"{width[1]} channels" if width[1] != 1 else "1 channel"
            axes.plot(
                [place if place in points else float("nan") for place in range(len(names))],
                [points.get(place, float("nan")) for place in range(len(names))],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linewidth=1.2,
                markersize=5,
                label=f"{label}, s = {width[0]}" if several else label,
            )
        taken = [
            (place, 100 * entry["found"]["accuracy"])
            for place, entry in enumerate(found["splits"])
            if entry["found"] is not None
        ]
        if taken:
            places, heights = zip(*taken, strict=True)
            axes.scatter(
                places,
                heights,
                s=130,
                facecolors="none",
                edgecolors=drawing.INK,
                linewidths=1.4,
                zorder=3,
                label="taken",
            )
        axes.axhline(
            100 * found["baseline_accuracy"], color=drawing.GRAY, linewidth=1, label="uncompressed network"
        )
        axes.axhline(
            100 * found["least_accuracy"], color=drawing.INK, linewidth=1, linestyle="--", label="accurate enough"
        )
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_xlabel("split point")
        axes.set_ylabel("accuracy, %")
        axes.set_title(f"{found['backbone']}, {found['unit']} unit: accuracy by width")
        figure.legend(loc="outside right upper")
        svg = drawing.svg_from_figure(figure, "search", "accuracy by width of the bottleneck at each split point")
    caption = (
        "Accuracy on held-out images of every width that was trained, at each split point; a ring is the smallest "
        "that is accurate enough (as in figure 7 of Butterfly)."
    )
    return Picture("Accuracy by width", caption, svg, figure)
