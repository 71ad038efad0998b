from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bottlekit.device.codecs import CODEC_NAMES, Codec, codec_from_spec
from bottlekit.errors import BottlekitError, CodecError
from bottlekit.models.codec_layer import CodecLayer, ImageByImage
from bottlekit.specs import CodecSpec, to_dict

SHAPE = (3, 5, 4)
SHAPES = [(1, 1, 1), SHAPE, (1, 28, 28), (2, 28, 28), (5, 7, 7), (10, 4, 4), (5, 14, 14), (17, 1, 3), (8, 28, 14)]


def _features(count: int = 4, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(2))


def _all_kinds(shape: tuple[int, int, int]) -> Tensor:
    """Features as a network has them, and as it should not: constant, wide as float32, tiny, one outlier."""
    features = _features(8, shape)
    features[1].relu_()
    features[2] = 0.3
    features[3] = 0
    features[4] *= 3e38 / features[4].abs().max()
    features[5] *= 1e-42
    features[6, 0, 0, 0] = 1000
    features[7] = torch.linspace(0, 1, features[7].numel()).reshape(shape)
    return features


def _received(codec: Codec, features: Tensor) -> Tensor:
    """What a server receives of each image, by the device's codec."""
    return torch.stack([torch.from_numpy(codec.decode(codec.encode(image.numpy()))) for image in features])


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_device_codec_to_the_last_bit(name: str, shape: tuple[int, int, int]) -> None:
    features = _all_kinds(shape)
    for bits in range(1, 9):
        for quality in (1, 20, 90) if name == "jpeg" else (20,):
            spec = CodecSpec(name, bits, quality)
            expected = _received(codec_from_spec(to_dict(spec), shape), features)
            found = CodecLayer(spec, shape)(features)
            assert found.dtype == torch.float32
            # As integers, which tell 0.0 from -0.0.
            assert torch.equal(found.contiguous().view(torch.int32), expected.view(torch.int32)), spec


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("ends", [(0.0, 1.5), (-0.5, 0.25), (-3e38, 3e38), (0.0, 1e-42)])
def test_with_a_static_range_it_is_the_device_codec_too(name: str, ends: tuple[float, float]) -> None:
    tables = {"range": np.array(ends, dtype=np.float32)}
    features = _all_kinds(SHAPE)
    for bits in (1, 3, 8):
        spec = CodecSpec(name, bits, 20, range="static")
        expected = _received(codec_from_spec(to_dict(spec), SHAPE, tables), features)
        found = CodecLayer(spec, SHAPE, tables)(features)
        assert torch.equal(found.contiguous().view(torch.int32), expected.view(torch.int32)), spec


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_it_changes_features(name: str) -> None:
    features = _features()
    assert not torch.equal(CodecLayer(CodecSpec(name, 8, 30), SHAPE)(features), features)


def test_a_coder_that_is_not_in_the_graph_is_asked_image_by_image() -> None:
    spec = CodecSpec("jpeg", 4, 20)
    layer = CodecLayer(spec, SHAPE)
    expected = layer(_all_kinds(SHAPE))
    layer.coder = ImageByImage(layer.codec)
    assert torch.equal(layer(_all_kinds(SHAPE)), expected)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    layer = CodecLayer(CodecSpec("raw"), SHAPE)
    features = _features()
    together = layer(features)
    features[1] *= 1000
    assert torch.equal(layer(features)[0], together[0])
    assert torch.equal(layer(features[:1])[0], together[0])


def test_backward_is_the_identity() -> None:
    features = _features().requires_grad_()
    weights = torch.randn(4, *SHAPE)
    (CodecLayer(CodecSpec("jpeg", 8, 5), SHAPE)(features) * weights).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, weights)


def test_switched_off_it_is_the_identity() -> None:
    layer = CodecLayer(CodecSpec("jpeg", 8, 5), SHAPE)
    layer.enabled = False
    features = _features()
    assert layer(features) is features
    layer.enabled = True
    assert not torch.equal(layer(features), features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_coded_from_float32_and_kept(dtype: torch.dtype) -> None:
    layer = CodecLayer(CodecSpec("raw"), SHAPE)
    features = _features().to(dtype)
    found = layer(features)
    assert found.dtype == dtype
    assert torch.equal(found, layer(features.float()).to(dtype))


def test_under_autocast() -> None:
    convolution = torch.nn.Conv2d(3, 3, 1)
    layer = CodecLayer(CodecSpec("raw"), SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coded = layer(convolution(_features()))
    assert coded.dtype == torch.bfloat16
    coded.float().sum().backward()
    assert convolution.weight.grad is not None


def test_features_that_are_not_contiguous() -> None:
    layer = CodecLayer(CodecSpec("raw"), SHAPE)
    features = _features()
    assert torch.equal(layer(features.to(memory_format=torch.channels_last)), layer(features))


def test_the_input_is_not_overwritten() -> None:
    features = _features()
    kept = features.clone()
    CodecLayer(CodecSpec("jpeg", 8, 5), SHAPE)(features)
    assert torch.equal(features, kept)


def test_it_has_no_weights_and_prints_its_settings() -> None:
    layer = CodecLayer(CodecSpec("jpeg", 7, 20), SHAPE)
    assert list(layer.state_dict()) == []
    assert "jpeg, bits=7, quality=20, shape=(3, 5, 4)" in repr(layer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["jpeg", "raw"])
def test_an_image_that_the_device_refuses_comes_out_as_nan_and_leaves_the_others_alone(
    name: str, bad: float
) -> None:
    layer = CodecLayer(CodecSpec(name), SHAPE)
    features = _features()
    expected = layer(features)
    features[2, 0, 3, 1] = bad
    with pytest.raises(CodecError):
        layer.codec.encode(features[2].numpy())
    found = layer(features)
    assert found[2].isnan().all()
    assert torch.equal(found[[0, 1, 3]], expected[[0, 1, 3]])


def test_features_of_another_shape() -> None:
    for shape in ((1, 3, 4, 5), SHAPE):
        with pytest.raises(CodecError, match="3, 5, 4"):
            CodecLayer(CodecSpec("raw"), SHAPE)(torch.rand(shape))


def test_an_unknown_codec() -> None:
    with pytest.raises(BottlekitError, match="jpeg-xl"):
        CodecLayer(CodecSpec("jpeg-xl"), SHAPE)
