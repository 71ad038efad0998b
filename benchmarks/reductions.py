"""Claim of BottleNet, section 3.3 and figure 7: training with the codec in the loop keeps accuracy at qualities
where training without it fails. And what the paper says it compared, without figures (section 2.1): channels
reduced, size reduced, and both, which is what it then uses.

    --sweep   naive and aware training over JPEG's quality, in one run with a shared warm start
    default   channel-wise, spatial and combined reduction to about the same number of values, trained alike

Small by default; the options make it as large as the paper's setup. Networks are kept in --folder, and so is what a
sweep has finished. Each way draws a picture beside its results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import RESULTS, record
from small_trainings import backbone_of, bottleneck_of, numbers, recipe_of, training_parser

from bottlekit.device.files import read_json
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.splits import split_spec
from bottlekit.models.units import reduced_shape
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training.data import DataSet, dataset_from_name
from bottlekit.training.resume import resume_path
from bottlekit.training.sweep import sweep_quality

CLAIM = "channels and size reduced together keep more accuracy than either alone; aware training more than naive"


def main() -> None:
    """Train what was asked for, print and record it."""
    parser = training_parser(__doc__, "reductions")
    parser.add_argument("--split", default="rb1")
    parser.add_argument("--values", type=int, help="values of a reduced feature; default a 64th of the feature's")
    parser.add_argument("--quality", type=int, default=20)
    parser.add_argument("--sweep", type=numbers(int), metavar="Q,Q,...", help="JPEG qualities for figure 7")
    options = parser.parse_args()
    data = dataset_from_name(options.data, input_size=options.input_size)
    source = backbone_of(options, data)
    compare = sweep if options.sweep else compare_reductions
    compare(options, data, source)


def sweep(options: argparse.Namespace, data: DataSet, source: Path) -> None:
    """Figure 7: naive and aware at every quality, with each seed."""
    unit = BottleneckSpec("bottlenet", options.split, 2, 2, 3)
    sweeps = []
    for seed in options.seeds:
        output = options.folder / f"sweep-{options.split}-seed{seed}.json"
        if not output.exists():
            going_on = resume_path(output).exists()
            recipe = recipe_of(options, data)
            sweep_quality(
                output, source, unit, CodecSpec("jpeg"), options.sweep, recipe, data, seed,
                quiet=True, resume=going_on,
            )  # fmt: skip
        swept = read_json(str(output), "sweep")
        sweeps.append(swept)
        for point in swept["points"]:
            ways = "  ".join(line(way, point[way]) for way in ("naive", "aware"))
            print(f"seed {seed}  quality {point['quality']:3}  {ways}", flush=True)
    picture = RESULTS / f"reductions-figure7-{data.name.replace(':', '-')}.svg"
    draw_sweeps(sweeps, f"{options.backbone}, {data.name}, {options.split}", picture)
    print(f"written: {record(CLAIM, {'figure': 7, 'sweeps': sweeps})} and {picture}")


def compare_reductions(options: argparse.Namespace, data: DataSet, source: Path) -> None:
    """Channel-wise, spatial and combined reduction, with each seed."""
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for way, unit in units(load_checkpoint(source).model, options.split, options.values).items():
            size = f"{unit.channels}-{unit.spatial}"
            path = options.folder / f"{way}-{size}-{options.split}-{options.quality}-seed{seed}.safetensors"
            codec = CodecSpec("jpeg", 8, options.quality)
            bottleneck_of(path, source, unit, codec, recipe_of(options, data), data, seed)
            trained = load_checkpoint(path)
            shape = reduced_shape(unit, split_spec(trained.model, unit.split))
            rows.append({"way": way, "seed": seed, "shape": list(shape), "unit": unit.__dict__, **trained.accuracy})
            found = f"{trained.accuracy['split']:.2%}  {trained.accuracy['payload_bytes_mean']} B"
            print(f"{way:9} {shape!s:14} seed {seed}  {found}", flush=True)
    picture = RESULTS / f"reductions-{data.name.replace(':', '-')}.svg"
    draw_reductions(rows, f"{options.backbone}, {data.name}, {options.split}, quality {options.quality}", picture)
    figures = {
        "figure": "reductions", "data": data.name, "backbone": options.backbone, "input_size": data.input_size,
        "split": options.split, "quality": options.quality, "epochs": options.epochs, "rows": rows,
    }  # fmt: skip
    print(f"written: {record(CLAIM, figures)} and {picture}")


def units(model: ModelSpec, split_name: str, values: int | None) -> dict[str, BottleneckSpec]:
    """A channel-wise, a spatial and a combined reduction to as near `values` values as each can."""
    split = split_spec(model, split_name)
    pixels = split.height * split.width
    # A reduction of channels alone cannot go below one.
    values = max(values or split.channels * pixels // 64, pixels)
    channels = max(1, round(values / pixels))
    spatial = max(2, round((split.channels * pixels / values) ** 0.5))
    return {
        "channel": BottleneckSpec("bottlenet", split_name, channels, 1, 3),
        "spatial": BottleneckSpec("bottlenet", split_name, 0, spatial, spatial + 1),
        "combined": BottleneckSpec("bottlenet", split_name, min(4 * channels, split.channels), 2, 3),
    }


def draw_sweeps(sweeps: list[dict[str, Any]], title: str, path: Path) -> None:
    """Quality against accuracy of both ways, and below against bytes; a line a seed."""
    figure, (above, below) = figure_of(2)
    for swept in sweeps:
        qualities = [point["quality"] for point in swept["points"]]
        for way, style in (("naive", "C0s-"), ("aware", "C1o-")):
            some = [point[way] for point in swept["points"]]
            accuracies = [100 * point["accuracy"] for point in some]
            label = way if swept is sweeps[0] else None
            above.plot(qualities, accuracies, style, label=label, linewidth=1, markersize=4)
            sizes = [point["payload_bytes_mean"] for point in some]
            below.plot(sizes, accuracies, style, label=label, linewidth=1, markersize=4)
    for axes in (above, below):
        axes.axhline(100 * sweeps[0]["baseline_accuracy"], color="gray", linewidth=1, linestyle="--")
        axes.set_ylabel(f"accuracy on {sweeps[0]['held_out_images']} images in %", fontsize=8)
        axes.legend(fontsize=8)
    # Where ways differ, qualities are small and files little more than their headers.
    above.set_xscale("log")
    above.set_xticks(qualities, [str(quality) for quality in qualities])
    above.minorticks_off()
    above.set_xlabel("JPEG quality")
    below.set_xlabel("mean payload in bytes, a complete JPEG file and 8 bytes of range")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None})


def draw_reductions(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """Bytes against accuracy, a marker a seed, a colour a way of reducing."""
    figure, (axes,) = figure_of(1)
    for way in dict.fromkeys(row["way"] for row in rows):
        some = [row for row in rows if row["way"] == way]
        label = f"{way}: {' x '.join(map(str, some[0]['shape']))}"
        axes.plot([r["payload_bytes_mean"] for r in some], [100 * r["split"] for r in some], "o", label=label)
    axes.axhline(100 * rows[0]["baseline"], color="gray", linewidth=1, linestyle="--")
    axes.set_xlabel("mean payload in bytes, a complete JPEG file and 8 bytes of range")
    axes.set_ylabel(f"accuracy on {rows[0]['images']} images in %")
    axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None})


def figure_of(panels: int) -> tuple[Any, Any]:
    """A figure for an SVG file that is the same for the same values, and its panels, one below the other."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bottlekit"
    figure, axes = pyplot.subplots(panels, 1, figsize=(6, 0.8 + 2.8 * panels), layout="constrained", squeeze=False)
    RESULTS.mkdir(exist_ok=True)
    return figure, axes[:, 0]


def line(way: str, point: dict[str, float]) -> str:
    """One way at one quality."""
    return f"{way} {point['accuracy']:7.2%} {point['payload_bytes_mean']:6.1f} B"


if __name__ == "__main__":
    main()
