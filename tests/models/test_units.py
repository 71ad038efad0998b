from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import onnxruntime
import pytest
import torch
from torch import nn

from bottlekit.errors import UsageError
from bottlekit.export.graphs import onnx_from_module
from bottlekit.models.units import BottleNetUnit, ButterflyUnit, reduced_shape, unit_from_spec
from bottlekit.specs import BottleneckSpec, SplitSpec

RB1 = SplitSpec("rb1", 1, "layer1.0", 256, 56, 56, 4)


def _layers(unit: nn.Module) -> list[str]:
    return [type(module).__name__ for module in unit.modules() if not list(module.children())]


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (BottleneckSpec("bottlenet", "rb1", 2, 2, 3), (2, 28, 28)),
        (BottleneckSpec("bottlenet", "rb1", 0, 2, 3), (256, 28, 28)),
        (BottleneckSpec("bottlenet", "rb1", 5, 1), (5, 56, 56)),
        (BottleneckSpec("bottlenet", "rb1", 1, 5, 7), (1, 12, 12)),
        (BottleneckSpec("butterfly", "rb1", 3, 1), (3, 56, 56)),
    ],
)
def test_reduced_shapes(spec: BottleneckSpec, shape: tuple[int, int, int]) -> None:
    unit = unit_from_spec(spec, RB1).eval()
    feature = torch.rand(2, 256, 56, 56)
    with torch.no_grad():
        reduced = unit.reduce(feature)
        assert unit.restore(reduced).shape == feature.shape
        assert torch.equal(unit(feature), unit.restore(reduced))
    assert tuple(reduced.shape) == (2, *shape)
    assert reduced_shape(spec, RB1) == shape


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(
    height=st.integers(1, 23), width=st.integers(1, 23), stride=st.integers(2, 5), wider=st.integers(1, 4)
)
def test_every_size_comes_back_exactly(height: int, width: int, stride: int, wider: int) -> None:
    """Odd sizes, even filters, strides that do not divide: h' = ceil(h / s), and back to h."""
    unit = BottleNetUnit(3, (height, width), 2, stride, stride + wider).eval()
    with torch.no_grad():
        reduced = unit.reduce(torch.rand(1, 3, height, width))
        assert reduced.shape == (1, 2, math.ceil(height / stride), math.ceil(width / stride))
        assert unit.restore(reduced).shape == (1, 3, height, width)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(length=st.integers(1, 17), stride=st.integers(2, 5), wider=st.integers(1, 4))
def test_every_feature_is_seen(length: int, stride: int, wider: int) -> None:
    """A filter larger than the stride covers each position at least once (BottleNet, section 2.1)."""
    unit = BottleNetUnit(1, (length, length), 1, stride, stride + wider)
    convolution = unit.reduce.get_submodule("spatial.conv")
    assert isinstance(convolution, nn.Conv2d)
    nn.init.ones_(convolution.weight)
    feature = torch.ones(1, 1, length, length, requires_grad=True)
    convolution(feature).sum().backward()
    assert feature.grad is not None
    assert (feature.grad >= 1).all()


def test_bottlenet_has_the_papers_layers_in_order() -> None:
    unit = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 4, 2, 3), RB1)
    assert _layers(unit.reduce) == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert _layers(unit.restore) == ["ConvTranspose2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU"]
    shapes = {name: tuple(p.shape) for name, p in unit.named_parameters() if name.endswith("conv.weight")}
    assert shapes == {
        "reduce.channel.conv.weight": (4, 256, 1, 1),
        "reduce.spatial.conv.weight": (4, 4, 3, 3),
        "restore.spatial.conv.weight": (4, 4, 3, 3),
        "restore.channel.conv.weight": (256, 4, 1, 1),
    }


def test_spatial_reduction_alone_keeps_all_channels() -> None:
    unit = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 0, 2, 3), RB1)
    shapes = {name: tuple(p.shape) for name, p in unit.named_parameters() if name.endswith("conv.weight")}
    assert shapes == {
        "reduce.spatial.conv.weight": (256, 256, 3, 3),
        "restore.spatial.conv.weight": (256, 256, 3, 3),
    }


def test_channel_reduction_alone_has_no_stride() -> None:
    unit = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 4, 1), RB1)
    assert _layers(unit) == ["Conv2d", "BatchNorm2d", "ReLU"] * 2


def test_butterfly_is_two_convolutions_and_nothing_else() -> None:
    unit = unit_from_spec(BottleneckSpec("butterfly", "rb1", 2, 1), RB1)
    assert isinstance(unit, ButterflyUnit)
    assert _layers(unit) == ["Conv2d", "Conv2d"]
    assert tuple(unit.reduce.weight.shape) == (2, 256, 1, 1)
    assert tuple(unit.restore.weight.shape) == (256, 2, 1, 1)


def test_reduced_features_are_not_negative() -> None:
    unit = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 8, 2, 3), RB1)
    reduced = unit.reduce(torch.randn(2, 256, 56, 56))
    assert (reduced >= 0).all()
    assert (reduced == 0).any()


def test_a_fresh_unit_passes_gradients_to_every_weight() -> None:
    torch.manual_seed(0)
    for spec in (BottleneckSpec("bottlenet", "rb1", 4, 2, 3), BottleneckSpec("butterfly", "rb1", 4, 1)):
        unit = unit_from_spec(spec, RB1)
        (unit(torch.rand(2, 256, 56, 56)) * torch.randn(2, 256, 56, 56)).sum().backward()
        for name, parameter in unit.named_parameters():
            assert parameter.grad is not None, name
            if name.endswith("conv.weight"):
                assert (parameter.grad != 0).any(), name


def test_more_channels_than_there_are() -> None:
    for spec in (BottleneckSpec("bottlenet", "rb1", 257, 2, 3), BottleneckSpec("butterfly", "rb1", 257, 1)):
        with pytest.raises(UsageError, match="--channels 257 is more than the 256 channels at rb1"):
            unit_from_spec(spec, RB1)
        with pytest.raises(UsageError, match="--channels 257"):
            reduced_shape(spec, RB1)


def test_all_channels_given_as_a_number_means_spatial_alone() -> None:
    given_all = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 256, 2, 3), RB1)
    kept_all = unit_from_spec(BottleneckSpec("bottlenet", "rb1", 0, 2, 3), RB1)
    assert list(given_all.state_dict()) == list(kept_all.state_dict())


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 2, 3), (8, 2, 4), (8, 4, 5)])
def test_the_exported_unit_computes_the_same(size: int, stride: int, kernel: int) -> None:
    """Paddings and output paddings of transposed convolutions are where runtimes differ."""
    unit = BottleNetUnit(6, (size, size), 3, stride, kernel).eval()
    feature = torch.rand(2, 6, size, size)
    graph = onnx_from_module(unit, feature, "feature", "restored", dynamic_batch=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = unit(feature)
    (found,) = session.run(None, {"feature": feature.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    operators = {node.op_type for node in graph.graph.node}
    assert operators <= {"Conv", "ConvTranspose", "BatchNormalization", "Relu"}, "no shape is computed at run time"
