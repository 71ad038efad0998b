"""The device's quantiser as tensor arithmetic: for a batch, each image over its own range, to the last bit.

The device computes in float32, operation by operation (device/quantizer.py), and so does this. What a compiler of
GPU code may do differently is kept from it. There, `/` is not rounded as IEEE 754 asks for, so divisions are done
in float64; and a product and a sum can become one operation that rounds once, so the product is rounded by hand.
The detour gives the same float32: float64 has more than twice its digits.
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

    Takes features (n, c, h, w) float32; gives codes (n, c, h, w) int32, and low and high (n, 1, 1, 1) float32. An
    image with NaN or infinity, which the device refuses, has the codes 0 and the range NaN.
    """
    # Which of -0.0 and 0.0 is the minimum depends on the order of the search: adding 0.0 leaves only 0.0.
    low, high = feature.amin(_EACH_IMAGE, keepdim=True) + 0.0, feature.amax(_EACH_IMAGE, keepdim=True) + 0.0
    finite = low.isfinite() & high.isfinite()
    if value_range is not None:
        low, high = torch.full_like(low, value_range[0]), torch.full_like(high, value_range[1])
        feature = feature.clamp(*value_range)
    low, high = low.where(finite, torch.nan), high.where(finite, torch.nan)
    scale = _scale(low, high)
    first, last = low * scale, high * scale
    span = last - first
    # The product with 1 or 1/2 is exact, so one rounding for both operations is the same. A constant image has the
    # codes 0, not 0 / 0.
    ratio = _quotient(torch.addcmul(-first, feature, scale), span.where(span != 0, 1.0))
    codes = torch.round(ratio * levels_from_bits(bits)).masked_fill(~finite, 0.0)
    return codes.to(torch.int32), low, high


def dequantize(codes: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The values that codes stand for, as `device.quantizer.dequantize` gives them: (n, c, h, w) float32.

    Takes codes (n, c, h, w) int32, and low and high as `quantize` gave them; the range NaN gives NaN.
    """
    count = levels_from_bits(bits) + 1
    steps = torch.arange(count, device=codes.device)
    scale = _scale(low, high)
    first, last = low * scale, high * scale
    product = _quotient(steps, steps[-1]) * (last - first).to(torch.float64)
    # The value of every code, for each image; the device divides by 1 or 1/2, exactly as this multiplies by 1 or 2.
    values = torch.minimum(product.to(torch.float32) + first, last) * (1.0 / scale)
    images = torch.arange(0, len(codes) * count, count, dtype=torch.int32, device=codes.device)
    places = codes + images[:, None, None, None]
    return values.flatten().index_select(0, places.flatten()).reshape(codes.shape)


def _quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """dividend / divisor as IEEE 754 rounds it to float32, on every device."""
    if torch.compiler.is_compiling() or not dividend.is_floating_point():
        return (dividend.to(torch.float64) / divisor.to(torch.float64)).to(torch.float32)
    return dividend / divisor


def _scale(low: Tensor, high: Tensor) -> Tensor:
    """1, or 1/2 where high - low would overflow float32; (n, 1, 1, 1) float32."""
    too_wide = high.to(torch.float64) - low.to(torch.float64) > _LARGEST
    return torch.where(too_wide, 0.5, 1.0).to(torch.float32)
