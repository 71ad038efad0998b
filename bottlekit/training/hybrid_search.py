"""Hybrid networks over a grid: last low-bit block x bits x weight of the exit's loss. Thresholds cost no training.

Each network is trained once and kept, `<folder>/<name>.safetensors`; a search that was interrupted goes on with the
ones that are missing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bottlekit.errors import CheckpointError, UsageError
from bottlekit.models.hybrid.checkpoint import HybridCheckpoint, load_hybrid_checkpoint
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec
from bottlekit.training.data import DataSet
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import Recipe

_PAYLOAD_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class HybridGrid:
    """What is tried: every combination, the exit behind the last block. `base` has what all of them share."""

    last_blocks: tuple[str, ...]
    bits: tuple[int, ...]
    exit_weights: tuple[float, ...]
    base: HybridSpec

    def __post_init__(self) -> None:
        """Refuse an empty grid (UsageError)."""
        if not (self.last_blocks and self.bits and self.exit_weights):
            raise UsageError("a search needs at least one block, one bit width and one weight")

    def candidates(self) -> Iterator[tuple[str, HybridSpec, float]]:
        """(name, spec, weight of the exit) of every network."""
        for block, bits, weight in itertools.product(self.last_blocks, self.bits, self.exit_weights):
            unit = self.base.bottleneck
            moved: BottleneckSpec | None = None if unit is None else dataclasses.replace(unit, split=block)
            spec = dataclasses.replace(self.base, last_block=block, bits=bits, exits=(block,), bottleneck=moved)
            yield f"{block}-{bits}bit-w{weight:g}", spec, weight


@dataclasses.dataclass(frozen=True)
class Tried:
    """One network of a search: its name, its checkpoint, and the mean bytes that sending an image takes."""

    name: str
    checkpoint: HybridCheckpoint
    payload_bytes: float


def search_hybrid(
    folder: Path,
    source: Path,
    grid: HybridGrid,
    plan: HybridPlan,
    recipe: Recipe,
    data: DataSet,
    seed: int = 0,
    command: str = "",
    say: Callable[[str], None] = lambda _line: None,
) -> list[Tried]:
    """Train what is missing of `grid` from the full-precision checkpoint `source`; `plan`'s weights are replaced.

    Raises what `train_hybrid` raises; CheckpointError where `folder` has a network of that name that is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tried = []
    for name, spec, weight in grid.candidates():
        path = folder / f"{name}.safetensors"
        if path.exists():
            checkpoint = load_hybrid_checkpoint(path)
            if checkpoint.spec != spec:
                raise CheckpointError(
                    f"{path} is another network than {name} of this search; search in another folder"
                )
            say(f"{name}: there already")
        else:
            say(f"{name}: training")
            own = dataclasses.replace(plan, exit_weights=(weight,))
            checkpoint = train_hybrid(path, source, spec, own, recipe, data, seed, command, quiet=True)
        tried.append(Tried(name, checkpoint, mean_payload(checkpoint, data, data.val_indices(_PAYLOAD_IMAGES))))
    return tried


def mean_payload(checkpoint: HybridCheckpoint, data: DataSet, indices: Sequence[int]) -> float:
    """The mean bytes of the payloads of these held-out images, as the device would send them."""
    network = checkpoint.network()
    codec = network.codec_layer.codec
    with torch.inference_mode():
        features = network.edge(torch.stack([data.val[index][0] for index in indices]))[0].numpy()
    return sum(len(codec.encode(feature)) for feature in features) / len(indices)
