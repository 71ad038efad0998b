"""Gray WebP images of one size, for the codec: Pillow writes and reads them.

    file = "RIFF", size, "WEBP", "VP8 " or "VP8L", size of the bitstream     20 bytes, which the length tells
         + bitstream (+ a byte 0 if its length is odd)

Only the bitstream is the payload. Its first bytes say the image's size, and are compared before anything is
decoded.
"""

import io
import struct
from typing import Tuple

import numpy as np

from .errors import CodecError, PayloadError

_HEADER = struct.Struct("<4sI4s4sI")
# The format has 14 bits for a side.
_MAX_SIDE = 16383


class GrayWebp:
    """Pixels (h, w) uint8 to WebP bitstreams and back, for one size and one quality (without meaning if lossless).

    Attributes:
        max_bytes: no bitstream is longer.
    """

    def __init__(self, shape: Tuple[int, int], quality: int, lossless: bool) -> None:
        from PIL import features

        if not features.check("webp"):
            raise CodecError(
                "the codec webp needs a Pillow with WebP, and this one has none; "
                "install Pillow from PyPI, or take another codec"
            )
        if max(shape) > _MAX_SIDE:
            raise CodecError(
                "a WebP image has at most {} pixels a side, and the features need {} x {}; "
                "use the codec raw, or reduce the feature further".format(_MAX_SIDE, *shape)
            )
        self.shape = shape
        self.quality = quality
        self.lossless = lossless
        self._kind = b"VP8L" if lossless else b"VP8 "
        self.max_bytes = 4 * shape[0] * shape[1] + 4096

    def encode(self, pixels: np.ndarray) -> bytes:
        """The bitstream of pixels (h, w) uint8."""
        from PIL import Image

        buffer = io.BytesIO()
        image = Image.fromarray(pixels).convert("RGB")
        # The settings that search longest save one byte in a hundred, and take ten times as long.
        if self.lossless:
            image.save(buffer, "WEBP", lossless=True, quality=75, method=4)
        else:
            image.save(buffer, "WEBP", quality=self.quality, method=6)
        file = buffer.getvalue()
        riff, _, webp, kind, size = _HEADER.unpack_from(file)
        if (riff, webp, kind) != (b"RIFF", b"WEBP", self._kind) or len(file) != _HEADER.size + size + size % 2:
            raise CodecError("this machine's WebP library writes more than an image; install Pillow from PyPI")
        return file[_HEADER.size : _HEADER.size + size]

    def decode(self, bitstream: bytes) -> np.ndarray:
        """The pixels (h, w) uint8 of a bitstream; PayloadError unless it is one of this size."""
        if _shape_of(bitstream, self.lossless) != self.shape:
            raise PayloadError(
                "the payload is no {} x {} WebP image; both ends need the same bundle".format(
                    self.shape[1], self.shape[0]
                )
            )
        padded = bitstream + b"\0" * (len(bitstream) % 2)
        header = _HEADER.pack(b"RIFF", len(padded) + 12, b"WEBP", self._kind, len(bitstream))
        from PIL import Image

        try:
            with Image.open(io.BytesIO(header + padded), formats=["WEBP"]) as image:
                pixels = np.array(image)
        except (OSError, SyntaxError, ValueError, RuntimeError, MemoryError) as error:
            raise PayloadError("the payload's WebP image does not decode: {}".format(error))
        if pixels.shape != self.shape + (3,):
            raise PayloadError("the payload's WebP image decoded to {}".format(pixels.shape))
        return np.ascontiguousarray(pixels[:, :, 1])


def _shape_of(bitstream: bytes, lossless: bool) -> Tuple[int, int]:
    """The (height, width) that a bitstream says it has; (0, 0) where it is none."""
    if lossless:
        # 0x2f, then 14 bits width - 1, 14 bits height - 1, 1 bit alpha, 3 bits version
        if len(bitstream) < 5 or bitstream[0] != 0x2F:
            return 0, 0
        bits = struct.unpack_from("<I", bitstream, 1)[0]
        return (0, 0) if bits >> 28 else ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    # 3 bytes of frame tag (lowest bit 0: a key frame), a start code, then 14 bits width and height with 2 of scale
    if len(bitstream) < 10 or bitstream[0] & 1 or bitstream[3:6] != b"\x9d\x01\x2a":
        return 0, 0
    width, height = struct.unpack_from("<HH", bitstream, 6)
    return height, width
