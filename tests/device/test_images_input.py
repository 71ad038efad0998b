import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottlekit.device.errors import DataError, UsageError
from bottlekit.device.images import image_from_bytes, input_from_image, jpeg_from_image

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def noise(height=11, width=17, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.RandomState(height * width).randint(0, 256, shape).astype(np.uint8)


def test_an_image_of_the_right_size_is_only_scaled():
    image = noise(16, 16)
    result = input_from_image(image, dict(PLAIN, resize=16, crop=16))
    assert (result.dtype, result.shape, result.flags.c_contiguous) == (np.float32, (3, 16, 16), True)
    assert np.array_equal(result, image.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_mean_and_deviation_are_taken_per_channel():
    image = np.full((4, 4, 3), 51, dtype=np.uint8)
    result = input_from_image(image, {"resize": 4, "crop": 4, "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 0.5]})
    assert np.allclose(result[:, 0, 0], [0.1, 0.0, -0.2], atol=1e-7)


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 30).flatmap(lambda resize: st.tuples(st.just(resize), st.integers(1, resize))),
)
def test_every_image_gives_an_input_of_the_right_shape(size, edges):
    resize, crop = edges
    image = noise(*size)
    result = input_from_image(image, dict(IMAGENET, resize=resize, crop=crop))
    assert result.shape == (3, crop, crop)
    assert np.isfinite(result).all()
    assert result.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(8, 13), (13, 8), (8, 8), (8, 9), (9, 8)])
def test_a_short_side_that_fits_is_not_resampled_only_cropped(height, width):
    image = noise(height, width)
    result = input_from_image(image, dict(PLAIN, resize=8, crop=6))
    top, left = round((height - 6) / 2), round((width - 6) / 2)
    expected = image[top : top + 6, left : left + 6].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(result, expected)


@pytest.mark.parametrize(("size", "resized"), [((40, 60), (20, 30)), ((61, 40), (30, 20)), ((7, 9), (20, 25))])
def test_the_short_side_is_resized_and_the_long_one_rounded_down(size, resized):
    image = noise(*size)
    result = input_from_image(image, dict(PLAIN, resize=20, crop=20))
    larger = np.asarray(Image.fromarray(image).resize((resized[1], resized[0]), Image.BILINEAR))
    top, left = round((resized[0] - 20) / 2), round((resized[1] - 20) / 2)
    expected = larger[top : top + 20, left : left + 20].transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(result, expected)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    result = input_from_image(stripes, dict(PLAIN, resize=16, crop=16))
    assert np.abs(result - 0.5).max() < 0.1


def test_a_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(UsageError, match="cannot cut 9 x 9 pixels"):
        input_from_image(noise(20, 20), dict(PLAIN, resize=8, crop=9))
    with pytest.raises(UsageError, match="crop must be 1 to resize"):
        input_from_image(noise(20, 20), dict(PLAIN, resize=8, crop=0))


@pytest.mark.parametrize(
    "image",
    [
        noise(channels=0),
        noise(channels=4),
        noise().astype(np.float32),
        noise().transpose(2, 0, 1),
        np.zeros((0, 4, 3), np.uint8),
        "photo.jpg",
        None,
    ],
    ids=["gray", "rgba", "float", "channels first", "no pixels", "a name", "nothing"],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(DataError, match="an image"):
        input_from_image(image, dict(PLAIN, resize=8, crop=8))


def test_an_image_too_elongated_to_resize_is_refused():
    with pytest.raises(DataError, match="too elongated"):
        input_from_image(np.zeros((1, 1 << 20, 3), np.uint8), dict(PLAIN, resize=512, crop=512))


# What cloud-only sends


def test_the_jpeg_of_an_image_reads_back_and_grows_with_its_quality():
    image = noise(32, 48)
    sizes = [len(jpeg_from_image(image, quality)) for quality in (10, 50, 90)]
    assert sizes == sorted(sizes)
    assert image_from_bytes(jpeg_from_image(image, 90)).shape == image.shape
