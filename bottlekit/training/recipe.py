"""Training recipes: numbers in a TOML file, one table for the backbone and one for the bottleneck."""

from __future__ import annotations

import dataclasses
import math
import sys
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from bottlekit.errors import UnknownNameError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Phase = Literal["backbone", "bottleneck"]
PHASES: tuple[Phase, ...] = ("backbone", "bottleneck")

RECIPE_OF_DATA = {
    "digits": "digits",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "miniimagenet": "miniimagenet",
    "folder": "miniimagenet",
    "fractals": "fractals",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train, whatever the network.

    `epochs` 0 trains nothing: the weights are taken as they are. `warmup_epochs` raises the learning rate
    linearly from 0; after it, `schedule` "cosine" lowers it to 0, "step" multiplies it by `step_factor` every
    `step_epochs`, or at each of the `milestones` (epochs) where there are any, "constant" keeps it. `weight_decay`
    spares biases and batch norms. `amp` uses half precision where there is a GPU. `evaluate_every` so many epochs
    the held-out accuracy is shown; 0: at the end only. `name` is the recipe it came from.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    step_epochs: int = 30
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    label_smoothing: float = 0.0
    amp: bool = True
    evaluate_every: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("step_epochs", 1), ("evaluate_every", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{_option(name)} must be a whole number of at least {least}, not {value!r}")
        if not _rise(self.milestones):
            raise UsageError(f"the recipe's milestones must be epochs above 0 that rise, not {self.milestones!r}")
        for name in ("momentum", "weight_decay", "warmup_epochs", "step_factor", "label_smoothing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise UsageError(f"{_option(name)} must be a number of at least 0, not {value!r}")
        if not isinstance(self.learning_rate, (int, float)) or not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"--lr must be a positive number, not {self.learning_rate!r}")
        for name, below in (("momentum", 1.0), ("label_smoothing", 1.0)):
            if getattr(self, name) >= below:
                raise UsageError(f"{_option(name)} must be below {below}, not {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adamw"):
            raise UnknownNameError("optimizer", str(self.optimizer), ["sgd", "adamw"])
        if self.schedule not in ("cosine", "step", "constant"):
            raise UnknownNameError("schedule", str(self.schedule), ["cosine", "step", "constant"])
        if not isinstance(self.amp, bool):
            raise UsageError(f"the recipe's amp must be true or false, not {self.amp!r}")


def _rise(milestones: object) -> bool:
    """Whether these are whole numbers above 0, each larger than the one before."""
    if not isinstance(milestones, tuple) or not all(type(epoch) is int and epoch > 0 for epoch in milestones):
        return False
    return list(milestones) == sorted(set(milestones))


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}" if field in ("epochs", "batch_size") else f"the recipe's {field}"


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with bottlekit."""
    folder = resources.files("bottlekit.training") / "recipes"
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    )


def default_recipe_name(data_name: str) -> str:
    """The recipe for a data set when none is asked for; `data_name` as in `dataset_from_name`."""
    return RECIPE_OF_DATA[data_name.partition(":")[0]]


def recipe_from_name(name: str, phase: Phase, **overrides: Any) -> Recipe:
    """The recipe of one phase, from a name that comes with bottlekit or the path of a .toml file.

    `overrides` replace its fields unless they are None. Raises UnknownNameError for a name that does not exist,
    UsageError for a file that cannot be read or a field that does not fit.
    """
    if name.endswith(".toml"):
        where, text = name, _text_of_file(Path(name))
    elif name in recipe_names():
        where = f"recipe {name}"
        text = (resources.files("bottlekit.training") / "recipes" / f"{name}.toml").read_text("utf-8")
    else:
        raise UnknownNameError("recipe", name, recipe_names(), "The path of a .toml file works as well.")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is no valid TOML: {error}") from error
    unknown_tables = sorted(set(tables) - set(PHASES))
    if unknown_tables:
        raise UsageError(f"{where} has {unknown_tables}; its tables are [backbone] and [bottleneck]")
    if not isinstance(tables.get(phase), dict):
        raise UsageError(f"{where} has no table [{phase}]")
    fields = tables[phase]
    known = {field.name: field for field in dataclasses.fields(Recipe) if field.name != "name"}
    unknown = sorted(set(fields) - set(known))
    missing = sorted(
        key for key, field in known.items() if field.default is dataclasses.MISSING and key not in fields
    )
    if unknown or missing:
        raise UsageError(f"{where}, table [{phase}]: unknown fields {unknown}, missing fields {missing}")
    try:
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        recipe = Recipe(**given, name=name)
    except UsageError as error:
        raise UsageError(f"{where}, table [{phase}]: {error}") from error
    return dataclasses.replace(recipe, **{key: value for key, value in overrides.items() if value is not None})


def _text_of_file(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole run.

    A function of the step alone, so that a resumed run cannot differ from an uninterrupted one.
    """
    epoch = step / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * (step + 1) / (recipe.warmup_epochs * steps_per_epoch + 1)
    if recipe.schedule == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if recipe.schedule == "step":
        steps = int(epoch) // recipe.step_epochs
        if recipe.milestones:
            steps = sum(epoch >= milestone for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.step_factor**steps
    return recipe.learning_rate
