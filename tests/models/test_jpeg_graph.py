"""The JPEG round trip on tensors against Pillow's: not one pixel may differ."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

from bottlekit.errors import CodecError
from bottlekit.models.jpeg_graph import LUMINANCE, TRANSFORM, JpegRoundTrip, divisors_from_quality

Pixels = NDArray[np.uint8]

SIZES = [
    (1, 1), (1, 9), (2, 2), (3, 17), (4, 8), (5, 5), (7, 7), (7, 9), (8, 8), (8, 16), (9, 7), (13, 24),
    (14, 14), (15, 1), (16, 16), (17, 33), (21, 40), (28, 28), (28, 56), (31, 31), (56, 56), (56, 112),
]  # fmt: skip
SOME_QUALITIES = [1, 3, 10, 20, 49, 50, 77, 95, 100]

# At quality 1 one pixel of this comes back as 846: every coefficient that raises it is rounded up to a whole step,
# every other one down to none. A reader that looks values up modulo 1024 would paint it black.
FAR_OUTSIDE = [
    [45, 255, 237, 0, 255, 53, 253, 74],
    [91, 71, 242, 172, 195, 0, 250, 148],
    [143, 234, 255, 214, 0, 255, 0, 255],
    [136, 0, 255, 0, 0, 175, 138, 68],
    [38, 255, 149, 88, 195, 169, 255, 164],
    [249, 69, 216, 10, 0, 255, 116, 48],
    [255, 2, 208, 255, 26, 7, 146, 255],
    [255, 62, 103, 70, 167, 212, 229, 224],
]


def pillows(image: Pixels, quality: int) -> Pixels:
    """The pixels that Pillow reads from the file it writes."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    with PIL.Image.open(file) as read:
        return np.array(read)


def round_trip(images: Pixels, quality: int) -> Pixels:
    """Images (n, h, w) through the module under test."""
    module = JpegRoundTrip((images.shape[1], images.shape[2]), quality)
    decoded = module(torch.from_numpy(images.astype(np.int32)))
    assert decoded.dtype == torch.int32
    return decoded.numpy().astype(np.uint8)


def tiles(h: int, w: int, seed: int) -> Pixels:
    """Images (n, h, w) of every kind: noise, gradients, checkers, constants, extremes, features."""
    dice = np.random.RandomState(seed)
    y, x = np.mgrid[:h, :w]
    smooth = np.cos(y / h * dice.uniform(0, 6) + dice.uniform(0, 6)) * np.cos(x / w * dice.uniform(0, 6))
    kinds = [
        dice.randint(0, 256, (h, w)),
        dice.randint(0, 256, (h, w)),
        dice.choice([0, 255], (h, w)),
        x * 255 // max(w - 1, 1),
        255 - y * 255 // max(h - 1, 1),
        (x + y) * 255 // max(h + w - 2, 1),
        (x + y) % 2 * 255,
        (x // 4 + y // 2) % 2 * 255,
        (x // 8 + y // 8) % 2 * 255,
        np.full((h, w), 0),
        np.full((h, w), 255),
        np.full((h, w), dice.randint(0, 256)),
        np.where((y == h // 2) & (x == w // 2), 255, 0),
        127 + smooth * 127,
        np.maximum(smooth + dice.uniform(-0.3, 0.3, (h, w)), 0) * 196,
        np.where(x < (w + 1) // 2, dice.randint(0, 256, (h, w)), 0),
    ]
    return np.stack(kinds).astype(np.uint8)


def assert_equal_to_pillow(images: Pixels, quality: int) -> None:
    expected = np.stack([pillows(image, quality) for image in images])
    assert np.array_equal(round_trip(images, quality), expected), (images.shape, quality)


@pytest.mark.parametrize("quality", SOME_QUALITIES)
def test_no_pixel_differs_from_pillows(quality: int) -> None:
    for seed, (h, w) in enumerate(SIZES):
        assert_equal_to_pillow(tiles(h, w, seed), quality)


@pytest.mark.slow
def test_no_pixel_differs_from_pillows_at_any_quality_and_size() -> None:
    for quality in range(1, 101):
        for seed, (h, w) in enumerate(SIZES):
            assert_equal_to_pillow(tiles(h, w, 1000 * quality + seed), quality)


@pytest.mark.parametrize("quality", [*range(1, 10), *range(10, 101, 10)])
def test_the_largest_coefficients(quality: int) -> None:
    """Each frequency as large as pixels can make it, in both signs: nothing overflows."""
    signs = np.sign(np.array(TRANSFORM))
    waves = signs[:, None, :, None] * signs[None, :, None, :]  # (vertical, horizontal frequency, row, column)
    blocks = np.concatenate((waves, -waves)).reshape(-1, 8, 8)
    assert_equal_to_pillow(np.where(blocks > 0, 255, 0).astype(np.uint8), quality)


@pytest.mark.parametrize("quality", range(1, 8))
def test_pixels_far_outside_the_range_are_cut_off(quality: int) -> None:
    assert_equal_to_pillow(np.array([FAR_OUTSIDE], dtype=np.uint8), quality)


def test_the_tables_are_libjpegs_at_every_quality() -> None:
    for quality in range(1, 101):
        file = io.BytesIO()
        PIL.Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        with PIL.Image.open(file) as image:
            assert np.array_equal(np.reshape(image.quantization[0], (8, 8)), divisors_from_quality(quality))  # type: ignore[attr-defined]
    assert divisors_from_quality(50) == [list(row) for row in LUMINANCE]


def test_the_sums_that_the_module_relies_on() -> None:
    transform = np.array(TRANSFORM)
    # Nothing exceeds int32.
    assert np.abs(transform).sum(0).max() <= 2**16
    assert np.abs(transform).sum(1).max() == 2**16
    # 128 more in every pixel reaches one coefficient alone.
    assert transform.sum(1).tolist() == [2**16, 0, 0, 0, 0, 0, 0, 0]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    images = tiles(13, 24, 0)
    together = round_trip(images, 20)
    for index, decoded in enumerate(together):
        assert np.array_equal(round_trip(images[index : index + 1], 20)[0], decoded)


def test_no_images() -> None:
    assert round_trip(np.zeros((0, 5, 9), dtype=np.uint8), 20).shape == (0, 5, 9)


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_qualities_that_do_not_exist(quality: int) -> None:
    with pytest.raises(CodecError, match=str(quality)):
        JpegRoundTrip((8, 8), quality)


def test_it_has_no_weights_and_prints_its_settings() -> None:
    module = JpegRoundTrip((7, 9), 30)
    assert list(module.state_dict()) == []
    assert repr(module) == "JpegRoundTrip(shape=(7, 9), quality=30)"


def test_its_constants_stay_integers_when_a_network_changes_its_type() -> None:
    images = torch.from_numpy(tiles(13, 24, 1).astype(np.int32))
    module = JpegRoundTrip((13, 24), 20)
    expected = module(images)
    assert torch.equal(module.to(torch.bfloat16)(images), expected)


def test_made_without_storage_it_has_its_constants() -> None:
    images = torch.from_numpy(tiles(5, 9, 1).astype(np.int32))
    with torch.device("meta"):
        module = JpegRoundTrip((5, 9), 20)
    assert torch.equal(module(images), JpegRoundTrip((5, 9), 20)(images))
