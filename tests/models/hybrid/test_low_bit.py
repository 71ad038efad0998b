from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bottlekit.models.hybrid.low_bit import FoldedConv2d, LowBitConv2d

BITS = (1, 2, 4, 8)
STEP = {2: 1.0, 4: 0.25, 8: 1 / 32}


def layer(bits: int, bias: bool = False) -> LowBitConv2d:
    torch.manual_seed(3)
    low_bit = LowBitConv2d(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias), bits)
    low_bit.norm.running_mean.copy_(torch.randn(4) * 0.2)
    low_bit.norm.running_var.copy_(torch.rand(4) + 0.5)
    return low_bit.eval()


def by_hand(low_bit: LowBitConv2d, image: Tensor) -> Tensor:
    """The table at the head of low_bit.py, computed without Brevitas."""
    value, weight = low_bit.norm(image), low_bit.conv.weight.detach()
    magnitude = weight.abs().flatten(1)
    bits = low_bit.bits
    if bits == 1:
        value = torch.where(value >= 0, 1.0, -1.0)
        scale = magnitude.mean(1)[:, None, None, None]
        weight = torch.where(weight >= 0, 1.0, -1.0) * scale
    else:
        half = 2 ** (bits - 1)
        value = (value / STEP[bits]).round().clamp(-half, half - 1) * STEP[bits]
        levels = half - 1
        scale = (magnitude.mean(1) if bits == 2 else magnitude.amax(1) / levels)[:, None, None, None]
        weight = (weight / scale).round().clamp(-levels, levels) * scale
    return nn.functional.conv2d(value, weight, low_bit.conv.bias, stride=2, padding=1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_low_bit_convolution_is_what_the_table_says(bits: int, bias: bool) -> None:
    low_bit, image = layer(bits, bias), torch.randn(2, 4, 9, 9)
    with torch.no_grad():
        assert torch.allclose(low_bit(image), by_hand(low_bit, image), atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_the_folded_convolution_computes_the_same(bits: int) -> None:
    low_bit, image = layer(bits, bias=True), torch.randn(3, 4, 9, 9)
    with torch.no_grad():
        assert torch.allclose(FoldedConv2d(low_bit)(image), low_bit(image), atol=1e-6)


def test_a_sign_of_zero_is_plus_one_in_both() -> None:
    low_bit = LowBitConv2d(nn.Conv2d(1, 1, 1, bias=False), 1).eval()
    with torch.no_grad():
        low_bit.conv.weight.fill_(2.0)
        zero = torch.zeros(1, 1, 1, 1)
        assert low_bit(zero).item() == FoldedConv2d(low_bit)(zero).item() == 2.0


@pytest.mark.parametrize("bits", BITS)
def test_rounding_lets_the_gradient_through_and_clamping_stops_it(bits: int) -> None:
    low_bit = LowBitConv2d(nn.Conv2d(1, 1, 1, bias=False), bits).eval()
    inside = torch.full((1, 1, 1, 1), 0.4, requires_grad=True)
    outside = torch.full((1, 1, 1, 1), 100.0, requires_grad=True)
    (low_bit(inside) + low_bit(outside)).sum().backward()
    assert inside.grad is not None
    assert outside.grad is not None
    assert inside.grad.abs().item() > 0
    assert outside.grad.item() == 0
    assert low_bit.conv.weight.grad.abs().item() > 0


def test_it_begins_with_the_weights_it_was_given() -> None:
    conv = nn.Conv2d(2, 3, 3, bias=True)
    low_bit = LowBitConv2d(conv, 4)
    assert torch.equal(low_bit.conv.weight, conv.weight)
    assert torch.equal(low_bit.conv.bias, conv.bias)


def test_a_convolution_padded_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="padded with zeros"):
        LowBitConv2d(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 4)
