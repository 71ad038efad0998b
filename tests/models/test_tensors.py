from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bottlekit.errors import CheckpointError
from bottlekit.models.tensors import compare_tensors, fill, with_prefix, without_prefix


def _tensors() -> dict[str, Tensor]:
    return {"a": torch.zeros(2, 3), "b": torch.zeros(()), "n": torch.zeros(4, dtype=torch.int64)}


def test_prefixes() -> None:
    tensors = _tensors()
    longer = with_prefix("unit.", tensors)
    assert list(longer) == ["unit.a", "unit.b", "unit.n"]
    assert without_prefix("unit.", {**longer, "other": torch.zeros(1)}) == tensors
    assert without_prefix("x.", longer) == {}


def test_equal_names_and_shapes_pass() -> None:
    compare_tensors(_tensors(), _tensors(), "w.pt", "a network")
    half = {**_tensors(), "a": torch.zeros(2, 3, dtype=torch.float16)}
    compare_tensors(half, _tensors(), "w.pt", "a network")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"a": None}, "lacks a"),
        ({"z": torch.zeros(1)}, "has unknown z"),
        ({"a": torch.zeros(3, 2)}, "shape: a is 3x2 instead of 2x3"),
        ({"b": torch.zeros(1)}, "shape: b is 1 instead of a scalar"),
        ({"n": torch.zeros(4)}, "type: n is torch.float32"),
        ({"a": torch.zeros(2, 3, dtype=torch.int64)}, "type: a is torch.int64"),
        ({"a": None, "z": torch.zeros(1)}, "lacks a; has unknown z"),
    ],
)
def test_every_difference_is_named(change: dict[str, Tensor | None], fault: str) -> None:
    found = {name: tensor for name, tensor in {**_tensors(), **change}.items() if tensor is not None}
    with pytest.raises(CheckpointError) as caught:
        compare_tensors(found, _tensors(), "w.pt", "a network")
    assert str(caught.value) == f"w.pt does not hold the weights of a network: {fault}"


def test_only_the_first_few_are_named() -> None:
    expected = {f"t{i}": torch.zeros(1) for i in range(10)}
    with pytest.raises(CheckpointError, match=r"lacks t0, t1, t2 and 7 more$"):
        compare_tensors({}, expected, "w.pt", "a network")


def test_filling_copies_and_converts() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    source = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half().state_dict()
    filled = fill(network, source)
    assert filled is network
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source[name].to(tensor.dtype)), name
    weight = network.get_parameter("0.weight")
    assert (weight.dtype, weight.requires_grad) == (torch.float32, True)


def test_filling_does_not_share_memory() -> None:
    with torch.device("meta"):
        network = nn.Linear(2, 2)
    source = nn.Linear(2, 2).state_dict()
    fill(network, source).weight.data.zero_()
    assert (source["weight"] != 0).all()
