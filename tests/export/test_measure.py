"""What is measured on held-out images, with networks simple enough to count by hand."""

from typing import Any

import numpy as np
import pytest

from bottlekit.device.codecs import codec_from_spec
from bottlekit.export.equivalence import Network
from bottlekit.export.held_out import HeldOut
from bottlekit.export.measure import INPUT_JPEG_QUALITY, measure, measure_on_random, size_statistics
from bottlekit.export.sessions import Array
from bottlekit.specs import Preprocessing

CODEC = codec_from_spec({"name": "raw", "bits": 8, "quality": 20}, (1, 2, 2))


def is_bright(samples: Array) -> Array:
    """Logits (n, 2): class 1 if the samples are above 0 on average."""
    mean = samples.mean(axis=(1, 2, 3))
    return np.stack([-mean, mean], axis=1)


def half_bright(samples: Array) -> Array:
    """The same with a threshold that only white passes."""
    return is_bright(samples - 2)


@pytest.fixture
def images() -> HeldOut:
    """20 gray images, dark to white; the right class of the last ten is 1."""
    pixels = [np.full((8, 8, 3), 13 * level, np.uint8) for level in range(20)]
    labels = [0] * 10 + [1] * 10
    half = (0.5, 0.5, 0.5)
    return HeldOut("grays", labels, pixels.__getitem__, Preprocessing(8, 8, mean=half, std=half))


def network(baseline: Any) -> Network:
    return Network(lambda x: x[:, :1, ::4, ::4], half_bright, is_bright, is_bright, baseline)


def no_progress(_done: int, _total: int) -> None:
    """Nobody watches."""


def test_right_answers_are_counted(images: HeldOut) -> None:
    measured = measure(network(is_bright), CODEC, images, trained=True, progress=no_progress)
    # half_bright sees no gray as bright: the ten dark ones are right.
    assert measured["accuracy"] == {
        "data": "grays", "images": 20, "baseline": 1.0, "split": 0.5, "measured_on": "onnx",
    }  # fmt: skip
    assert measured["payload_bytes"] == {
        "mean": 12.0, "p50": 12, "p99": 12, "max": 12, "images": 20, "data": "grays",
    }  # fmt: skip
    assert measured["input_jpeg_bytes"]["accuracy"] == 1.0
    assert measured["input_jpeg_bytes"]["quality"] == INPUT_JPEG_QUALITY
    assert measured["input_jpeg_bytes"]["mean"] > 100


def test_without_a_baseline_its_accuracy_is_unknown(images: HeldOut) -> None:
    measured = measure(network(None), CODEC, images, trained=True, progress=no_progress)
    assert measured["accuracy"]["split"] == 0.5
    assert measured["accuracy"]["baseline"] is None
    assert measured["input_jpeg_bytes"]["accuracy"] is None


def test_an_untrained_bottleneck_has_no_accuracy_and_is_not_run_for_it(images: HeldOut) -> None:
    def never(_samples: Array) -> Array:
        raise AssertionError("the tail was run")

    untrained = Network(lambda x: x[:, :1, ::4, ::4], never, never, never, never)
    measured = measure(untrained, CODEC, images, trained=False, progress=no_progress)
    assert measured["accuracy"] is None
    assert measured["input_jpeg_bytes"]["accuracy"] is None
    assert measured["payload_bytes"]["images"] == 20


def test_progress_ends_with_all_images(images: HeldOut) -> None:
    seen: list[tuple[int, int]] = []
    measure(network(None), CODEC, images, True, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 20), (20, 20)]


def test_random_inputs_give_payload_sizes_only() -> None:
    feature = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)
    measured = measure_on_random(feature, CODEC, {"split": 0.8})
    assert measured["payload_bytes"]["data"] == "random"
    assert measured["payload_bytes"]["images"] == 3
    assert measured["accuracy"] == {"split": 0.8}
    assert measured["input_jpeg_bytes"] is None


def test_percentiles_are_sizes_that_occurred() -> None:
    statistics = size_statistics([300, *range(1, 200)], "x")
    assert statistics == {"mean": 101.0, "p50": 100, "p99": 198, "max": 300, "images": 200, "data": "x"}
    one = size_statistics([7], "x")
    assert (one["p50"], one["p99"], one["max"]) == (7, 7, 7)
    two = size_statistics([9, 7], "x")
    assert (two["p50"], two["p99"], two["max"]) == (7, 9, 9)
