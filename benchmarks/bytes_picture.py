"""The picture of `bytes_accuracy.py`: bytes against wrong answers, a panel for each split point."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bytes_points import JPEG_LIKE, LOSSLESS, Point

_TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)
_FRAMED_TICKS = (30, 50, 100, 200, 500, 1000)
_WRONG_TICKS = (0, 1, 2, 5, 10, 20, 50)
_RATE_AWARE = "learned, trained for it"
_STATIC_JPEG = "jpeg-lean, trained with it"
_MARKERS = dict(zip((_RATE_AWARE, *JPEG_LIKE, *LOSSLESS, _STATIC_JPEG), "*sDhovP^X<", strict=True))
_LARGE = ("jpeg-lean", _RATE_AWARE, _STATIC_JPEG)


def draw(figures: Point, path: Path) -> None:
    """Every network with every codec that was measured; filled markers have a static range. Above: framed bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bottlekit"
    splits = list(dict.fromkeys(point["split"] for point in figures["points"]))
    figure, panels = pyplot.subplots(
        1, len(splits), figsize=(3 + 3.6 * len(splits), 4.6), layout="constrained", sharey=True, squeeze=False
    )
    legend: dict[str, Any] = {}
    for split, axes in zip(splits, panels[0], strict=True):
        for number, name in enumerate(_MARKERS):
            for value_range in ("image", "static"):
                some = [
                    point["held_out"] for point in figures["points"]
                    if (point["split"], _series(point), point["range"]) == (split, name, value_range)
                ]  # fmt: skip
                if not some:
                    continue
                large = name in _LARGE
                (legend[f"{name}, {value_range} range"],) = axes.plot(
                    [point["mean_bytes"] for point in some], [_wrong(point["accuracy"]) for point in some],
                    _MARKERS[name], color=f"C{number}", markersize=8 if large else 4, zorder=3 if large else 2,
                    markerfacecolor=f"C{number}" if value_range == "static" else "none",
                )  # fmt: skip
        axes.axhline(_wrong(figures["baseline"]), color="gray", linewidth=1, linestyle="--")
        axes.set_title(split, fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("mean payload in bytes", fontsize=8)
        _tick(axes.xaxis, _TICKS)
        above = axes.secondary_xaxis("top", functions=_framed(figures["points"]))
        _tick(above.xaxis, _FRAMED_TICKS)
    # Up is better, and the last point of accuracy is as high as the ten below.
    panels[0][0].set_yscale("symlog", linthresh=1)
    panels[0][0].set_ylim(1.3 * max(_wrong(point["held_out"]["accuracy"]) for point in figures["points"]), -0.2)
    _tick(panels[0][0].yaxis, _WRONG_TICKS)
    panels[0][0].set_ylabel(f"wrong answers to {figures['held_out_images']} held-out images in %", fontsize=8)
    figure.suptitle(
        f"{figures['backbone']}, {figures['data']}, {figures['input_size']} pixels; above: bytes with their frame",
        fontsize=10,
    )
    figure.legend(legend.values(), legend, fontsize=7, loc="outside right center")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _wrong(accuracy: float) -> float:
    """In %."""
    return 100 * (1 - accuracy)


def _series(point: Point) -> str:
    """The codec; or that its network was trained for it, or with the range that it has."""
    if point["codec"] == point["trained_with"] == "learned":
        return _RATE_AWARE
    return (
        _STATIC_JPEG if (point["codec"], point["trained_range"]) == ("jpeg-lean", "static") else str(point["codec"])
    )


def _tick(axis: Any, places: Iterable[int]) -> None:
    from matplotlib import ticker

    axis.set_major_locator(ticker.FixedLocator(list(places)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_tick_params(labelsize=7)


def _framed(points: list[Point]) -> tuple[Any, Any]:
    """From payload bytes to framed bytes and back: what a frame adds differs by a byte or two at most."""
    found = [point["held_out"]["mean_framed_bytes"] - point["held_out"]["mean_bytes"] for point in points]
    overhead = sum(found) / len(found)
    return (lambda x: x + overhead), (lambda x: x - overhead)
