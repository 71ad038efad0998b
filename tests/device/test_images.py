import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlekit.device import images
from bottlekit.device.errors import DataError
from bottlekit.device.images import (
    FORMATS,
    image_from_bytes,
    image_from_file,
)


def noise(height=11, width=17, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.RandomState(height * width).randint(0, 256, shape).astype(np.uint8)


def saved(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data):
    """The message with which image_from_bytes refuses `data`."""
    with pytest.raises(DataError) as caught:
        image_from_bytes(data, where="photo.xyz")
    message = str(caught.value)
    assert "photo.xyz" in message
    assert "\n" not in message
    return message


# Reading


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_exactly_their_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = image_from_bytes(saved(noise(), kind, **options))
    assert (pixels.dtype, pixels.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(pixels, noise())


def test_jpeg_and_gif_give_nearly_their_pixels():
    smooth = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[:, np.newaxis, np.newaxis], 16, axis=1)
    smooth = np.repeat(smooth, 3, axis=2)
    for kind in ("JPEG", "GIF"):
        assert np.abs(image_from_bytes(saved(smooth, kind)).astype(int) - smooth).max() <= 8


def test_gray_images_become_three_equal_channels():
    gray = noise(channels=0)
    for data in (saved(gray), saved(gray, "TIFF"), saved(Image.fromarray(gray).convert("LA"))):
        assert np.array_equal(image_from_bytes(data), np.repeat(gray[:, :, np.newaxis], 3, axis=2))


def test_black_and_white_images_become_0_and_255():
    bits = noise(channels=0) > 127
    pixels = image_from_bytes(saved(Image.fromarray(bits)))
    assert np.array_equal(pixels[:, :, 0], np.where(bits, 255, 0))


def test_transparency_is_dropped_and_the_colours_under_it_stay():
    with_alpha = noise(channels=4)
    assert np.array_equal(image_from_bytes(saved(with_alpha)), with_alpha[:, :, :3])


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palette_images_become_their_colours(transparency):
    palette = Image.fromarray(noise(channels=0) // 16, "L").convert("P")
    colours = np.random.RandomState(1).randint(0, 256, (256, 3)).astype(np.uint8)
    palette.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    pixels = image_from_bytes(saved(palette, **options))
    assert np.array_equal(pixels, colours[np.asarray(palette)])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    deep = np.array([[0, 128, 129, 257], [32767, 32768, 65278, 65535]], dtype=np.uint16)
    pixels = image_from_bytes(saved(deep, kind))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1, 1], [127, 128, 254, 255]]
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(kind):
    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[:, :, 0] = 255
    red, green, blue = image_from_bytes(saved(Image.fromarray(ink, "CMYK"), kind))[4, 4].tolist()
    assert red < 10
    assert green > 245
    assert blue > 245


def test_pixels_that_are_no_colours_are_refused():
    assert "floating-point" in refusal(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    assert "32-bit" in refusal(saved(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"))


def test_of_an_animation_the_first_frame_is_taken():
    first, second = Image.fromarray(noise(channels=0)), Image.fromarray(255 - noise(channels=0))
    data = saved(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(image_from_bytes(data)[:, :, 0], noise(channels=0))


def exif(orientation):
    """An EXIF block with nothing but the orientation."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"


# What each orientation does to a viewer's picture, by its definition: where row 0 and column 0 of the file lie.
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_are_turned_upright(kind, orientation):
    stored = noise(8, 16)
    if kind == "TIFF":
        data = saved(stored, kind, tiffinfo={0x0112: orientation})
        plain = saved(stored, kind)
    else:
        data = saved(stored, kind, exif=exif(orientation))
        plain = saved(stored, kind)
    assert np.array_equal(image_from_bytes(data), UPRIGHT[orientation](image_from_bytes(plain)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    data = saved(noise(8, 16), "PNG", exif=exif(orientation))
    assert np.array_equal(image_from_bytes(data), noise(8, 16))


@pytest.mark.parametrize(
    "broken", [b"Exif\0\0", b"Exif\0\0nonsense", exif(6)[:-10], b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_broken_exif_data_does_not_make_the_image_unusable(broken):
    assert image_from_bytes(saved(noise(8, 16), "JPEG", exif=broken)).shape == (8, 16, 3)


# Refusing


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused_or_complete(kind):
    data = saved(noise(), kind)
    whole = image_from_bytes(data)
    for length in range(len(data)):
        try:
            pixels = image_from_bytes(data[:length])
        except DataError:
            continue
        # A few formats end in bytes that say nothing about the pixels.
        assert length > len(data) - 13
        assert np.array_equal(pixels, whole)


@given(st.sampled_from(FORMATS), st.data())
def test_a_damaged_image_is_refused_or_has_pixels(kind, data):
    content = bytearray(saved(noise(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = image_from_bytes(bytes(content))
    except DataError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0"]),
)
def test_arbitrary_bytes_are_refused(content, start):
    refusal(start + content)


def test_a_png_with_a_wrong_checksum_is_refused():
    data = bytearray(saved(noise()))
    data[data.index(b"IDAT") + 20] ^= 1
    assert "damaged" in refusal(bytes(data))


def test_each_refusal_says_what_is_wrong():
    assert refusal(b"") == "photo.xyz is empty"
    assert "no image in a format that is read here (JPEG, PNG, " in refusal(b"#!/bin/sh\necho hello\n")
    assert "no image in a format" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "truncated" in refusal(saved(noise(), "JPEG")[:-20])


def claiming(width, height):
    """A PNG file that claims a size it does not have."""
    data = bytearray(saved(noise(channels=0)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize(("width", "height"), [(1 << 13, (1 << 13) + 1), (100000, 1000), (1 << 30, 1 << 30)])
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(width, height, monkeypatch):
    def no_decoding(self):
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", no_decoding)
    assert "is too large, images of up to 67 million pixels" in refusal(claiming(width, height))


def test_the_largest_image_is_read_and_one_row_more_is_not():
    assert image_from_bytes(saved(noise(11, 17)), max_pixels=11 * 17).shape == (11, 17, 3)
    with pytest.raises(DataError, match="17 x 12 pixels"):
        image_from_bytes(saved(noise(12, 17)), max_pixels=11 * 17)


# Files


def test_a_file_is_read_by_its_content_not_its_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(noise()))
    assert np.array_equal(image_from_file(str(path)), noise())
    assert np.array_equal(image_from_file(path), noise())


def test_files_that_are_no_images_are_refused_by_name(tmp_path):
    def message(path):
        with pytest.raises(DataError) as caught:
            image_from_file(str(path))
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "nothing.png")
    assert "but a folder" in message(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    assert "is empty" in message(tmp_path / "empty.png")
    (tmp_path / "cut.jpg").write_bytes(saved(noise(), "JPEG")[:200])
    assert "damaged or truncated" in message(tmp_path / "cut.jpg")
    os.mkfifo(str(tmp_path / "pipe"))
    assert "is no image file" in message(tmp_path / "pipe")


def test_a_file_that_is_too_long_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    (tmp_path / "long.png").write_bytes(b"x" * 101)
    with pytest.raises(DataError, match="101 bytes"):
        image_from_file(str(tmp_path / "long.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_rights_is_refused_by_name(tmp_path):
    path = tmp_path / "mine.png"
    path.write_bytes(saved(noise()))
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        image_from_file(str(path))
