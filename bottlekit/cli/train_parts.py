"""What `bottlekit train` makes of its options before anything is trained."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import say
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bottlekit.training.data import DataSet
    from bottlekit.training.recipe import Phase, Recipe


def refuse(options: dict[str, Any], reason: str) -> None:
    """Raise UsageError if any of these options was given."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {reason}")


def images_for(
    source: Path, split: str | None, data: str | None, root: Path | None, seed: int, quiet: bool
) -> DataSet:
    """The data for a bottleneck: what was asked for, or else what the checkpoint was trained on."""
    from bottlekit.models.checkpoint import load_checkpoint
    from bottlekit.models.splits import split_names, split_spec
    from bottlekit.training.data import dataset_from_name
    from bottlekit.training.train import data_of_checkpoint

    checkpoint = load_checkpoint(source)
    if split is None:
        names = ", ".join(split_names(checkpoint.model.backbone))
        raise UsageError(f"where shall the bottleneck go? add --split; {checkpoint.model.backbone} has {names}")
    split_spec(checkpoint.model, split)
    if data is None:
        return data_of_checkpoint(checkpoint, root, seed, quiet)
    return dataset_from_name(data, root, checkpoint.model.input_size, seed, quiet)


def recipe_for(name: str | None, images: DataSet, phase: Phase, changes: dict[str, Any]) -> Recipe:
    """The recipe of this name or file, the data set's own without one; `changes` are what was given instead."""
    from bottlekit.training.recipe import default_recipe_name, recipe_from_name

    return recipe_from_name(name or default_recipe_name(images.name), phase, **changes)


def numbers_from_text(option: str, text: str) -> tuple[int, ...]:
    """Numbers with commas between them; UsageError, which names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers with commas between them (1,5,20), not '{text}'") from None


@contextlib.contextmanager
def resume_advice(output: Path) -> Iterator[None]:
    """Say how to go on when the user interrupts, if there is something to go on from."""
    from bottlekit.training.bottleneck import warm_up_path
    from bottlekit.training.resume import resume_path

    try:
        yield
    except KeyboardInterrupt:
        path = resume_path(output)
        for kept in (path, warm_up_path(path)):
            if kept.exists():
                say(f"\nwhat was finished is in {kept}; the same command with --resume goes on")
                break
        raise
