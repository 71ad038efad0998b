"""The gate itself: what it lets through, and what it stops."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.codecs import Codec, codec_from_spec
from bottlekit.errors import EquivalenceError
from bottlekit.export.equivalence import (
    ABSOLUTE,
    RELATIVE,
    Comparison,
    Network,
    codes_of,
    compare_codes,
    compare_logits,
    compare_network,
    compare_values,
    expected_from_network,
    require,
)

Array = npt.NDArray[np.float32]
SHAPE = (2, 8, 8)


def head(images: Array) -> Array:
    return np.maximum(images[:, :2, ::2, ::2], 0)


def tail(feature: Array) -> Array:
    return np.stack([feature.mean(axis=(1, 2, 3)), feature[:, 0].max(axis=(1, 2)), -feature[:, 1, 0, 0]], axis=1)


def baseline(images: Array) -> Array:
    return images.mean(axis=(2, 3))


def make_codec(name: str = "jpeg") -> Codec:
    return codec_from_spec({"name": name, "bits": 8, "quality": 20}, SHAPE)


def make_network(codec: Codec) -> Network:
    def split(images: Array) -> Array:
        return tail(np.stack([codec.decode(codec.encode(feature)) for feature in head(images)]))

    return Network(head, tail, full=lambda images: tail(head(images)), split=split, baseline=baseline)


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)


def failures(reference: Network, candidate: Network, codec: Codec, images: Array) -> list[str]:
    comparisons = compare_network(expected_from_network(reference, codec, images), candidate, codec, batch=1)
    return [comparison.what for comparison in comparisons if not comparison.passed]


@pytest.mark.parametrize("name", ["jpeg", "png", "raw"])
def test_a_network_equals_itself(name: str, images: Array) -> None:
    codec = make_codec(name)
    network = make_network(codec)
    comparisons = compare_network(expected_from_network(network, codec, images), network, codec, batch=4)
    require(comparisons)
    assert [comparison.what for comparison in comparisons] == [
        "head.onnx feature",
        "head.onnx codes",
        "the network with its codec = its tail(codec(head))",
        "tail.onnx logits",
        "tail.onnx(head.onnx) logits",
        "full.onnx logits",
        "tail.onnx(codec(head.onnx)) logits",
        "baseline.onnx logits",
    ]
    assert all(comparison.max_abs == 0 and comparison.samples == 4 for comparison in comparisons)


def test_without_a_baseline_none_is_compared(images: Array) -> None:
    codec = make_codec()
    network = dataclasses.replace(make_network(codec), baseline=None)
    comparisons = compare_network(expected_from_network(network, codec, images), network, codec, batch=1)
    assert len(comparisons) == 7


def off_by(function: Callable[[Array], Array], amount: float) -> Callable[[Array], Array]:
    return lambda samples: function(samples) + np.float32(amount)


@pytest.mark.parametrize(
    ("part", "stopped"),
    [
        ("tail", ["tail.onnx logits", "tail.onnx(head.onnx) logits", "tail.onnx(codec(head.onnx)) logits"]),
        ("full", ["full.onnx logits"]),
        ("baseline", ["baseline.onnx logits"]),
    ],
)
def test_a_part_that_is_off_is_named(part: str, stopped: list[str], images: Array) -> None:
    codec = make_codec()
    network = make_network(codec)
    wrong = dataclasses.replace(network, **{part: off_by(getattr(network, part), 0.01)})
    assert failures(network, wrong, codec, images) == stopped


def test_a_head_that_is_off_is_named(images: Array) -> None:
    codec = make_codec()
    network = make_network(codec)
    wrong = dataclasses.replace(network, head=lambda samples: head(samples) ** np.float32(1.05))
    stopped = failures(network, wrong, codec, images)
    assert stopped[:1] == ["head.onnx feature"]
    assert "head.onnx codes" in stopped


def test_a_shifted_head_has_the_right_codes_and_is_still_stopped(images: Array) -> None:
    codec = make_codec()
    network = make_network(codec)
    wrong = dataclasses.replace(network, head=off_by(head, 0.01))
    stopped = failures(network, wrong, codec, images)
    assert "head.onnx feature" in stopped
    assert "head.onnx codes" not in stopped


def test_a_reference_whose_codec_is_another_is_stopped(images: Array) -> None:
    codec = make_codec("jpeg")
    network = make_network(make_codec("raw"))
    assert failures(network, network, codec, images) == [
        "the network with its codec = its tail(codec(head))",
        "tail.onnx(codec(head.onnx)) logits",
    ]


def test_one_code_that_rounds_the_other_way_passes_and_is_counted() -> None:
    codec = make_codec("jpeg")
    network = make_network(codec)
    images = np.zeros((1, 3, 16, 16), np.float32)
    images[0, 0, 0, 0] = 255  # the range: codes are values
    images[0, 0, 8:, 8:] = 99
    images[0, 1, 0, 0] = 100.4999

    def nudged_head(samples: Array) -> Array:
        feature = head(samples)
        feature[np.isclose(feature, 100.4999)] = 100.5001
        return feature

    nudged = dataclasses.replace(network, head=nudged_head)
    comparisons = compare_network(expected_from_network(network, codec, images), nudged, codec, batch=1)
    require(comparisons)
    codes = next(comparison for comparison in comparisons if comparison.what == "head.onnx codes")
    assert codes.max_abs == 1
    assert codes.codes_differing == pytest.approx(1 / 128)


def test_values_are_judged_by_the_size_of_the_tensor() -> None:
    reference = np.array([[0.0, 100.0]], np.float32)
    assert compare_values("x", reference, reference + np.float32(0.009), 1).passed
    assert not compare_values("x", reference, reference + np.float32(0.011), 1).passed
    assert not compare_values("x", reference / 100, reference / 100 + np.float32(0.009), 1).passed


def test_a_tensor_of_zeros_has_a_tolerance() -> None:
    zeros = np.zeros((1, 2), np.float32)
    assert compare_values("x", zeros, zeros + np.float32(ABSOLUTE / 2), 1).passed
    assert not compare_values("x", zeros, zeros + np.float32(ABSOLUTE * 2), 1).passed


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    st.floats(-1, 1, width=32),
)
def test_exactly_the_differences_within_tolerance_pass(values: list[float], error: float) -> None:
    reference = np.array([values], np.float32)
    candidate = reference + np.float32(error)
    comparison = compare_values("x", reference, candidate, 1)
    assert comparison.tolerance == pytest.approx(ABSOLUTE + RELATIVE * max(abs(value) for value in values))
    assert comparison.passed == (float(np.abs(reference - candidate).max()) <= comparison.tolerance)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_stopped(bad: float) -> None:
    good, broken = np.ones((1, 2), np.float32), np.array([[1, bad]], np.float32)
    with pytest.raises(EquivalenceError, match=r"head.*NaN or infinite values where the network has none"):
        compare_values("head", good, broken, 1)
    with pytest.raises(EquivalenceError, match=r"head.*the network itself"):
        compare_values("head", broken, broken, 1)


def test_another_shape_is_stopped() -> None:
    with pytest.raises(EquivalenceError, match=r"head: has shape \(1, 3\), and \(1, 2\) was expected"):
        compare_values("head", np.ones((1, 2), np.float32), np.ones((1, 3), np.float32), 1)


def test_codes_may_differ_by_one_step_and_rarely() -> None:
    codes = np.full((1, 1, 10, 100), 7, np.uint8)
    ten, eleven, two_steps = codes.copy(), codes.copy(), codes.copy()
    ten[0, 0, :, 0] = 8
    eleven[0, 0, :, 0] = 6
    eleven[0, 0, 0, 1] = 6
    two_steps[0, 0, 0, 0] = 9
    assert compare_codes("codes", codes, ten, 1).passed
    assert not compare_codes("codes", codes, eleven, 1).passed
    assert not compare_codes("codes", codes, two_steps, 1).passed


def test_one_of_few_codes_may_differ_but_not_two() -> None:
    codes = np.zeros((1, 1, 2, 2), np.uint8)
    one, two = codes.copy(), codes.copy()
    one[0, 0, 0, 0] = 1
    two[0, 0, 0, :] = 1
    assert compare_codes("codes", codes, one, 1).passed
    assert not compare_codes("codes", codes, two, 1).passed


def test_codes_do_not_wrap_around() -> None:
    low, high = np.zeros((1, 1, 1, 1), np.uint8), np.full((1, 1, 1, 1), 255, np.uint8)
    assert compare_codes("codes", low, high, 1).max_abs == 255
    assert not compare_codes("codes", low, high, 1).passed


def test_every_feature_has_its_own_range() -> None:
    feature = np.array([0, 1, 2], np.float32).reshape(1, 1, 1, 3)
    codes = codes_of(np.concatenate([feature, 100 * feature]), bits=8)
    np.testing.assert_array_equal(codes[0], codes[1])
    np.testing.assert_array_equal(codes[0, 0, 0], [0, 128, 255])


def test_first_classes_are_counted() -> None:
    reference = np.array([[1, 0], [0, 1], [0.5, 0.500001], [1, 0]], np.float32)
    candidate = np.array([[1, 0], [0, 1], [0.500001, 0.5], [1, 0]], np.float32)
    comparison = compare_logits("logits", reference, candidate, 1)
    assert comparison.passed
    assert comparison.top1_agreement == 0.75


def test_the_error_names_all_that_differs_and_by_how_much() -> None:
    good = Comparison("tail.onnx logits", 10, 1, 1e-6, 1e-7, 1e-4, passed=True)
    feature = Comparison("head.onnx feature", 10, 1, 0.5, 0.1, 1e-4, passed=False)
    codes = Comparison("head.onnx codes", 10, 10, 3.0, 0.1, 1.0, passed=False, codes_differing=0.25)
    require([good])
    with pytest.raises(EquivalenceError) as caught:
        require([good, feature, codes])
    message = str(caught.value)
    assert "head.onnx feature: differs by up to 0.5 (tolerance 0.0001) over 10 samples in batches of 1" in message
    assert "head.onnx codes: differs by up to 3 (tolerance 1, 25.00% of the codes differ)" in message
    assert "tail.onnx" not in message
    assert "\n" not in message


def test_comparisons_are_json_without_the_fields_that_do_not_apply() -> None:
    values = Comparison("head.onnx feature", 10, 1, 0.5, 0.1, 1e-4, passed=True).to_dict()
    assert json.loads(json.dumps(values)) == {
        "what": "head.onnx feature",
        "samples": 10,
        "batch": 1,
        "max_abs": 0.5,
        "mean_abs": 0.1,
        "tolerance": 1e-4,
        "passed": True,
    }
