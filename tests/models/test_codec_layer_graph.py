"""The codec in the graph as one graph: nothing per image, nothing on another device, traced and compiled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from bottlekit.models.codec_layer import CodecLayer
from bottlekit.specs import CodecSpec

_COMPILERS_OWN_WARNINGS = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

SHAPES = [(1, 28, 28), (3, 7, 9)]
SPECS = [CodecSpec("jpeg", 8, 20), CodecSpec("jpeg", 3, 90, range="static"), CodecSpec("raw"), CodecSpec("png", 2)]
TABLES = {"range": np.array([0.0, 1.5], dtype=np.float32)}


class _Operations(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _features(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5)).relu()


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_batch_takes_as_many_operations_as_one_image(spec: CodecSpec, shape: tuple[int, int, int]) -> None:
    layer = CodecLayer(spec, shape, TABLES)
    counted = []
    for count in (1, 50):
        features = _features(count, shape)
        with _Operations() as operations:
            layer(features)
        counted.append(operations.counts)
    assert counted[0] == counted[1]
    assert not any("_local_scalar_dense" in name for name in counted[0]), "a value came to Python"
    assert sum(counted[0].values()) < 200


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_traces_under_fake_tensors(spec: CodecSpec, shape: tuple[int, int, int]) -> None:
    with FakeTensorMode():
        layer = CodecLayer(spec, shape, TABLES)
        features = torch.empty(6, *shape, requires_grad=True)
        received = layer(features)
        received.sum().backward()
    assert isinstance(received, FakeTensor)
    assert (received.shape, received.dtype) == ((6, *shape), torch.float32)
    assert features.grad is not None
    assert features.grad.shape == received.shape


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_nothing_leaves_the_features_device(spec: CodecSpec) -> None:
    """The meta device holds no values, and no operation takes a tensor of another device beside one of its own."""
    layer = CodecLayer(spec, (3, 7, 9), TABLES).to("meta")
    assert layer(torch.empty(4, 3, 7, 9, device="meta")).device.type == "meta"


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_a_traced_graph_computes_what_the_layer_computes(spec: CodecSpec) -> None:
    layer = CodecLayer(spec, (3, 7, 9), TABLES)
    traced = make_fx(layer)(_features(2, (3, 7, 9)))
    other = torch.randn(2, 3, 7, 9)
    assert torch.equal(traced(other), layer(other))


@pytest.mark.slow
@_COMPILERS_OWN_WARNINGS
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_it_compiles_to_one_graph_with_the_same_bits(spec: CodecSpec) -> None:
    torch.compiler.reset()
    shape = (3, 28, 28)
    layer = CodecLayer(spec, shape, TABLES)
    compiled = torch.compile(layer, fullgraph=True)
    for count in (4, 7):
        features = _features(count, shape).requires_grad_()
        expected = layer(features.detach())
        received = compiled(features)
        assert torch.equal(received.detach().view(torch.int32), expected.view(torch.int32))
        weights = torch.randn_like(received)
        (received * weights).sum().backward()
        assert features.grad is not None
        assert torch.equal(features.grad, weights)


@pytest.mark.slow
@_COMPILERS_OWN_WARNINGS
def test_a_network_around_it_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    layer = CodecLayer(CodecSpec("jpeg", 8, 20), (2, 14, 14))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU(), layer, torch.nn.Conv2d(2, 4, 3))
    images = _features(5, (3, 14, 14))
    torch.compile(network, fullgraph=True)(images).square().mean().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    network(images).square().mean().backward()
    for found, parameter in zip(gradients, network.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("compiled", [False, True])
@_COMPILERS_OWN_WARNINGS
def test_on_a_gpu_it_gives_the_processors_bits(spec: CodecSpec, compiled: bool) -> None:
    features = torch.randn(64, 3, 28, 28)
    layer = CodecLayer(spec, (3, 28, 28), TABLES)
    expected = layer(features)
    layer = layer.to("cuda")
    found = (torch.compile(layer, fullgraph=True) if compiled else layer)(features.to("cuda"))
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu().view(torch.int32), expected.view(torch.int32))
