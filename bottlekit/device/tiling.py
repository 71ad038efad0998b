"""Channels tiled into one near-square gray image, so that an image coder can take them.

    codes (c, h, w)                 canvas (H, W), here c = 5

    +--+ +--+ +--+ +--+ +--+        +--+--+--+--+
    |0 | |1 | |2 | |3 | |4 |   ->   |0 |1 |2 |3 |      channels row by row,
    +--+ +--+ +--+ +--+ +--+        +--+--+--+--+      spare slots 0
                                    |4 |0 |0 |0 |
                                    +--+--+--+--+

The receiver knows the shape (c, h, w) from the bundle, so the canvas carries nothing but the codes.
"""

from typing import Tuple

import numpy as np

from .errors import CodecError

Shape = Tuple[int, int, int]


def slots_from_channels(channels: int) -> Tuple[int, int]:
    """How many (rows, columns) of slots `channels` channels need.

    The source (Choi and Bajic, near-lossless deep feature compression) has 2^floor(log2(C) / 2) rows and
    2^ceil(log2(C) / 2) columns, for C a power of two. Any other C is first rounded up to the next power of
    two: put straight into the formula, it would leave 3 channels with 2 slots.
    """
    exponent = (channels - 1).bit_length()
    return 1 << (exponent // 2), 1 << ((exponent + 1) // 2)


def canvas_shape(c: int, h: int, w: int) -> Tuple[int, int]:
    """The (height, width) of the canvas that holds c channels of h x w."""
    if min(c, h, w) < 1:
        raise CodecError("a feature has at least one value in each dimension, not the shape {}".format((c, h, w)))
    rows, columns = slots_from_channels(c)
    return h * rows, w * columns


def tile(codes: np.ndarray) -> np.ndarray:
    """Codes (c, h, w) as a canvas (H, W) of the same type; spare slots are 0."""
    if codes.ndim != 3:
        raise CodecError("codes to tile have the shape (c, h, w), not {}".format(codes.shape))
    c, h, w = codes.shape
    canvas_h, canvas_w = canvas_shape(c, h, w)
    rows, columns = canvas_h // h, canvas_w // w
    slots = np.zeros((rows * columns, h, w), dtype=codes.dtype)
    slots[:c] = codes
    return slots.reshape(rows, columns, h, w).transpose(0, 2, 1, 3).reshape(canvas_h, canvas_w)


def untile(canvas: np.ndarray, shape: Shape) -> np.ndarray:
    """The codes (c, h, w) on a canvas (H, W); what is in spare slots is dropped."""
    c, h, w = shape
    expected = canvas_shape(c, h, w)
    if canvas.shape != expected:
        raise CodecError("features {} need a canvas {}, not {}".format(tuple(shape), expected, canvas.shape))
    rows, columns = expected[0] // h, expected[1] // w
    slots = canvas.reshape(rows, h, columns, w).transpose(0, 2, 1, 3).reshape(rows * columns, h, w)
    return slots[:c]
