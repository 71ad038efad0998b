"""Calibration images are training images, or somebody's folder; accuracy is measured on others."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from bottlekit.device.bundle import Bundle
from bottlekit.device.images import input_from_image
from bottlekit.errors import DataError, UsageError
from bottlekit.export.accuracy import accuracy_of
from bottlekit.export.calibration import (
    CALIBRATION_IMAGES,
    Calibration,
    calibration_from_dataset,
    calibration_from_folder,
    dataset_of_bundle,
    held_out_of_bundle,
    spread,
)


def with_manifest(bundle: Bundle, **changes: object) -> Bundle:
    """The same bundle, whose bundle.json says something else."""
    return Bundle(bundle.path, {**bundle.manifest, **changes}, bundle.sha256)


def trained_on(bundle: Bundle, data: str | None) -> Bundle:
    return with_manifest(bundle, accuracy=None, payload_bytes={**bundle.manifest["payload_bytes"], "data": data})


@pytest.mark.parametrize(
    ("count", "total", "places"), [(2, 10, [0, 5]), (3, 3, [0, 1, 2]), (5, 2, [0, 1]), (4, 10, [0, 2, 5, 7])]
)
def test_places_are_spread(count: int, total: int, places: list[int]) -> None:
    assert list(spread(count, total)) == places


def test_calibration_takes_training_images_of_every_class_and_no_held_out_one(small_bundle: Bundle) -> None:
    data = dataset_of_bundle(small_bundle, None)
    calibration = calibration_from_dataset(small_bundle, data)
    assert calibration.images.shape == (CALIBRATION_IMAGES, 3, 64, 64)
    assert calibration.source == "digits, training images"
    places = spread(CALIBRATION_IMAGES, len(data.train))
    assert {data.train.labels[place] for place in places} == set(range(10))
    first = input_from_image(data.train.source.image(places[0]), small_bundle.preprocessing)
    np.testing.assert_array_equal(calibration.images[0], first)
    held_out = held_out_of_bundle(small_bundle, data)
    ours = {image.tobytes() for image in calibration.images}
    assert not ours & {held_out.inputs(range(place, place + 1))[0].tobytes() for place in range(len(held_out))}


def test_what_was_calibrated_on_is_told_and_hashed(small_bundle: Bundle) -> None:
    data = dataset_of_bundle(small_bundle, None)
    told = [calibration_from_dataset(small_bundle, data, count).to_dict() for count in (4, 4, 5)]
    assert told[0] == told[1]
    assert (told[0]["images"], told[0]["source"]) == (4, "digits, training images")
    assert told[0]["sha256"] != told[2]["sha256"]
    one = Calibration(np.zeros((1, 3, 2, 2), np.float32), "x")
    assert dataclasses.replace(one, images=one.images + 1).to_dict()["sha256"] != one.to_dict()["sha256"]


@pytest.fixture(name="photographs_folder")
def _photographs_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(6):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 90), (40 * number, 100, 200)).save(folder / f"class{number % 2}" / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_read_as_the_network_sees_it(small_bundle: Bundle, photographs_folder: Path) -> None:
    calibration = calibration_from_folder(small_bundle, photographs_folder)
    assert calibration.images.shape == (6, 3, 64, 64)
    assert calibration.source == "folder photos"
    reds = np.rint((calibration.images[:, 0, 0, 0] * 0.229 + 0.485) * 255)
    assert list(reds) == [0, 80, 160, 40, 120, 200]
    assert len(calibration_from_folder(small_bundle, photographs_folder, count=2).images) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "does not exist; --calibration takes a folder"),
        (lambda folder: folder.write_text("x"), "is a file; --calibration takes a folder"),
        (lambda folder: folder.mkdir(), "holds no images; --calibration takes"),
        (lambda folder: (folder.mkdir(), (folder / "a.png").write_bytes(b"\x89PNG damaged")), "a.png"),
    ],
)
def test_a_folder_without_images_is_refused(
    small_bundle: Bundle, tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "images")
    with pytest.raises(DataError, match=words):
        calibration_from_folder(small_bundle, tmp_path / "images")


@pytest.mark.parametrize("data", ["random", None, "none", "somebody's"])
def test_a_bundle_without_a_data_set_says_so(small_bundle: Bundle, data: str | None) -> None:
    with pytest.raises(UsageError, match="resnet18-rb1 was exported without a data set"):
        dataset_of_bundle(trained_on(small_bundle, data), None)


def test_a_data_set_of_files_needs_its_place(small_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data-root PATH"):
        dataset_of_bundle(trained_on(small_bundle, "folder"), None)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (70, 70)).save(tmp_path / part / name / "1.png")
    with pytest.raises(DataError, match=r"has the classes cat, dog, and the network 0, 1, 2, \.\.\. \(10\)"):
        dataset_of_bundle(trained_on(small_bundle, "folder"), tmp_path)
    two = with_manifest(
        trained_on(small_bundle, "folder"),
        classes=["cat", "dog"],
        output={"name": "logits", "shape": [1, 2]},
        model={**small_bundle.manifest["model"], "num_classes": 2},
    )
    assert len(calibration_from_dataset(two, dataset_of_bundle(two, tmp_path)).images) == 2


def test_without_torch_it_says_what_is_missing(small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torch" or "training.data" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "bottlekit.export.held_out", raising=False)
    with pytest.raises(UsageError, match="needs the Python package 'torch', which is not installed"):
        dataset_of_bundle(small_bundle, None)


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_accuracy_is_measured_with_one_part_lowered(small_bundle: Bundle, part: str) -> None:
    images = held_out_of_bundle(small_bundle, dataset_of_bundle(small_bundle, None), 20)
    model = onnx.load(small_bundle.onnx_path(part))
    same = accuracy_of(small_bundle, part, model, "int8", images)
    assert (same["measured"], same["data"], same["images"]) == (True, "digits", 20)
    assert same["fp32"] == same["int8"]


def test_accuracy_of_a_network_that_knows_one_class(small_bundle: Bundle) -> None:
    images = held_out_of_bundle(small_bundle, dataset_of_bundle(small_bundle, None), 30)
    model = onnx.load(small_bundle.onnx_path("baseline"))
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[2])
    values = np.zeros(10, np.float32)
    values[7] = 1e6
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    told = accuracy_of(small_bundle, "baseline", model, "int8", images)
    assert told["int8"] == images.labels.count(7) / 30
