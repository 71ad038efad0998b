"""Start a bottlenecked network from a trained one whose unit has another width."""

from __future__ import annotations

from pathlib import Path

import torch

from bottlekit.errors import CheckpointError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork


def warm_start(network: SplitNetwork, start: Path) -> None:
    """Copy what fits of the network in the checkpoint `start` into `network`, in place.

    Tensors of the same shape are copied whole (the backbone always is); of the unit's others what both have,
    so a wider unit begins with the channels of the narrower one beside fresh ones.
    Raises CheckpointError for a checkpoint of another backbone, or without a bottleneck.
    """
    checkpoint = load_checkpoint(start)
    trained = checkpoint.network()
    if not isinstance(trained, SplitNetwork) or checkpoint.model != network.model:
        raise CheckpointError(f"{start} is no {network.model.backbone} with a bottleneck to start from")
    old = trained.state_dict()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            theirs = old.get(name)
            if theirs is None or theirs.ndim != tensor.ndim:
                continue
            both = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, theirs.shape, strict=True))
            tensor[both] = theirs[both]
