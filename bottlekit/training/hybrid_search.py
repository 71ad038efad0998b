"""Hybrid networks over a grid: last low-bit block x bits x exits x weight of their loss.

Thresholds cost no training. Each network is trained once and kept, `<folder>/<name>.safetensors`; a search that was
interrupted goes on with the ones that are missing. They are trained here one after the other, or by whoever is
given, a cluster say.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bottlekit.errors import CheckpointError, UnknownNameError, UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.hybrid.checkpoint import HybridCheckpoint, load_hybrid_checkpoint
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.models.splits import split_spec, split_specs
from bottlekit.specs import BottleneckSpec, ModelSpec
from bottlekit.training.data import DataSet
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import Recipe

EXITS = ("last", "all")
_PAYLOAD_IMAGES = 32
Listener = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class HybridGrid:
    """What is tried: every combination. `base` has what all of them share.

    `exits` are "last", one behind the last block, or "all", one behind each block up to it, which share the weight.
    """

    last_blocks: tuple[str, ...]
    bits: tuple[int, ...]
    exit_weights: tuple[float, ...]
    base: HybridSpec
    exits: tuple[str, ...] = ("last",)

    def __post_init__(self) -> None:
        """Refuse an empty grid (UsageError)."""
        if not (self.last_blocks and self.bits and self.exit_weights):
            raise UsageError("a search needs at least one block, one bit width and one weight")
        for bits in self.bits:
            dataclasses.replace(self.base, bits=bits)  # refuses bits that there are not
        for exits in self.exits:
            if exits not in EXITS:
                raise UnknownNameError("choice of --exits", exits, EXITS)

    def candidates(self, model: ModelSpec) -> Iterator[tuple[str, HybridSpec, tuple[float, ...]]]:
        """(name, spec, weight of each exit) of every network on this backbone."""
        combinations = itertools.product(self.last_blocks, self.bits, self.exits, self.exit_weights)
        for block, bits, exits, weight in combinations:
            unit = self.base.bottleneck
            moved: BottleneckSpec | None = None if unit is None else dataclasses.replace(unit, split=block)
            last = split_spec(model, block)
            blocks = tuple(split.name for split in split_specs(model) if split.index <= last.index)
            names = (block,) if exits == "last" else blocks
            spec = dataclasses.replace(self.base, last_block=block, bits=bits, exits=names, bottleneck=moved)
            suffix = "" if exits == "last" else f"-{exits}"
            yield f"{block}-{bits}bit{suffix}-w{weight:g}", spec, (weight / len(names),) * len(names)


@dataclasses.dataclass(frozen=True)
class Tried:
    """One network of a search: its name, its checkpoint, and the mean bytes that sending an image takes."""

    name: str
    checkpoint: HybridCheckpoint
    payload_bytes: float

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Every threshold, the same for all its exits."""
        accuracy = self.checkpoint.accuracy
        found: list[dict[str, Any]] = accuracy.get("curve_of_all_exits", accuracy["curve"])
        return found


@dataclasses.dataclass(frozen=True)
class HybridJob:
    """One training of a search, as a value that can travel: what is trained, how, and where the network belongs."""

    name: str
    path: Path
    spec: HybridSpec
    plan: HybridPlan
    recipe: Recipe
    seed: int
    command: str


def search_hybrid(
    folder: Path,
    source: Path,
    grid: HybridGrid,
    plan: HybridPlan,
    recipe: Recipe,
    data: DataSet,
    seed: int = 0,
    command: str = "",
    say: Listener = lambda _line: None,
    elsewhere: Callable[[list[HybridJob]], None] | None = None,
) -> list[Tried]:
    """Train what is missing of `grid` from the full-precision checkpoint `source`; `plan`'s weights are replaced.

    `elsewhere` trains jobs, each to its path; None trains them here. Raises what `train_hybrid` raises;
    CheckpointError where `folder` has a network of that name that is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = load_checkpoint(source).model
    jobs = [
        HybridJob(
            name,
            folder / f"{name}.safetensors",
            spec,
            dataclasses.replace(plan, exit_weights=weights),
            recipe,
            seed,
            command,
        )
        for name, spec, weights in grid.candidates(model)
    ]
    missing = []
    for job in jobs:
        if not job.path.exists():
            missing.append(job)
            continue
        if load_hybrid_checkpoint(job.path).spec != job.spec:
            raise CheckpointError(
                f"{job.path} is another network than {job.name} of this search; search in another folder"
            )
        say(f"{job.name}: there already")
    if elsewhere is not None and missing:
        elsewhere(missing)
    for job in missing if elsewhere is None else []:
        say(f"{job.name}: training")
        train_hybrid(job.path, source, job.spec, job.plan, recipe, data, seed, command, quiet=True)
    tried = []
    for job in jobs:
        checkpoint = load_hybrid_checkpoint(job.path)
        payload = mean_payload(checkpoint, data, data.val_indices(_PAYLOAD_IMAGES))
        tried.append(Tried(job.name, checkpoint, payload))
    return tried


def mean_payload(checkpoint: HybridCheckpoint, data: DataSet, indices: Sequence[int]) -> float:
    """The mean bytes of the payloads of these held-out images, as the device would send them."""
    network = checkpoint.network()
    codec = network.codec_layer.codec
    with torch.inference_mode():
        features = network.edge(torch.stack([data.val[index][0] for index in indices]))[0].numpy()
    return sum(len(codec.encode(feature)) for feature in features) / len(indices)
