"""Claims of BottleNet, section 3.3: training with the codec in the loop keeps accuracy at qualities where training
without it fails (figure 7); and reducing channels and size together costs less accuracy than either alone.

    --sweep   naive and aware training over JPEG's quality, in one run with a shared warm start
    default   channel-wise, spatial and combined reduction to about the same number of values, trained alike

Small by default; the options make it as large as the paper's setup. Networks are kept in --folder. Each way draws a
picture beside its results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import RESULTS, record

from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.splits import split_spec
from bottlekit.models.units import reduced_shape
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.recipe import default_recipe_name, recipe_from_name
from bottlekit.training.sweep import sweep_quality
from bottlekit.training.train import train_backbone, train_bottleneck

CLAIM = "channels and size reduced together keep more accuracy than either alone; aware training more than naive"


def main() -> None:
    """Train what was asked for, print and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="cifar_resnet20")
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--split", default="rb1")
    parser.add_argument("--values", type=int, help="values of a reduced feature; default a 64th of the feature's")
    parser.add_argument("--quality", type=int, default=20)
    parser.add_argument("--backbone-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--sweep", metavar="Q,Q,...", help="JPEG qualities for figure 7")
    parser.add_argument("--folder", type=Path, default=Path("reductions"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = dataset_from_name(options.data, input_size=options.input_size)
    name = default_recipe_name(data.name)
    source = options.folder / "network.safetensors"
    if not source.exists():
        how = recipe_from_name(name, "backbone", epochs=options.backbone_epochs)
        train_backbone(source, options.backbone, data, how, quiet=True)
    recipe = recipe_from_name(name, "bottleneck", epochs=options.epochs)
    if options.sweep:
        qualities = [int(part) for part in options.sweep.split(",")]
        unit = BottleneckSpec("bottlenet", options.split, 2, 2, 3)
        swept = sweep_quality(
            options.folder / "sweep.json", source, unit, CodecSpec("jpeg"), qualities, recipe, data, quiet=True
        )
        for point in swept["points"]:
            print(
                f"quality {point['quality']:3}  " + "  ".join(line(way, point[way]) for way in ("naive", "aware"))
            )
        picture = RESULTS / f"reductions-figure7-{name}.svg"
        draw_sweep(swept, f"{options.backbone}, {data.name}, {options.split}", picture)
        print(f"written: {record(CLAIM, {'figure': 7, **swept})} and {picture}")
        return
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for way, unit in units(load_checkpoint(source).model, options.split, options.values).items():
            size = f"{unit.channels}-{unit.spatial}"
            path = options.folder / f"{way}-{size}-{options.split}-{options.quality}-seed{seed}.safetensors"
            if not path.exists():
                codec = CodecSpec("jpeg", 8, options.quality)
                train_bottleneck(path, source, unit, codec, recipe, data, seed, quiet=True)
            trained = load_checkpoint(path)
            shape = reduced_shape(unit, split_spec(trained.model, unit.split))
            rows.append({"way": way, "seed": seed, "shape": list(shape), "unit": unit.__dict__, **trained.accuracy})
            found = f"{trained.accuracy['split']:.2%}  {trained.accuracy['payload_bytes_mean']} B"
            print(f"{way:9} {shape!s:14} seed {seed}  {found}", flush=True)
    picture = RESULTS / f"reductions-{name}.svg"
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


def draw_sweep(swept: dict[str, Any], title: str, path: Path) -> None:
    """Quality against accuracy of both ways, and below against bytes."""
    figure, (above, below) = figure_of(2)
    qualities = [point["quality"] for point in swept["points"]]
    for way, marker in (("naive", "s"), ("aware", "o")):
        some = [point[way] for point in swept["points"]]
        accuracies = [100 * point["accuracy"] for point in some]
        above.plot(qualities, accuracies, f"{marker}-", label=way)
        below.plot([point["payload_bytes_mean"] for point in some], accuracies, f"{marker}-", label=way)
    for axes in (above, below):
        axes.axhline(100 * swept["baseline_accuracy"], color="gray", linewidth=1, linestyle="--")
        axes.set_ylabel(f"accuracy on {swept['held_out_images']} images in %", fontsize=8)
        axes.legend(fontsize=8)
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
