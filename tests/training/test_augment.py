from functools import partial

import numpy as np
import pytest

from bottlekit.training.augment import crop_of_padded, crop_of_resized, shift_and_turn

AUGMENTATIONS = [
    partial(shift_and_turn, size=24),
    partial(crop_of_padded, size=24),
    partial(crop_of_resized, resize=27, size=24),
]


class _Still:
    """Dice that always fall in the middle and never flip."""

    def uniform(self, low, high, count=None):
        middle = (low + high) / 2
        return middle if count is None else np.full(count, middle)

    def integers(self, low, high, count=None, endpoint=False):
        middle = (low + high) // 2
        return middle if count is None else np.full(count, middle)

    def random(self):
        return 0.9


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(24, 24), (40, 30), (9, 31), (1, 1)])
def test_any_image_comes_out_at_the_input_size(augment, shape):
    dice = np.random.default_rng(1)
    out = augment(dice.integers(0, 256, (*shape, 3), dtype=np.uint8), dice)
    assert out.shape == (24, 24, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_equal_dice_give_equal_images_and_others_differ(augment, image):
    first = augment(image, np.random.default_rng(7))
    assert np.array_equal(augment(image, np.random.default_rng(7)), first)
    assert any(not np.array_equal(augment(image, np.random.default_rng(seed)), first) for seed in range(3))


def test_dice_in_the_middle_leave_the_image_as_it_is(image):
    assert np.array_equal(shift_and_turn(image, _Still(), 24), image)
    assert np.array_equal(crop_of_padded(image, _Still(), 24), image)
    assert np.array_equal(crop_of_resized(image, _Still(), 24, 24), image)


def test_a_shift_moves_the_image(image):
    class ShiftedDice(_Still):
        def uniform(self, low, high, count=None):
            return 0.0 if count is None else np.array([1 / 24, 2 / 24])

    out = shift_and_turn(image, ShiftedDice(), 24)
    assert np.array_equal(out[:-2, :-1], image[2:, 1:])


def test_an_eighth_turn_keeps_the_centre_and_turns_the_edge():
    image = np.zeros((25, 25, 3), np.uint8)
    image[12, :] = 255

    class TurningDice(_Still):
        def uniform(self, low, high, count=None):
            return 45.0 if count is None else np.zeros(count)

    out = shift_and_turn(image, TurningDice(), 25)
    assert out[12, 12, 0] > 200
    assert max(out[5, 5, 0], out[5, 19, 0]) > 200
    assert out[12, 2, 0] == 0
