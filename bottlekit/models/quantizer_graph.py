"""The device's quantiser as tensor arithmetic: for a batch, each image with its own range, to the last bit.

The device computes in float32, operation by operation (device/quantizer.py), and so does this. What a compiler of
GPU code may do differently is kept from it. There, `/` is not rounded as IEEE 754 asks for, so divisions are done
in float64. A product and a sum can become one operation that rounds once, so the product is rounded by hand. The
detour gives the same float32: float64 has more than twice its digits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bottlekit.device.quantizer import levels_from_bits

_LARGEST = float(np.finfo(np.float32).max)
_EACH_IMAGE = (1, 2, 3)


def quantize(
    feature: Tensor, bits: int, value_range: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise each image as `device.quantizer.quantize` does, over its own minimum and maximum or a given range.

    Takes finite features (n, c, h, w) float32; gives codes (n, c, h, w) int32, and low and high, float32 and
    (n, 1, 1, 1), or (1, 1, 1, 1) for a given range.
    """
    if value_range is None:
        # Which of -0.0 and 0.0 is the minimum depends on the order of the search: adding 0.0 leaves only 0.0.
        low, high = feature.amin(_EACH_IMAGE, keepdim=True) + 0.0, feature.amax(_EACH_IMAGE, keepdim=True) + 0.0
    else:
        low, high = (feature.new_full((1, 1, 1, 1), end) for end in value_range)
        feature = feature.clamp(low, high)
    scale = _scale(low, high)
    first, last = low * scale, high * scale
    span = last - first
    # A constant image has the codes 0, not 0 / 0.
    ratio = _quotient(feature * scale - first, torch.where(span == 0, 1.0, span))
    return torch.round(ratio * levels_from_bits(bits)).to(torch.int32), low, high


def dequantize(codes: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The values that codes stand for, as `device.quantizer.dequantize` gives them: (n, c, h, w) float32.

    Takes codes (n, c, h, w) int32, and low and high as `quantize` gave them.
    """
    scale = _scale(low, high)
    first, last = low * scale, high * scale
    steps = torch.arange(levels_from_bits(bits) + 1, device=codes.device)
    product = _quotient(steps, steps[-1])[codes].to(torch.float64) * (last - first).to(torch.float64)
    # The device divides by 1 or 1/2; multiplying by 1 or 2 is the same, and exact.
    return torch.minimum(product.to(torch.float32) + first, last) * (1.0 / scale)


def _quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """dividend / divisor, rounded to float32 as IEEE 754 asks for on every device, compiled or not."""
    return (dividend.to(torch.float64) / divisor.to(torch.float64)).to(torch.float32)


def _scale(low: Tensor, high: Tensor) -> Tensor:
    """1, or 1/2 where high - low would overflow float32; (n, 1, 1, 1) float32."""
    too_wide = high.to(torch.float64) - low.to(torch.float64) > _LARGEST
    return torch.where(too_wide, 0.5, 1.0).to(torch.float32)
