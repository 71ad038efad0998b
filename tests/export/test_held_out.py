"""Held-out images: the right ones, as the network and as cloud-only's link see them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bottlekit.device.images import input_from_image, jpeg_from_image
from bottlekit.errors import DataError, UsageError
from bottlekit.export.held_out import HeldOut, held_out_from_checkpoint
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import Checkpoint
from bottlekit.specs import ModelSpec, Preprocessing, to_dict
from bottlekit.training.data import dataset_from_name

DIGITS = tuple("0123456789")


def checkpoint_for(data: str, classes: tuple[str, ...] = DIGITS) -> Checkpoint:
    model = ModelSpec("mobilenet_v3_small", len(classes), 32)
    network = backbone_from_name(model.backbone, len(classes))
    return Checkpoint.from_network(network, model, classes, Preprocessing(resize=32, crop=32), data, {})


def silent(_note: str) -> None:
    pytest.fail("nothing was to be said")


@pytest.fixture(scope="module")
def photograph() -> Any:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def two(photograph: Any) -> HeldOut:
    """The same photograph upright and upside down."""
    images = [photograph, photograph[::-1].copy()]
    return HeldOut("mine", [0, 1], images.__getitem__, Preprocessing(resize=32, crop=24))


def test_digits_are_all_there() -> None:
    held_out = held_out_from_checkpoint(checkpoint_for("digits"), None, None, silent)
    assert held_out is not None
    assert held_out.name == "digits"
    assert len(held_out) == 360
    expected = dataset_from_name("digits", input_size=32).val
    assert held_out.labels == expected.labels
    np.testing.assert_array_equal(held_out.inputs(range(7, 8))[0], expected[7][0].numpy())


def test_a_limit_takes_images_of_every_class() -> None:
    held_out = held_out_from_checkpoint(checkpoint_for("digits"), None, 40, silent)
    assert held_out is not None
    assert len(held_out) == 40
    assert set(held_out.labels) == set(range(10))
    expected = dataset_from_name("digits", input_size=32)
    places = expected.val_indices(40)
    np.testing.assert_array_equal(held_out.inputs(range(39, 40))[0], expected.val[places[39]][0].numpy())


def image_folder(root: Path) -> Path:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(2):
                colour = (number * 100, 50 if name == "cat" else 200, 30)
                Image.new("RGB", (50, 40), colour).save(root / part / name / f"{number}.png")
    return root


def test_a_folder_is_named_without_its_place(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    held_out = held_out_from_checkpoint(checkpoint_for(f"folder:{folder}", ("cat", "dog")), None, None, silent)
    assert held_out is not None
    assert held_out.name == "folder"
    assert held_out.labels == [0, 0, 1, 1]
    assert held_out.inputs(range(4)).shape == (4, 3, 32, 32)


def test_a_folder_that_moved_is_found_with_data_root(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    checkpoint = checkpoint_for("folder:/where/it/was", ("cat", "dog"))
    notes: list[str] = []
    assert held_out_from_checkpoint(checkpoint, None, None, notes.append) is None
    assert len(notes) == 1
    assert "random inputs are used" in notes[0]
    found = held_out_from_checkpoint(checkpoint, folder, None, silent)
    assert found is not None
    assert len(found) == 4


def test_a_data_root_that_is_wrong_is_an_error_and_no_note(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        held_out_from_checkpoint(checkpoint_for("folder:/was", ("cat", "dog")), tmp_path / "nix", None, silent)
    with pytest.raises(UsageError, match="digits"):
        held_out_from_checkpoint(checkpoint_for("digits"), tmp_path, None, silent)


@pytest.mark.parametrize("data", ["", "somebody's data"])
def test_an_unknown_data_set_is_told(data: str) -> None:
    notes: list[str] = []
    assert held_out_from_checkpoint(checkpoint_for(data), None, None, notes.append) is None
    assert len(notes) == 1


def test_other_classes_are_refused() -> None:
    other = checkpoint_for("digits", ("zero", "one", "two", "three"))
    with pytest.raises(
        DataError, match=r"classes 0, 1, 2, \.\.\. \(10\).*zero, one, two, \.\.\. \(4\).*--data-root"
    ):
        held_out_from_checkpoint(other, None, None, silent)


def test_batches_cover_every_image_once(two: HeldOut) -> None:
    five = dataclasses.replace(two, labels=[0] * 5)
    assert list(five.batches(2)) == [range(2), range(2, 4), range(4, 5)]


def test_the_jpeg_is_that_of_the_image_the_network_sees(two: HeldOut, photograph: Any) -> None:
    preprocessing = to_dict(two.preprocessing)
    network_input = two.inputs(range(1))[0]
    plain = {"resize": 32, "crop": 24, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    seen = np.rint(input_from_image(photograph, plain) * 255).astype(np.uint8).transpose(1, 2, 0)
    size_bytes, decoded = two.jpeg(network_input, quality=90)
    assert size_bytes == len(jpeg_from_image(np.ascontiguousarray(seen), 90))
    assert decoded.shape == network_input.shape
    assert preprocessing["mean"] != plain["mean"]
    error_90 = np.abs(decoded - network_input).mean()
    error_10 = np.abs(two.jpeg(network_input, quality=10)[1] - network_input).mean()
    assert 0 < error_90 < error_10


def test_a_smooth_image_survives_its_jpeg() -> None:
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[np.newaxis, :, np.newaxis], 24, axis=0).repeat(3, axis=2)
    held_out = HeldOut("mine", [0], lambda _index: ramp, Preprocessing(resize=24, crop=24))
    network_input = held_out.inputs(range(1))[0]
    _, decoded = held_out.jpeg(network_input, quality=100)
    # Two codes of 255, divided by the standard deviation.
    assert np.abs(decoded - network_input).max() < 2.1 / 255 / 0.224
