"""A search as it was asked for, with everything checked that can be checked before the first training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.splits import split_names, split_spec
from bottlekit.models.units import reduced_shape
from bottlekit.specs import CodecSpec, to_dict
from bottlekit.training.evaluate import accuracy
from bottlekit.training.recipe import Recipe, default_recipe_name, recipe_from_name
from bottlekit.training.search.decisions import Goal, Mode, Trial
from bottlekit.training.search.grid import Reduction, grid
from bottlekit.training.search.job import Job
from bottlekit.training.train import check_data, data_of_checkpoint, uncompressed


@dataclasses.dataclass(frozen=True)
class Request:
    """What is searched. `settings` make trainings comparable, as JSON values; see `Store`."""

    grids: Mapping[str, tuple[Reduction, ...]]
    goal: Goal
    baseline: float
    max_accuracy_drop: float
    template: Job
    settings: dict[str, Any]

    def job(self, trial: Trial) -> Job:
        """The trial with all that decides what it gives."""
        return dataclasses.replace(self.template, trial=trial)


def request_from_checkpoint(
    source: Path,
    unit: str,
    splits: Sequence[str] | None,
    channels: Sequence[int],
    spatials: Sequence[int],
    codec: CodecSpec,
    mode: Mode,
    max_accuracy_drop: float,
    recipe: str | None,
    changes: Mapping[str, Any],
    seed: int,
    data_root: Path | None,
    command: str,
) -> Request:
    """A request about the uncompressed network of a checkpoint; its accuracy is measured here.

    `splits` None are all that the backbone declares. Raises UnknownNameError for a split point, unit or recipe that
    does not exist, UsageError for an empty grid, CodecError, CheckpointError, DataError.
    """
    if unit not in ("bottlenet", "butterfly"):
        raise UnknownNameError("unit", unit, ["bottlenet", "butterfly"])
    checkpoint = load_checkpoint(source)
    names = split_names(checkpoint.model.backbone) if splits is None else splits
    specs = {spec.name: spec for spec in (split_spec(checkpoint.model, name) for name in names)}
    if len(specs) != len(names):
        raise UsageError(f"--splits names one split point twice: {', '.join(names)}")
    ordered = sorted(specs.values(), key=lambda spec: spec.index)
    grids = {spec.name: grid(unit, spec, channels, spatials) for spec in ordered}  # type: ignore[arg-type]
    for spec in ordered:
        for width in grids[spec.name]:
            shape = reduced_shape(width.spec(unit, spec.name), spec)  # type: ignore[arg-type]
            codec_from_spec(to_dict(codec), shape)
    data = data_of_checkpoint(checkpoint, data_root, seed, quiet=True)
    check_data(checkpoint, data)
    how: Recipe = recipe_from_name(recipe or default_recipe_name(data.name), "bottleneck", **changes)
    if how.epochs < 1:
        raise UsageError("a search trains: its recipe needs at least one epoch")
    baseline = accuracy(uncompressed(checkpoint), data.val)
    settings = {
        "format": "bottlekit-search-settings",
        "version": 1,
        "checkpoint_sha256": sha256_of_file(str(source)),
        "backbone": checkpoint.model.backbone,
        "data": data.name.partition(":")[0],
        "training_images": len(data.train),
        "unit": unit,
        "codec": to_dict(codec),
        "recipe": to_dict(how),
        "seed": seed,
    }
    first = Trial(ordered[0].name, grids[ordered[0].name][0], how.epochs)
    root = None if data_root is None else str(data_root.resolve())
    template = Job(first, unit, codec, how, seed, root, command)  # type: ignore[arg-type]
    goal = Goal(baseline - max_accuracy_drop, len(data.val), how.epochs, mode)
    return Request(grids, goal, baseline, max_accuracy_drop, template, settings)
