"""What the kernels compute, in numpy: the codec's own quantiser and tiling, laid out as the kernels lay it out.

    features (n, c, h, w) --quantize_tile--> canvases (n, padded) uint8, ranges (n, 2), status (n)
    canvases, ranges --untile_dequantize--> features (n, c, h, w), status (n)

A canvas is padded with zeros to whole 32-bit words, because that is how it travels through an engine.
"""

from __future__ import annotations

import numpy as np

from bottlekit.device.errors import CodecError
from bottlekit.device.quantizer import dequantize, levels_from_bits, quantize, range_is_valid
from bottlekit.device.tiling import canvas_shape, tile, untile

NOT_FINITE, CODE_TOO_LARGE = 1, 2

Arrays = tuple[np.ndarray, ...]


def padded_size(c: int, h: int, w: int) -> int:
    """Bytes of one canvas, in whole 32-bit words."""
    height, width = canvas_shape(c, h, w)
    return -(-height * width // 4) * 4


def quantize_tile(features: np.ndarray, bits: int, value_range: tuple[float, float] | None = None) -> Arrays:
    """Canvases, ranges and status of a batch; an image with NaN or infinity has status 1 and zeros."""
    n, c, h, w = features.shape
    canvases = np.zeros((n, padded_size(c, h, w)), np.uint8)
    ranges, status = np.zeros((n, 2), np.float32), np.zeros(n, np.int32)
    for i, feature in enumerate(features):
        try:
            codes, *ranges[i] = quantize(feature, bits, value_range)
        except CodecError:
            status[i] = NOT_FINITE
            continue
        canvas = tile(codes).reshape(-1)
        canvases[i, : canvas.size] = canvas
    return canvases, ranges, status


def untile_dequantize(canvases: np.ndarray, ranges: np.ndarray, shape: tuple[int, int, int], bits: int) -> Arrays:
    """Features and status of a batch; what no quantiser can have given is zero, and its status says so."""
    features = np.zeros((len(canvases), *shape), np.float32)
    status = np.zeros(len(canvases), np.int32)
    height, width = canvas_shape(*shape)
    for i, (canvas, (low, high)) in enumerate(zip(canvases, ranges, strict=True)):
        codes = untile(canvas[: height * width].reshape(height, width), shape)
        good = codes <= levels_from_bits(bits)
        status[i] |= 0 if good.all() else CODE_TOO_LARGE
        if not range_is_valid(float(low), float(high)):
            status[i] |= NOT_FINITE
            continue
        features[i] = np.where(good, dequantize(np.where(good, codes, 0), float(low), float(high), bits), 0)
    return features, status
