"""The n-bit uniform quantiser: float32 features to codes and back.

    feature V (float32) --quantize--> codes (uint8), min, max --dequantize--> V' (float32)

Defined in float32, operation by operation, so that every machine gets the same codes: subtraction, division,
multiplication and rounding to the nearest even integer are exact operations of IEEE 754, in numpy as in CUDA.
"""

import math
from typing import Optional, Tuple

import numpy as np

from .errors import CodecError

# Above this span, max - min no longer fits into a float32 and everything is computed on halved values.
_LARGEST = float(np.finfo(np.float32).max)
_HALF = np.float32(0.5)


def levels_from_bits(bits: int) -> int:
    """The largest code, 2^bits - 1; CodecError unless `bits` is an integer from 1 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise CodecError("a codec has 1 to 8 bits per code, not {!r}".format(bits))
    return (1 << int(bits)) - 1


def quantize(
    feature: np.ndarray, bits: int, value_range: Optional[Tuple[float, float]] = None
) -> Tuple[np.ndarray, float, float]:
    """Quantise a feature tensor over its own minimum and maximum, or over a range that is the same for all.

    code = round((V - min) / (max - min) * (2^bits - 1)), half to even (BottleNet, section 2.2; after Choi and
    Bajic, near-lossless deep feature compression). Values outside a given range are first moved to its ends.

    Args:
        feature: float32, any shape that holds at least one value, all of them finite.
        bits: 1 to 8.
        value_range: None, or a finite float32 (min, max) with min below max.

    Returns:
        codes (uint8, the same shape), min and max (floats that are float32 values; -0.0 is given as 0.0).
        A constant tensor has the codes 0, and comes back exactly.

    Raises:
        CodecError: another type, no values, NaN or infinity.
    """
    levels = np.float32(levels_from_bits(bits))
    if not isinstance(feature, np.ndarray) or feature.dtype != np.float32:
        kind = getattr(feature, "dtype", type(feature).__name__)
        raise CodecError("the quantiser takes float32 features, not {}".format(kind))
    if feature.size == 0:
        raise CodecError("the quantiser needs at least one value; the shape {} has none".format(feature.shape))
    with np.errstate(invalid="ignore"):
        # Which of -0.0 and 0.0 is the minimum depends on the order of the search: adding 0.0 leaves only 0.0.
        low = np.float32(feature.min()) + np.float32(0)
        high = np.float32(feature.max()) + np.float32(0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CodecError("the feature holds NaN or infinity, which have no code; check the head's output")
    if value_range is not None:
        low, high = np.float32(value_range[0]), np.float32(value_range[1])
        feature = np.minimum(np.maximum(feature, low), high)
    if _is_too_wide(low, high):
        feature, first, last = feature * _HALF, low * _HALF, high * _HALF
    else:
        first, last = low, high
    span = last - first
    if span == 0:
        return np.zeros(feature.shape, dtype=np.uint8), float(low), float(high)
    # In place: after a network has run, each array that need not be made is a cache miss saved.
    codes = feature - first
    codes /= span
    codes *= levels
    return np.rint(codes).astype(np.uint8), float(low), float(high)


def dequantize(codes: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """The values that codes stand for: min + code / (2^bits - 1) * (max - min), never above max.

    Args:
        codes: uint8, any shape, each at most 2^bits - 1.
        low, high: the finite float32 minimum and maximum that `quantize` gave.
        bits: 1 to 8.

    Returns:
        float32, the same shape, every value finite and between low and high.

    Raises:
        CodecError: another type, a code or a range that `quantize` cannot have given.
    """
    levels = levels_from_bits(bits)
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8:
        raise CodecError("codes are uint8, not {}".format(getattr(codes, "dtype", type(codes).__name__)))
    if levels < 255 and codes.size and int(codes.max()) > levels:
        raise CodecError("the code {} is above {}, the largest of {} bits".format(codes.max(), levels, bits))
    if not range_is_valid(low, high):
        raise CodecError("the range {!r} to {!r} is no finite float32 minimum and maximum".format(low, high))
    first, last = np.float32(low), np.float32(high)
    halved = _is_too_wide(first, last)
    if halved:
        first, last = first * _HALF, last * _HALF
    feature = codes.astype(np.float32)
    feature /= np.float32(levels)
    feature *= last - first
    feature += first
    # The largest code may land one rounding error above max; doubled again, that could be infinity.
    np.minimum(feature, last, out=feature)
    if halved:
        feature /= _HALF
    return feature


def range_is_valid(low: float, high: float) -> bool:
    """Whether low and high are a finite float32 range, low not above high."""
    return bool(-_LARGEST <= low <= high <= _LARGEST)


def _is_too_wide(low: np.float32, high: np.float32) -> bool:
    """Whether max - min would overflow float32; halving such values is exact where it matters."""
    return float(high) - float(low) > _LARGEST
