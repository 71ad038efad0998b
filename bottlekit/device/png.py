"""Gray 8-bit PNG images of one size, for the codec: written by Pillow, read only after a strict look."""

import io
import struct
import zlib
from typing import Tuple

import numpy as np

from .errors import PayloadError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 12
_HEADER_BYTES = 13


def gray_png_from_pixels(pixels: np.ndarray) -> bytes:
    """The complete PNG file of pixels (h, w) uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def max_bytes(shape: Tuple[int, int]) -> int:
    """No sensible file of that many pixels (h, w) is longer: twice the uncompressed size, and the frame."""
    return 2 * _rows_bytes(shape) + 1024


def pixels_from_gray_png(file: bytes, shape: Tuple[int, int]) -> np.ndarray:
    """The pixels (h, w) uint8 of a file; PayloadError unless it is a complete gray 8-bit PNG of that shape.

    Pillow alone would take a file without its end, with wrong checksums, or with chunks nobody asked for.
    """
    _check_chunks(file, shape)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise PayloadError("the payload's PNG does not decode: {}".format(error))


def _rows_bytes(shape: Tuple[int, int]) -> int:
    return shape[0] * (shape[1] + 1)


def _check_chunks(file: bytes, shape: Tuple[int, int]) -> None:
    """PayloadError unless there is a header, data for exactly `shape`, an end, and nothing else."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, 0, 0, 0, 0)
    start = _SIGNATURE + struct.pack(">I", _HEADER_BYTES) + b"IHDR" + header
    if not file.startswith(start):
        raise PayloadError(
            "the payload is no gray {} x {} PNG: its header differs; both ends need the same bundle".format(
                shape[1], shape[0]
            )
        )
    data = []
    position = len(_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if len(file) < position + _CHUNK_BYTES:
            raise PayloadError("the payload's PNG ends too early: it was cut")
        size, kind = struct.unpack_from(">I4s", file, position)
        end = position + _CHUNK_BYTES + size
        if end > len(file):
            raise PayloadError("the payload's PNG ends too early: it was cut")
        if struct.unpack_from(">I", file, end - 4)[0] != zlib.crc32(file[position + 4 : end - 4]):
            raise PayloadError("a checksum in the payload's PNG is wrong: it was damaged")
        if kind == b"IDAT":
            data.append(file[position + 8 : end - 4])
        elif (kind == b"IHDR") != (position == len(_SIGNATURE)) or kind not in (b"IHDR", b"IEND"):
            raise PayloadError("the payload's PNG has an unexpected chunk {!r}".format(kind))
        position = end
    if position != len(file) or size:
        raise PayloadError("the payload's PNG goes on behind its end")
    expected = _rows_bytes(shape)
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(data), expected + 1)
    except zlib.error as error:
        raise PayloadError("the payload's PNG does not decode: {}".format(error))
    if len(rows) != expected or not inflater.eof or inflater.unused_data:
        raise PayloadError("the payload's PNG does not hold exactly {} x {} pixels".format(shape[1], shape[0]))
