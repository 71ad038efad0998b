import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.errors import CodecError
from bottlekit.device.tiling import canvas_shape, slots_from_channels, tile, untile

shapes = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))


def numbered(shape):
    """Codes in which no two neighbours are equal, and none is 0."""
    return (np.arange(np.prod(shape)) % 251 + 1).astype(np.uint8).reshape(shape)


@given(shapes)
def test_untile_gives_back_what_tile_took(shape):
    codes = numbered(shape)
    canvas = tile(codes)
    assert canvas.dtype == np.uint8
    assert canvas.shape == canvas_shape(*shape)
    assert np.array_equal(untile(canvas, shape), codes)


@given(shapes)
def test_each_channel_lies_in_its_slot_and_spare_slots_are_0(shape):
    c, h, w = shape
    codes = numbered(shape)
    canvas = tile(codes)
    rows, columns = slots_from_channels(c)
    for slot in range(rows * columns):
        row, column = divmod(slot, columns)
        area = canvas[row * h : (row + 1) * h, column * w : (column + 1) * w]
        assert np.array_equal(area, codes[slot] if slot < c else np.zeros((h, w), np.uint8))


@pytest.mark.parametrize("exponent", range(12))
def test_powers_of_two_follow_the_source(exponent):
    c = 2**exponent
    width = 5 * 2 ** math.ceil(math.log(c, 2) / 2)
    height = 3 * 2 ** math.floor(math.log(c, 2) / 2)
    assert canvas_shape(c, 3, 5) == (height, width)


@pytest.mark.parametrize("c", range(1, 300))
def test_any_number_of_channels_fits_and_less_than_half_the_slots_are_spare(c):
    rows, columns = slots_from_channels(c)
    assert c <= rows * columns < 2 * c
    assert columns in (rows, 2 * rows)


def test_the_picture_in_the_documentation():
    codes = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1)
    assert tile(codes).tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]


def test_what_is_in_spare_slots_is_dropped():
    canvas = tile(numbered((3, 2, 2)))
    canvas[2:, 2:] = 99
    assert np.array_equal(untile(canvas, (3, 2, 2)), numbered((3, 2, 2)))


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 2, 2)])
def test_shapes_without_values_are_refused(shape):
    with pytest.raises(CodecError, match="at least one value"):
        canvas_shape(*shape)


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 2, 2)])
def test_only_three_dimensions_are_tiled(shape):
    with pytest.raises(CodecError, match=r"\(c, h, w\)"):
        tile(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("canvas", [(2, 3), (4, 2), (4,), (2, 4, 1)])
def test_a_canvas_of_another_size_is_refused(canvas):
    with pytest.raises(CodecError, match="need a canvas"):
        untile(np.zeros(canvas, np.uint8), (8, 1, 1))
