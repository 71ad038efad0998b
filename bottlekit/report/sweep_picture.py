"""A map of which choice is best: bandwidth along, the server's load up, a colour for each choice."""

from __future__ import annotations

from bottlekit.errors import ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.setups import Values, candidate_title

COLOURS = (
    drawing.GREEN,
    drawing.YELLOW,
    drawing.SKY,
    drawing.PURPLE,
    drawing.BLUE,
    drawing.ORANGE,
    drawing.VERMILION,
)


def sweep_picture(sweep: Values) -> Picture:
    """The picture of a sweep.json. ReportError if it has fewer than two bandwidths or loads: that is no area."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    uplinks, loads = sweep["uplinks_mbps"], sweep["server_loads"]
    if len(uplinks) < 2 or len(loads) < 2:
        raise ReportError("a picture of a sweep needs at least two bandwidths and two loads")
    titles = [[candidate_title(cell) for cell in row] for row in sweep["cells"]]
    names = sorted({title for row in titles for title in row})
    # More choices than colours: the last ones share gray, and the legend says so.
    colours = [COLOURS[at] if at < len(COLOURS) else drawing.GRAY for at in range(len(names))]
    numbers = [[names.index(title) for title in row] for row in titles]
    with drawing.style():
        figure = drawing.new_figure(8, 4.5)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        shades = ListedColormap(colours)
        # Cells with edges of their own colour: without, the page shines through between them.
        axes.pcolormesh(
            uplinks,
            loads,
            numbers,
            cmap=shades,
            vmin=-0.5,
            vmax=len(names) - 0.5,
            shading="nearest",
            edgecolors="face",
            linewidth=0.5,
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("uplink, Mbit/s")
        axes.set_ylabel("load of the server (times as long)")
        axes.set_title(f"best by {sweep['objective']}, radio of {sweep['link']} (modelled)")
        handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
        svg = drawing.svg_from_figure(figure, "sweep", "best choice by bandwidth and load of the server")
    caption = "Which choice is best for each bandwidth and load of the server; the times of the radio are modelled."
    return Picture("Best choice by network and load", caption, svg)
