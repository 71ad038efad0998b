"""The comparison, the table and the picture of `sc2bench_side_by_side.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bytes_curves import Setting, ratio_at, shared_accuracies

Run = dict[str, Any]


def settings_of(points: list[Run]) -> dict[str, dict[tuple[int, float], list[Run]]]:
    """The seeds of each setting, the first seed first, of each method."""
    found: dict[str, dict[tuple[int, float], list[Run]]] = {}
    for point in sorted(points, key=lambda point: int(point["seed"])):
        of_method = found.setdefault(point["method"], {})
        of_method.setdefault((point["channels"], point["weight"]), []).append(point)
    return found


def comparison(points: list[Run], ours: str) -> list[dict[str, Any]]:
    """Bytes of `ours` over those of each other method, at accuracies that both have."""
    curves = {
        method: [
            Setting(
                np.array([point["sizes"] for point in seeds], dtype=float),
                np.array([[int(answer) for answer in point["right"]] for point in seeds], dtype=float),
            )
            for seeds in settings.values()
        ]
        for method, settings in settings_of(points).items()
    }
    return [
        {"against": method, **ratio_at(curves[ours], curve, accuracy)}
        for method, curve in curves.items()
        if method != ours
        for accuracy in shared_accuracies(curves[ours], curve)
    ]


def report(figures: dict[str, Any]) -> None:
    """The tables that a person reads."""
    print(f"uncompressed network {figures['baseline']:.2%}")
    for method, settings in settings_of(figures["points"]).items():
        for (channels, weight), seeds in sorted(settings.items()):
            told = f"{method:22} {channels:2} channels, weight {weight:<7g}"
            told += f" {mean_of('sizes', seeds):6.1f} B {mean_of('accuracy', seeds):7.2%}"
            told += f" {seeds[0]['head_macs'] / 1e6:.1f} M MACs, each seed"
            told += ",".join(f" {np.mean(point['sizes']):.1f} B {point['accuracy']:.1%}" for point in seeds)
            print(told)
            if seeds[0]["codes"] is None:
                continue
            kinds = {kind: np.mean([point["codes"][kind] for point in seeds]) for kind in seeds[0]["codes"]}
            told = f"{'':22} its codes: {kinds['values']:.1f} values, {kinds['table_bytes']:.1f} B by one table, "
            told += f"{kinds['learned_bytes']:.1f} B by `learned`"
            if seeds[0].get("ideal_bits"):
                told += f", {mean_of('ideal_bits', seeds) / 8:.1f} B by its own density"
            print(told)
    for row in figures["comparison"]:
        told = "not reached by both"
        if row["ratio"] is not None:
            told = f"{row['ours_bytes']:.1f} / {row['theirs_bytes']:.1f} B = {row['ratio']:.2f}"
            told += f" ({row['low']:.2f} to {row['high']:.2f}, both reach it in {row['reached']:.0%})"
        print(f"at {row['accuracy']:.2%}, against {row['against']}: {told}")
    for name, phases in figures["times_ms"].items():
        print(name, *(f"{phase} {np.median(values):.3f} ms" for phase, values in phases.items()))


def mean_of(key: str, seeds: list[Run]) -> float:
    """The mean over seeds and, where there is one for each, over images."""
    return float(np.mean([np.mean(point[key]) for point in seeds]))


def draw(figures: dict[str, Any], path: Path) -> None:
    """Bytes against accuracy: a small marker for each seed, a line through the means of the settings."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    matplotlib.rcParams["svg.hashsalt"] = "bottlekit"
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for color, (method, settings) in enumerate(settings_of(figures["points"]).items()):
        for seeds in settings.values():
            for point in seeds:
                axes.plot(np.mean(point["sizes"]), 100 * point["accuracy"], ".", color=f"C{color}", alpha=0.4)
        means = sorted((mean_of("sizes", seeds), 100 * mean_of("accuracy", seeds)) for seeds in settings.values())
        axes.plot(*zip(*means, strict=True), "o-", color=f"C{color}", label=method)
    axes.axhline(100 * figures["baseline"], color="gray", linewidth=1, linestyle="--", label="without a bottleneck")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.set_xlabel("mean payload in bytes, without its frame")
    axes.set_ylabel(f"accuracy on {figures['held_out_images']} held-out images in %")
    axes.set_title(f"{figures['backbone']}, {figures['data']}, {figures['input_size']} pixels", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, metadata={"Date": None})
