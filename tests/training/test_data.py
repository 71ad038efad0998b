import numpy as np
import pytest
import torch

from bottlekit.device.images import image_from_file, input_from_image, jpeg_from_image
from bottlekit.errors import DataError, UnknownNameError, UsageError
from bottlekit.specs import to_dict
from bottlekit.training.data import DATA_NAMES, LabelledImages, dataset_from_name
from bottlekit.training.digits import held_out_mask


@pytest.fixture(scope="module")
def digits():
    return dataset_from_name("digits", input_size=16)


def test_digits_has_1437_training_and_36_held_out_images_of_every_class(digits):
    assert len(digits.train) == 1437
    assert np.bincount(digits.val.labels).tolist() == [36] * 10
    assert digits.classes == [str(digit) for digit in range(10)]
    assert digits.name == "digits"


def test_no_digit_is_in_both_parts(digits):
    held_out = {image.tobytes() for image in digits.val.source.images}
    trained = [image.tobytes() for image in digits.train.source.images]
    assert len(held_out) == 360
    assert not held_out.intersection(trained)


def test_the_seed_never_moves_an_image_to_the_other_part(digits):
    other = dataset_from_name("digits", input_size=16, seed=99)
    assert np.array_equal(digits.val.source.images, other.val.source.images)
    assert digits.val.labels == other.val.labels


def test_digits_are_64_pixels_unless_asked_otherwise():
    data = dataset_from_name("digits")
    assert data.input_size == 64
    assert data.image_uint8(0).shape == (64, 64, 3)
    assert data.image_uint8(0).dtype == np.uint8
    inputs, label = data.train[5]
    assert inputs.shape == (3, 64, 64)
    assert inputs.dtype == torch.float32
    assert isinstance(label, int)


def test_upsampling_keeps_black_and_white(digits):
    assert digits.train.source.images.min() == 0
    assert digits.train.source.images.max() == 255


def test_evaluation_does_what_a_device_does(digits):
    for index in (0, 7, 359):
        expected = input_from_image(digits.image_uint8(index), to_dict(digits.preprocessing))
        assert np.array_equal(digits.val[index][0].numpy(), expected)


def test_a_held_out_image_survives_a_lossless_file_unchanged(digits, tmp_path):
    import PIL.Image

    PIL.Image.fromarray(digits.image_uint8(3)).save(tmp_path / "digit.png")
    image = image_from_file(str(tmp_path / "digit.png"))
    assert np.array_equal(input_from_image(image, to_dict(digits.preprocessing)), digits.val[3][0].numpy())


def test_a_training_image_depends_on_seed_epoch_and_index_alone(digits):
    data = dataset_from_name("digits", input_size=16, seed=3)
    again = dataset_from_name("digits", input_size=16, seed=3)
    first = data.train[10][0]
    _ = again.train[4], again.train[11]
    assert torch.equal(again.train[10][0], first)
    again.train.set_epoch(1)
    assert not torch.equal(again.train[10][0], first)
    again.train.set_epoch(0)
    assert torch.equal(again.train[10][0], first)
    other = dataset_from_name("digits", input_size=16, seed=4)
    assert not torch.equal(other.train[10][0], first)


def test_images_for_export_are_spread_over_all_held_out_ones(digits):
    assert digits.val_indices(4) == [0, 90, 180, 270]
    assert digits.val_indices(1000) == list(range(360))
    assert np.array_equal(digits.val_images(4)[1], digits.image_uint8(90))


def test_held_out_images_are_evenly_spaced_in_their_class():
    labels = np.array([0, 1] * 10)
    assert np.flatnonzero(held_out_mask(labels, 2)).tolist() == [0, 1, 10, 11]


def _save(folder, count, shade):
    folder.mkdir(parents=True)
    dice = np.random.default_rng(shade)
    for number in range(count):
        image = dice.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        (folder / f"{number}.jpg").write_bytes(jpeg_from_image(image, 90))


@pytest.fixture
def animals(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        _save(tmp_path / part / "cat", count, 1)
        _save(tmp_path / part / "dog", count, 2)
    return tmp_path


def test_a_folder_of_images_is_a_data_set(animals):
    data = dataset_from_name("folder", root=animals, input_size=8)
    assert data.classes == ["cat", "dog"]
    assert data.train.labels == [0, 0, 0, 1, 1, 1]
    assert data.val.labels == [0, 0, 1, 1]
    assert (data.preprocessing.resize, data.preprocessing.crop) == (9, 8)
    expected = input_from_image(
        image_from_file(str(animals / "val" / "dog" / "1.jpg")), to_dict(data.preprocessing)
    )
    assert np.array_equal(data.val[3][0].numpy(), expected)
    assert data.train[0][0].shape == (3, 8, 8)
    assert data.image_uint8(0).shape == (20, 30, 3)


def test_the_name_of_a_data_set_finds_it_again(animals):
    data = dataset_from_name("folder", root=animals, input_size=8)
    assert data.name == f"folder:{animals}"
    assert dataset_from_name(data.name, input_size=8).val.labels == data.val.labels


def test_a_training_crop_is_not_cropped_a_second_time(animals):
    whole = dataset_from_name("folder", root=animals, input_size=8).train
    assert whole.augment is not None
    image = whole.augment(whole.source.image(0), np.random.default_rng((0, 0, 0)))
    expected = input_from_image(image, {**whole.preprocessing, "resize": 8})
    assert np.array_equal(whole[0][0].numpy(), expected)


def test_a_corrupt_image_is_named(animals):
    broken = animals / "val" / "cat" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    data = dataset_from_name("folder", root=animals, input_size=8)
    with pytest.raises(DataError, match=r"cat/0\.jpg"):
        data.val[0]


def test_an_unknown_data_set_lists_those_that_exist():
    with pytest.raises(UnknownNameError, match="digits, folder, cifar10") as caught:
        dataset_from_name("imagenet")
    assert caught.value.known == list(DATA_NAMES)


@pytest.mark.parametrize("name", ["folder", "cifar10", "cifar100", "miniimagenet"])
def test_a_data_set_of_files_needs_a_path(name):
    with pytest.raises(UsageError, match=f"{name} is read from files: add --data-root"):
        dataset_from_name(name)


def test_digits_take_no_path():
    with pytest.raises(UsageError, match="leave out its path"):
        dataset_from_name("digits", root="somewhere")


@pytest.mark.parametrize(("option", "value"), [("input_size", 4), ("seed", -1)])
def test_numbers_out_of_range_name_their_option(option, value):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}"):
        dataset_from_name("digits", **{option: value})


def test_without_augmentation_the_seed_changes_nothing(digits):
    plain = LabelledImages(digits.val.source, digits.preprocessing, None, seed=5)
    assert torch.equal(plain[0][0], digits.val[0][0])
