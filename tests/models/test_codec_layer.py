from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bottlekit.device.codecs import CODEC_NAMES, codec_from_spec
from bottlekit.errors import BottlekitError, CodecError
from bottlekit.models.codec_layer import CodecLayer
from bottlekit.specs import CodecSpec, to_dict

SHAPE = (3, 5, 4)


def _features(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("bits", [8, 3])
def test_forward_is_the_device_codec_image_by_image(name: str, bits: int) -> None:
    spec = CodecSpec(name, bits, 30)
    codec = codec_from_spec(to_dict(spec), SHAPE)
    features = _features()
    found = CodecLayer(spec, SHAPE)(features)
    assert not torch.equal(found, features)
    for image, decoded in zip(features, found, strict=True):
        assert torch.equal(decoded, torch.from_numpy(codec.decode(codec.encode(image.numpy()))))


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
    assert repr(layer) == "CodecLayer(jpeg, bits=7, quality=20, shape=(3, 5, 4))"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers(bad: float) -> None:
    features = _features()
    features[2, 0, 0, 0] = bad
    with pytest.raises(CodecError):
        CodecLayer(CodecSpec("raw"), SHAPE)(features)


def test_features_of_another_shape() -> None:
    with pytest.raises(CodecError):
        CodecLayer(CodecSpec("raw"), SHAPE)(torch.rand(1, 3, 4, 5))


def test_an_unknown_codec() -> None:
    with pytest.raises(BottlekitError, match="webp"):
        CodecLayer(CodecSpec("webp"), SHAPE)
