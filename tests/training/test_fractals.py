"""Fractals: the same pixels everywhere, classes that differ, and a cache that is whole or empty."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottlekit.errors import UsageError
from bottlekit.training import fractals as room
from bottlekit.training.data import dataset_from_name, name_to_show
from bottlekit.training.fractals import Fractals, cache_path, fractals, fractals_from_text
from bottlekit.training.ifs import images_of_class, system_of_class


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_seed_gives_these_pixels_on_every_machine() -> None:
    images = images_of_class(3, 5, system_of_class(3, 5), 0, 4, 48)
    assert images.shape == (4, 48, 48)
    assert images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "ca4aae28dd3f8513"


def test_an_image_depends_on_its_seed_class_number_and_size_alone() -> None:
    system = system_of_class(0, 1)
    some = images_of_class(0, 1, system, 0, 5, 32)
    assert np.array_equal(images_of_class(0, 1, system, 3, 2, 32), some[3:])
    assert len({image.tobytes() for image in some}) == 5
    assert not np.array_equal(system_of_class(1, 1)[:2], system[:2])
    few, many = (dataset_from_name(f"fractals:{size}", input_size=16) for size in ("2x20", "3x27"))
    assert few.classes == many.classes[:2]
    for part in ("train", "val"):
        left, right = getattr(few, part).source, getattr(many, part).source
        known = {(label, right.image(at).tobytes()) for at, label in enumerate(right.labels)}
        assert {(label, left.image(at).tobytes()) for at, label in enumerate(left.labels)} <= known


def test_every_attractor_fills_its_image_without_covering_it() -> None:
    for number in range(12):
        system = system_of_class(7, number)
        assert 2 <= len(system) <= 8
        for image in images_of_class(7, number, system, 0, 3, 64):
            assert 0.02 < (image > 0).mean() < 0.9
            rows, columns = np.nonzero(image)
            assert np.ptp(rows) > 50
            assert np.ptp(columns) > 50


def test_classes_can_be_told_apart() -> None:
    data = dataset_from_name("fractals:10x60", input_size=32)
    # What a flip leaves alone: how bright the image is, and its mean with its mirror images.
    train, val = (np.stack([symmetric(part.source.image(k)) for k in range(len(part))]) for part in parts(data))
    labels = np.array(data.train.labels)
    centroids = np.stack([train[labels == label].mean(0) for label in range(10)])
    nearest = np.square(val[:, None] - centroids).sum((2, 3)).argmin(1)
    assert float((nearest == np.array(data.val.labels)).mean()) > 0.6


def parts(data: Any) -> tuple[Any, Any]:
    return data.train, data.val


def symmetric(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    gray = image[..., 0].astype(float)
    total: np.ndarray[Any, Any] = gray + gray[::-1] + gray[:, ::-1] + gray[::-1, ::-1]
    return total


def test_fractals_are_a_data_set_like_the_others() -> None:
    data = dataset_from_name("fractals:4x20:3", input_size=24, quiet=True)
    assert data.name == "fractals:4x20:3"
    assert data.classes == ["ifs-3-0000", "ifs-3-0001", "ifs-3-0002", "ifs-3-0003"]
    assert (len(data.train), len(data.val)) == (4 * 17, 4 * 3)
    assert data.val.labels == sorted(data.val.labels)
    assert data.image_uint8(0).shape == (24, 24, 3)
    assert data.train[0][0].shape == (3, 24, 24)
    again = dataset_from_name("fractals", root="4x20:3", input_size=24, seed=9)
    assert np.array_equal(again.image_uint8(5), data.image_uint8(5))


def test_fractals_are_drawn_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = fractals(Fractals(2, 10), 16)[0].image(3)
    assert "drawing 20 fractals of 16 x 16 pixels" in capsys.readouterr().err
    monkeypatch.setattr(room, "images_of_class", None)
    assert np.array_equal(fractals(Fractals(2, 10), 16)[0].image(3), first)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError):
        fractals(Fractals(2, 11), 16)


@pytest.mark.parametrize("damage", ["cut", "other shape", "no array"])
def test_a_damaged_cache_is_drawn_anew(damage: str) -> None:
    path = cache_path(Fractals(2, 10), 16)
    image = fractals(Fractals(2, 10), 16, quiet=True)[1].image(1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "other shape":
        np.save(path, np.zeros((20, 16, 15), np.uint8))
    else:
        path.write_bytes(b"")
    assert np.array_equal(fractals(Fractals(2, 10), 16, quiet=True)[1].image(1), image)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_drawing_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], tmp_path: Path
) -> None:
    def interrupted(seed: int, number: int, *rest: Any) -> Any:
        if number == 2:
            raise error
        return images_of_class(seed, number, *rest)

    monkeypatch.setattr(room, "images_of_class", interrupted)
    with pytest.raises(error):
        fractals(Fractals(4, 10), 16, quiet=True)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        fractals(Fractals(2, 10), 16, quiet=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("20", "fractals take CLASSESxIMAGES or CLASSESxIMAGES:SEED, 100x600:0 say, not '20'"),
        ("somewhere/else", "CLASSESxIMAGES"),
        ("20x20:-1", "CLASSESxIMAGES"),
        ("1x20", "fractals have 2 to 10000 classes, not 1"),
        ("20000x20", "fractals have 2 to 10000 classes, not 20000"),
        ("20x6", "fractals have at least 7 images a class, so that one is held out, not 6"),
    ],
)
def test_what_no_fractals_are_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fractals_from_text(text)


def test_a_bundle_names_its_fractals_wholly_and_no_folder() -> None:
    assert name_to_show("fractals:4x20:3") == "fractals:4x20:3"
    assert name_to_show("folder:/home/me/photos") == "folder"
    assert name_to_show("digits") == "digits"


def test_fractals_are_twenty_times_two_hundred_unless_said_otherwise() -> None:
    assert str(fractals_from_text("")) == "20x200:0"
    assert str(fractals_from_text("100x600")) == "100x600:0"
