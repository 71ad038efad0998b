import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlekit.device.errors import PayloadError
from bottlekit.device.png import gray_png_from_pixels, max_bytes, pixels_from_gray_png

SHAPE = (6, 9)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width=9, height=6, depth=8, colour=0, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def rows(pixels, row_filter=0):
    return b"".join(bytes([row_filter]) + row.tobytes() for row in pixels)


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


DATA = chunk(b"IDAT", zlib.compress(rows(noise(SHAPE))))
END = chunk(b"IEND", b"")


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 1 << 30))
def test_pixels_come_back_exactly(shape, seed):
    pixels = noise(shape, seed)
    file = gray_png_from_pixels(pixels)
    assert len(file) <= max_bytes(shape)
    back = pixels_from_gray_png(file, shape)
    assert (back.dtype, back.shape) == (np.uint8, shape)
    assert np.array_equal(back, pixels)


def test_a_file_of_another_writer_is_read():
    assert np.array_equal(pixels_from_gray_png(SIGNATURE + header() + DATA + END, SHAPE), noise(SHAPE))


def test_data_in_several_chunks_is_read():
    data = zlib.compress(rows(noise(SHAPE)))
    chunks = b"".join(chunk(b"IDAT", data[start : start + 7]) for start in range(0, len(data), 7))
    assert np.array_equal(pixels_from_gray_png(SIGNATURE + header() + chunks + END, SHAPE), noise(SHAPE))


def hostile_files():
    gray = Image.fromarray(noise(SHAPE))
    good = SIGNATURE + header() + DATA + END
    pixels = rows(noise(SHAPE))
    deflated = zlib.compress(pixels)
    yield "empty", b""
    yield "only a signature", SIGNATURE
    yield "only a header", SIGNATURE + header()
    yield "no data", SIGNATURE + header() + END
    yield "no end", good[: -len(END)]
    yield "half an end", good[:-1]
    yield "bytes behind the end", good + b"\0"
    yield "two files", good + good
    yield "two headers", SIGNATURE + header() + header() + DATA + END
    yield "an end with content", SIGNATURE + header() + DATA + chunk(b"IEND", b"x")
    yield "another height", SIGNATURE + header(height=7) + DATA + END
    yield "another width", SIGNATURE + header(width=8) + DATA + END
    yield "a huge size", SIGNATURE + header(width=1 << 30, height=1 << 30) + DATA + END
    yield "interlaced", SIGNATURE + header(interlace=1) + DATA + END
    yield "16 bits", saved(Image.fromarray(noise(SHAPE).astype(np.uint16)))
    yield "4 bits", SIGNATURE + header(depth=4) + DATA + END
    yield "colour", saved(gray.convert("RGB"))
    yield "palette", saved(gray.convert("P"))
    yield "with alpha", saved(gray.convert("LA"))
    yield "a text", SIGNATURE + header() + chunk(b"tEXt", b"a\0b") + DATA + END
    yield (
        "a compressed text",
        SIGNATURE + header() + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 10**6)) + DATA + END,
    )
    yield "a gamma", SIGNATURE + header() + chunk(b"gAMA", b"\0\0\0\1") + DATA + END
    yield "a wrong checksum", good[:-5] + b"\0" + good[-4:]
    yield "a chunk longer than the file", SIGNATURE + header() + struct.pack(">I", 1 << 31) + DATA[4:] + END
    yield "too few rows", SIGNATURE + header() + chunk(b"IDAT", zlib.compress(pixels[:-1])) + END
    yield "too many rows", SIGNATURE + header() + chunk(b"IDAT", zlib.compress(pixels + b"\0")) + END
    yield "a bomb", SIGNATURE + header() + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + END
    yield "data behind the data", SIGNATURE + header() + chunk(b"IDAT", deflated + b"x") + END
    yield "cut data", SIGNATURE + header() + chunk(b"IDAT", deflated[:-1]) + END
    yield "no deflated data", SIGNATURE + header() + chunk(b"IDAT", pixels) + END
    yield "an unknown row filter", SIGNATURE + header() + chunk(b"IDAT", zlib.compress(rows(noise(SHAPE), 5))) + END
    yield "a JPEG", b"\xff\xd8\xff\xe0" + good


@pytest.mark.parametrize(("what", "file"), list(hostile_files()), ids=[what for what, _ in hostile_files()])
def test_files_of_another_make_are_refused(what, file):
    with pytest.raises(PayloadError) as caught:
        pixels_from_gray_png(file, SHAPE)
    assert "\n" not in str(caught.value)


def test_every_flipped_bit_is_seen():
    good = gray_png_from_pixels(noise((3, 4)))
    for position in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[position] ^= 1 << bit
            with pytest.raises(PayloadError):
                pixels_from_gray_png(bytes(damaged), (3, 4))
