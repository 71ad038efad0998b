"""What the benchmarks that train bottlenecks share: their options, the network that all begin with, and going on.

    options --backbone_of--> <folder>/network.safetensors --bottleneck_of--> <folder>/<name>.safetensors

Finished trainings are kept in --folder and not repeated, interrupted ones go on where they stopped: delete it to
start anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.bottleneck import BottleneckTraining, warm_up_path
from bottlekit.training.data import DataSet
from bottlekit.training.recipe import Recipe, default_recipe_name, recipe_from_name
from bottlekit.training.resume import resume_path
from bottlekit.training.train import train_backbone, train_bottleneck


def training_parser(description: str | None, folder: str) -> argparse.ArgumentParser:
    """The options that all have, small by default: `folder` is where the networks are kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="cifar_resnet20")
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--backbone-epochs", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=numbers(int), default=[0])
    parser.add_argument("--folder", type=Path, default=Path(folder))
    return parser


def numbers(kind: type[Any]) -> Any:
    """A list with commas, as an argument's type."""
    return lambda text: [kind(part) for part in text.split(",")]


def backbone_of(options: argparse.Namespace, data: DataSet) -> Path:
    """The checkpoint of the uncompressed network, trained if there is none."""
    options.folder.mkdir(parents=True, exist_ok=True)
    path: Path = options.folder / "network.safetensors"
    if not path.exists():
        recipe = recipe_from_name(default_recipe_name(data.name), "backbone", epochs=options.backbone_epochs)
        going_on = resume_path(path).exists()
        train_backbone(path, options.backbone, data, recipe, resume=going_on, quiet=True)
    return path


def recipe_of(options: argparse.Namespace, data: DataSet) -> Recipe:
    """How a bottleneck is trained."""
    return recipe_from_name(default_recipe_name(data.name), "bottleneck", epochs=options.epochs)


def bottleneck_of(
    path: Path,
    source: Path,
    unit: BottleneckSpec,
    codec: CodecSpec,
    recipe: Recipe,
    data: DataSet,
    seed: int,
    how: BottleneckTraining | None = None,
) -> None:
    """The network at `path`, trained if there is none."""
    if not path.exists():
        state = resume_path(path)
        going_on = state.exists() or warm_up_path(state).exists()
        train_bottleneck(path, source, unit, codec, recipe, data, seed, how, resume=going_on, quiet=True)
