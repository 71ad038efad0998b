"""The table and the picture of `sc2bench_side_by_side.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Run = dict[str, Any]


def report(figures: dict[str, Any]) -> None:
    """The tables that a person reads."""
    print(f"uncompressed network {figures['baseline']:.2%}")
    settings: dict[tuple[str, int, float], list[Run]] = {}
    for point in figures["points"]:
        settings.setdefault((point["method"], point["channels"], point["weight"]), []).append(point)
    for (method, channels, weight), some in settings.items():
        size, accuracy = (np.mean([np.mean(p[key]) for p in some]) for key in ("sizes", "accuracy"))
        ideal = np.mean([np.mean(p["ideal_bits"]) / 8 for p in some]) if some[0].get("ideal_bits") else np.nan
        what = f"{method:14} {channels:2} channels, weight {weight:<7g}"
        macs_m = some[0]["head_macs"] / 1e6
        print(f"{what} {size:6.1f} B (ideal {ideal:5.1f})  {accuracy:7.2%}  {macs_m:.1f} M MACs")
    for row in figures["comparison"]:
        told = "not reached by both"
        if row["ratio"] is not None:
            told = f"{row['ours_bytes']:.1f} / {row['theirs_bytes']:.1f} B = {row['ratio']:.2f}"
            told += f" ({row['low']:.2f} to {row['high']:.2f}, both reach it in {row['reached']:.0%})"
        print(f"at {row['accuracy']:.2%}, against {row['against']}: {told}")
    for method, phases in figures["times_ms"].items():
        print(method, *(f"{phase} {np.median(values):.3f} ms" for phase, values in phases.items()))


def draw(figures: dict[str, Any], path: Path) -> None:
    """Bytes against accuracy: a small marker for each seed, a line through the means of the settings."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bottlekit"
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    methods = dict.fromkeys(point["method"] for point in figures["points"])
    for color, method in enumerate(methods):
        of_method = [point for point in figures["points"] if point["method"] == method]
        settings: dict[tuple[int, float], list[Run]] = {}
        for point in of_method:
            settings.setdefault((point["channels"], point["weight"]), []).append(point)
            axes.plot(np.mean(point["sizes"]), 100 * point["accuracy"], ".", color=f"C{color}", alpha=0.4)
        means = sorted(
            (float(np.mean([p["sizes"] for p in some])), 100 * float(np.mean([p["accuracy"] for p in some])))
            for some in settings.values()
        )
        axes.plot(*zip(*means, strict=True), "o-", color=f"C{color}", label=method)
    axes.axhline(100 * figures["baseline"], color="gray", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("mean payload in bytes, without its frame")
    axes.set_ylabel(f"accuracy on {figures['held_out_images']} held-out images in %")
    axes.set_title(f"{figures['backbone']}, {figures['data']}, {figures['input_size']} pixels", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
