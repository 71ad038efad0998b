"""Gray JPEG images of one size and quality, for the codec.

Pillow writes them: its files are the same, byte for byte, from version 8.4 on. simplejpeg reads them where it is
installed: the same pixels, several times as fast, and it notices a scan that lost its last part. It does not write
them, because below quality 96 it takes a faster, less accurate transform, whatever it is asked for.

Everything before a file's scan (size, tables, settings) depends only on size and quality. So a blank image tells
what those bytes must be, and comparing them is the whole check of a file's header: nothing in it is parsed.
"""

import functools
import io
import re
from typing import Any, Tuple

import numpy as np

from .errors import CodecError, PayloadError

_START_OF_SCAN = b"\xff\xda"
_START_OF_SCAN_BYTES = 10
END_OF_IMAGE = b"\xff\xd9"
# Inside a scan, 0xff is always followed by 0x00; anything else is a marker.
_MARKER = re.compile(b"\xff[^\x00]", re.DOTALL)

# JPEG stores height and width in 16 bits; libjpeg stops at 65500.
_MAX_SIDE = 65500
# The worst block of 8 x 8: 20 bits for the first coefficient, 26 for each of 63; any byte may be stuffed with a 0.
_MAX_BLOCK_BYTES = 2 * ((20 + 63 * 26 + 7) // 8)

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


@functools.lru_cache(maxsize=None)
def _pillow() -> Any:
    """Pillow's Image. Kept: an import that is done already still takes longer than coding a small image."""
    from PIL import Image

    return Image


class GrayJpeg:
    """Pixels (h, w) uint8 to complete baseline JPEG files and back, for one size and one quality.

    Attributes:
        header: the bytes before the scan, the same in every file.
        max_bytes: no file is longer.
    """

    def __init__(self, shape: Tuple[int, int], quality: int, use_simplejpeg: bool = simplejpeg is not None) -> None:
        if max(shape) > _MAX_SIDE:
            raise CodecError(
                "a JPEG image has at most {} pixels a side, and the features need {} x {}; "
                "use the codec raw, or reduce the feature further".format(_MAX_SIDE, *shape)
            )
        self.shape = shape
        self.quality = quality
        self._use_simplejpeg = use_simplejpeg
        blank = self._saved(np.zeros(shape, dtype=np.uint8))
        self._direct = self._directly_codes(blank)
        self.header = blank[: blank.rindex(_START_OF_SCAN) + _START_OF_SCAN_BYTES]
        blocks = ((shape[0] + 7) // 8) * ((shape[1] + 7) // 8)
        self.max_bytes = len(self.header) + blocks * _MAX_BLOCK_BYTES + len(END_OF_IMAGE)

    def encode(self, pixels: np.ndarray) -> bytes:
        """The complete JPEG file of pixels (h, w) uint8."""
        if not self._direct:
            return self._saved(pixels)
        return self._coded(pixels)

    def _directly_codes(self, blank: bytes) -> bool:
        # What `save` does around the coder takes longer than coding a small image. Without it the coder is asked in
        # words that Pillow does not document: where they are not understood, or mean another file, it is not used.
        try:
            return self._coded(np.zeros(self.shape, dtype=np.uint8)) == blank
        except (TypeError, ValueError, OSError):
            return False

    def _coded(self, pixels: np.ndarray) -> bytes:
        height, width = pixels.shape
        image = _pillow().frombuffer("L", (width, height), np.ascontiguousarray(pixels), "raw", "L", 0, 1)
        file: bytes = image.tobytes("jpeg", "L", self.quality)
        return file

    def _saved(self, pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        _pillow().fromarray(pixels).save(buffer, "JPEG", quality=self.quality, optimize=False, progressive=False)
        return buffer.getvalue()

    def decode(self, file: bytes) -> np.ndarray:
        """The pixels (h, w) uint8 of a file; PayloadError unless it is a complete one of this size and quality."""
        if not file.startswith(self.header):
            raise PayloadError(
                "the payload is no gray {1} x {0} JPEG of quality {2}: its header differs; "
                "both ends need the same bundle".format(*(self.shape + (self.quality,)))
            )
        marker = _MARKER.search(file, len(self.header))
        if marker is None or file[marker.start() :] != END_OF_IMAGE:
            raise PayloadError("the payload's JPEG does not end where its scan ends: it was cut, joined or damaged")
        try:
            if self._use_simplejpeg:
                gray = simplejpeg.decode_jpeg(file, colorspace="GRAY", fastdct=False, fastupsample=False)
                return np.asarray(gray[:, :, 0])
            with _pillow().open(io.BytesIO(file), formats=["JPEG"]) as image:
                return np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise PayloadError("the payload's JPEG does not decode: {}".format(error))
