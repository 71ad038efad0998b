import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlekit.device import jpeg
from bottlekit.device.errors import CodecError, PayloadError
from bottlekit.device.jpeg import GrayJpeg

END = b"\xff\xd9"
coders = ["pillow"] + (["simplejpeg"] if jpeg.simplejpeg else [])


def coder_of(which="pillow", shape=(24, 40), quality=20):
    return GrayJpeg(shape, quality, use_simplejpeg=which == "simplejpeg")


def noise(shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100), st.integers(0, 1 << 30))
def test_the_header_is_the_same_in_every_file_and_holds_no_scan(shape, quality, seed):
    coder = coder_of(shape=shape, quality=quality)
    file = coder.encode(noise(shape, seed))
    assert file.startswith(coder.header)
    assert len(coder.header) == 328
    assert file.endswith(END)
    assert len(file) <= coder.max_bytes


@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100), st.integers(0, 1 << 30))
def test_a_file_is_what_pillow_saves(shape, quality, seed):
    pixels = noise(shape, seed)
    expected = saved(Image.fromarray(pixels), quality=quality)
    assert coder_of(shape=shape, quality=quality).encode(pixels) == expected


@pytest.mark.parametrize("quality", [1, 20, 100])
def test_a_large_file_is_what_pillow_saves_and_so_is_one_of_pixels_that_are_not_in_a_row(quality):
    pixels = noise((900, 700), quality).T
    assert coder_of(shape=pixels.shape, quality=quality).encode(pixels) == saved(
        Image.fromarray(np.ascontiguousarray(pixels)), quality=quality
    )


def refused(*_arguments):
    raise TypeError("another Pillow")


@pytest.mark.parametrize("tobytes", [refused, lambda *_arguments: b"no JPEG at all"])
def test_files_are_the_same_where_pillow_does_not_give_its_coder(monkeypatch, tobytes):
    pixels = noise((24, 40))
    direct = coder_of().encode(pixels)
    monkeypatch.setattr(Image.Image, "tobytes", tobytes)
    coder = coder_of()
    assert not coder._direct
    assert coder.encode(pixels) == direct


@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(1, 100), st.integers(0, 1 << 30))
def test_both_libraries_read_the_same_pixels(shape, quality, seed):
    pytest.importorskip("simplejpeg")
    slow, fast = coder_of("pillow", shape, quality), coder_of("simplejpeg", shape, quality)
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    for pixels in (noise(shape, seed), ramp, np.full(shape, seed % 256, dtype=np.uint8)):
        file = slow.encode(pixels)
        assert np.array_equal(fast.decode(file), slow.decode(file))


@pytest.mark.parametrize("which", coders)
def test_decoded_pixels_have_the_shape_and_are_near(which):
    coder = coder_of(which, (24, 40), quality=95)
    pixels = np.tile(np.linspace(0, 255, 40), (24, 1)).astype(np.uint8)
    back = coder.decode(coder.encode(pixels))
    assert (back.shape, back.dtype) == ((24, 40), np.uint8)
    assert np.abs(back.astype(int) - pixels).max() <= 3


def files_of_another_make():
    gray = Image.fromarray(noise((24, 40)))
    good = saved(gray, quality=20)
    yield "empty", b""
    yield "another height", saved(gray.resize((40, 25)), quality=20)
    yield "another width", saved(gray.resize((41, 24)), quality=20)
    yield "turned", saved(gray.transpose(Image.ROTATE_90), quality=20)
    yield "another quality", saved(gray, quality=21)
    yield "colour", saved(gray.convert("RGB"), quality=20)
    yield "progressive", saved(gray, quality=20, progressive=True)
    yield "its own Huffman tables", saved(gray, quality=20, optimize=True)
    yield "a profile", saved(gray, quality=20, icc_profile=b"x" * 1000)
    yield "a comment", good[:2] + b"\xff\xfe\x00\x04ab" + good[2:]
    yield "half a header", good[:327]
    png = io.BytesIO()
    gray.save(png, "PNG")
    yield "a PNG", png.getvalue()


def files_with_a_damaged_scan():
    good = saved(Image.fromarray(noise((24, 40))), quality=20)
    scan = 328
    yield "only a header", good[:scan]
    yield "no end", good[:-2]
    yield "half an end", good[:-1]
    yield "cut in the scan", good[: scan + 40]
    yield "bytes behind the end", good + b"\0"
    yield "two ends", good + END
    yield "two files", good + good
    yield "an end inside the scan", good[: scan + 40] + END + good[scan + 40 :]
    yield "a restart marker", good[: scan + 40] + b"\xff\xd0" + good[scan + 40 :]
    yield "a second image in the scan", good[: scan + 40] + b"\xff\xd8" + good[scan + 40 :]
    yield "a line break as a marker", good[: scan + 40] + b"\xff\n" + good[scan + 40 :]


def named(files):
    """The parametrization of a test by named files."""
    names, contents = zip(*files)
    return pytest.mark.parametrize("file", contents, ids=names)


@pytest.mark.parametrize("which", coders)
@named(files_of_another_make())
def test_files_of_another_make_are_refused_by_their_header(which, file):
    with pytest.raises(PayloadError, match="no gray 40 x 24 JPEG of quality 20: its header differs"):
        coder_of(which).decode(file)


@pytest.mark.parametrize("which", coders)
@named(files_with_a_damaged_scan())
def test_files_with_a_damaged_scan_are_refused_before_they_are_decoded(which, file):
    with pytest.raises(PayloadError, match="does not end where its scan ends"):
        coder_of(which).decode(file)


def test_a_file_that_claims_a_huge_size_is_refused_by_its_header():
    good = coder_of().encode(noise((24, 40)))
    size = good.index(b"\xff\xc0") + 5
    huge = good[:size] + b"\xff\xff\xff\xff" + good[size + 4 :]
    with pytest.raises(PayloadError, match="no gray 40 x 24 JPEG of quality 20"):
        coder_of().decode(huge)


def test_a_scan_without_its_last_part_is_refused_where_the_library_tells():
    pytest.importorskip("simplejpeg")
    coder = coder_of("simplejpeg")
    file = coder.encode(noise((24, 40)))
    with pytest.raises(PayloadError, match="does not decode"):
        coder.decode(file[:-40] + END)


@pytest.mark.parametrize("which", coders)
@pytest.mark.parametrize("shape", [(65501, 1), (1, 65501)])
def test_sides_that_jpeg_cannot_store_are_refused(which, shape):
    with pytest.raises(CodecError, match="at most 65500 pixels"):
        coder_of(which, shape)


@pytest.mark.parametrize("which", coders)
def test_the_longest_side_works(which):
    coder = coder_of(which, (1, 65500))
    assert coder.decode(coder.encode(np.full((1, 65500), 7, np.uint8))).shape == (1, 65500)
