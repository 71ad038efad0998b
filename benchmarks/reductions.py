"""Claims of BottleNet, section 3.3: training with the codec in the loop keeps accuracy at qualities where training
without it fails (figure 7); and reducing channels and size together costs less accuracy than either alone.

    --sweep   naive and aware training over JPEG's quality, in one run with a shared warm start
    default   channel-wise, spatial and combined reduction to about the same number of values, trained alike

Small by default; the options make it as large as the paper's setup. Networks are kept in --folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import record

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
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--split", default="rb1")
    parser.add_argument("--values", type=int, help="values of a reduced feature; default a 64th of the feature's")
    parser.add_argument("--quality", type=int, default=20)
    parser.add_argument("--backbone-epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sweep", metavar="Q,Q,...", help="JPEG qualities for figure 7")
    parser.add_argument("--folder", type=Path, default=Path("reductions"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = dataset_from_name(options.data, input_size=options.input_size)
    name = default_recipe_name(data.name)
    source = options.folder / "network.safetensors"
    if not source.exists():
        how = recipe_from_name(name, "backbone", epochs=options.backbone_epochs)
        train_backbone(source, options.backbone, data, how)
    recipe = recipe_from_name(name, "bottleneck", epochs=options.epochs)
    if options.sweep:
        qualities = [int(part) for part in options.sweep.split(",")]
        unit = BottleneckSpec("bottlenet", options.split, 2, 2, 3)
        swept = sweep_quality(
            options.folder / "sweep.json", source, unit, CodecSpec("jpeg"), qualities, recipe, data
        )
        for point in swept["points"]:
            print(
                f"quality {point['quality']:3}  " + "  ".join(line(way, point[way]) for way in ("naive", "aware"))
            )
        print(f"written: {record(CLAIM, {'figure': 7, **swept})}")
        return
    rows: list[dict[str, Any]] = []
    for way, unit in units(load_checkpoint(source).model, options.split, options.values).items():
        path = options.folder / f"{way}-{options.quality}.safetensors"
        if not path.exists():
            train_bottleneck(path, source, unit, CodecSpec("jpeg", 8, options.quality), recipe, data)
        trained = load_checkpoint(path)
        shape = reduced_shape(unit, split_spec(trained.model, unit.split))
        rows.append({"way": way, "shape": list(shape), "unit": unit.__dict__, **trained.accuracy})
        print(f"{way:9} {shape!s:14} {trained.accuracy['split']:.2%}  {trained.accuracy['payload_bytes_mean']} B")
    print(f"written: {record(CLAIM, {'figure': 'reductions', 'split': options.split, 'rows': rows})}")


def units(model: ModelSpec, split_name: str, values: int | None) -> dict[str, BottleneckSpec]:
    """A channel-wise, a spatial and a combined reduction to as near `values` values as each can."""
    split = split_spec(model, split_name)
    pixels = split.height * split.width
    values = values or split.channels * pixels // 64
    channels = max(1, round(values / pixels))
    spatial = max(2, round((split.channels * pixels / values) ** 0.5))
    return {
        "channel": BottleneckSpec("bottlenet", split_name, channels, 1, 3),
        "spatial": BottleneckSpec("bottlenet", split_name, 0, spatial, spatial + 1),
        "combined": BottleneckSpec("bottlenet", split_name, min(4 * channels, split.channels), 2, 3),
    }


def line(way: str, point: dict[str, float]) -> str:
    """One way at one quality."""
    return f"{way} {point['accuracy']:7.2%} {point['payload_bytes_mean']:6.1f} B"


if __name__ == "__main__":
    main()
