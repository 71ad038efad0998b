from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bottlekit.device import quantizer as device
from bottlekit.models.quantizer_graph import dequantize, quantize

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def _images(shape: tuple[int, int, int]) -> Tensor:
    """Features of every kind: like a network's, narrow, wide, tiny, constant, and with zeros of both signs."""
    dice = np.random.RandomState(7)
    kinds = [
        dice.standard_normal(shape),
        np.maximum(dice.standard_normal(shape), 0),
        dice.uniform(1e6, 1e6 + 1, shape),
        dice.uniform(-LARGEST, LARGEST, shape),
        dice.uniform(-1e-40, 1e-40, shape),
        dice.choice([0.0, SMALLEST, -SMALLEST], shape),
        dice.choice([LARGEST, -LARGEST], shape),
        dice.choice([LARGEST, 0.0], shape),
        dice.choice([-0.0, 0.0], shape),
        np.full(shape, 0.3),
        np.full(shape, LARGEST),
        np.full(shape, -0.0),
        np.exp(dice.uniform(-80, 80, shape)),
    ]
    return torch.from_numpy(np.stack(kinds).astype(np.float32))


def _bits_of(values: Tensor) -> Tensor:
    """Float32 values as integers, which tell 0.0 from -0.0."""
    return values.contiguous().view(torch.int32)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 1, 1), (2, 28, 28)])
def test_codes_and_values_are_the_devices_to_the_last_bit(bits: int, shape: tuple[int, int, int]) -> None:
    features = _images(shape)
    codes, low, high = quantize(features, bits)
    values = dequantize(codes, low, high, bits)
    assert values.dtype == torch.float32
    for index, feature in enumerate(features.numpy()):
        expected, first, last = device.quantize(feature, bits)
        assert np.array_equal(codes[index].numpy(), expected)
        assert (low[index].item(), high[index].item()) == (first, last)
        back = torch.from_numpy(device.dequantize(expected, first, last, bits))
        assert torch.equal(_bits_of(values[index]), _bits_of(back))


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-2.0, 2.0), (-LARGEST, LARGEST), (0.0, SMALLEST)])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_values_outside_a_given_range_are_moved_to_its_ends(bits: int, ends: tuple[float, float]) -> None:
    features = _images((2, 5, 4))
    codes, low, high = quantize(features, bits, ends)
    values = dequantize(codes, low, high, bits)
    for index, feature in enumerate(features.numpy()):
        expected, first, last = device.quantize(feature, bits, ends)
        assert np.array_equal(codes[index].numpy(), expected)
        back = torch.from_numpy(device.dequantize(expected, first, last, bits))
        assert torch.equal(_bits_of(values[index]), _bits_of(back))


def test_a_million_values_of_one_image() -> None:
    """Enough that one wrong rounding of a division or a product would show."""
    feature = torch.randn(1, 1, 1000, 1000, generator=torch.Generator().manual_seed(1)).relu()
    codes, low, high = quantize(feature, 8)
    expected, first, last = device.quantize(feature[0].numpy(), 8)
    assert np.array_equal(codes[0].numpy(), expected)
    assert np.array_equal(dequantize(codes, low, high, 8)[0].numpy(), device.dequantize(expected, first, last, 8))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_of_many_ranges(bits: int) -> None:
    """Codes that no value of the image has are dequantised too: a JPEG may decode to them."""
    ends = np.sort(np.random.RandomState(3).standard_normal((200, 2)).astype(np.float32), axis=1)
    codes = torch.arange(2**bits, dtype=torch.int32).expand(len(ends), 1, 1, -1)
    low, high = (torch.from_numpy(end.copy()).reshape(-1, 1, 1, 1) for end in ends.T)
    values = dequantize(codes, low, high, bits)
    for index, (first, last) in enumerate(ends):
        expected = device.dequantize(codes[index].numpy().astype(np.uint8), float(first), float(last), bits)
        assert np.array_equal(values[index].numpy(), expected)
