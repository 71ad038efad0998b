from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bottlekit.errors import CheckpointError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.data import DataSet
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone, train_bottleneck
from bottlekit.training.warm_start import warm_start

RAW = CodecSpec("raw")


@pytest.fixture
def trained(tmp_path: Path, few: DataSet, recipe: Recipe) -> Path:
    """A bottlenecked network of 2 channels, with its uncompressed one in net.safetensors beside it."""
    none = dataclasses.replace(recipe, epochs=0)
    train_backbone(tmp_path / "net.safetensors", "mobilenet_v3_small", few, none, quiet=True)
    path = tmp_path / "two.safetensors"
    spec = BottleneckSpec("bottlenet", "b1", channels=2)
    train_bottleneck(path, path.with_name("net.safetensors"), spec, RAW, none, few, seed=1, quiet=True)
    return path


@pytest.mark.parametrize(("channels", "spatial", "kernel"), [(3, 2, 3), (1, 2, 3), (2, 1, 3), (3, 3, 4)])
def test_what_fits_is_taken_over(trained: Path, channels: int, spatial: int, kernel: int) -> None:
    old = load_checkpoint(trained).network()
    assert isinstance(old, SplitNetwork)
    network = SplitNetwork(old.model, BottleneckSpec("bottlenet", "b1", channels, spatial, kernel), RAW)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    warm_start(network, trained)
    theirs = old.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in theirs:
            continue
        both = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, theirs[name].shape, strict=True))
        assert torch.equal(tensor[both], theirs[name][both]), name
        if tensor.shape == theirs[name].shape:
            continue
        rest = torch.ones(tensor.shape, dtype=torch.bool)
        rest[both] = False
        assert torch.equal(tensor[rest], fresh[name][rest]), name


def test_the_same_width_is_the_same_network(trained: Path, few: DataSet, recipe: Recipe) -> None:
    """`start` reaches training: without an epoch the network is the one that it started from."""
    none = dataclasses.replace(recipe, epochs=0)
    spec = BottleneckSpec("bottlenet", "b1", channels=2)
    output = trained.with_name("again.safetensors")
    source = trained.with_name("net.safetensors")
    again = train_bottleneck(output, source, spec, RAW, none, few, seed=5, quiet=True, start=trained)
    old = load_checkpoint(trained)
    for name, tensor in again.network().state_dict().items():
        assert torch.equal(tensor, old.network().state_dict()[name]), name
    assert len(again.training["start_sha256"]) == 64


def test_an_uncompressed_network_is_no_start(trained: Path) -> None:
    network = load_checkpoint(trained).network()
    assert isinstance(network, SplitNetwork)
    with pytest.raises(CheckpointError, match="is no mobilenet_v3_small with a bottleneck"):
        warm_start(network, trained.with_name("net.safetensors"))
