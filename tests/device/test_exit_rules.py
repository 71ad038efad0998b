import inspect
import math

import numpy as np
import pytest

from bottlekit.device import exit_rules
from bottlekit.device.errors import UnknownNameError, UsageError
from bottlekit.device.exit_rules import (
    RULES,
    checked_threshold,
    doubt,
    entropy,
    first_sure,
    leaves_early,
    probabilities,
    threshold_range,
)


def test_probabilities_are_the_softmax() -> None:
    logits = np.array([[0.0, math.log(3.0)], [1000.0, 0.0]], dtype=np.float32)
    assert np.allclose(probabilities(logits), [[0.25, 0.75], [1.0, 0.0]], atol=1e-7)


def test_entropy_is_in_nats() -> None:
    assert entropy(np.zeros((2, 10), np.float32)) == pytest.approx([math.log(10)] * 2)
    assert entropy(np.array([1000.0, 0.0, 0.0])) == 0.0
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy(np.array([0.0, math.log(3.0)])) == pytest.approx(expected)


def test_the_sure_leave_and_the_unsure_stay() -> None:
    logits = np.array([[8.0, 0.0, 0.0], [0.1, 0.0, 0.0]], np.float32)
    assert leaves_early(logits, "entropy", 0.5).tolist() == [True, False]
    assert leaves_early(logits, "max-probability", 0.9).tolist() == [True, False]


@pytest.mark.parametrize("rule", RULES)
def test_at_the_ends_nobody_or_everybody_leaves(rule: str) -> None:
    logits = np.random.RandomState(0).normal(size=(50, 10)).astype(np.float32)
    low, high = threshold_range(rule, 10)
    nobody, everybody = (low, high) if rule == "entropy" else (high, low)
    assert not leaves_early(logits, rule, nobody).any()
    assert leaves_early(logits, rule, everybody).all()
    certain = np.array([[1e6, 0.0]], np.float32)
    assert not leaves_early(certain, rule, 0.0 if rule == "entropy" else 1.0).any()


@pytest.mark.parametrize(("rule", "threshold"), [("entropy", 0.3), ("max-probability", 0.9)])
def test_the_first_sure_exit_answers(rule: str, threshold: float) -> None:
    sure, unsure = np.array([8.0, 0.0, 0.0]), np.array([0.1, 0.0, 0.0])
    assert first_sure([sure, sure], rule, [threshold] * 2) == 0
    assert first_sure([unsure, sure], rule, [threshold] * 2) == 1
    assert first_sure([unsure, unsure], rule, [threshold] * 2) is None
    nobody = 0.0 if rule == "entropy" else 1.0
    assert first_sure([sure, sure], rule, [nobody, threshold]) == 1


@pytest.mark.parametrize("rule", RULES)
def test_more_images_leave_as_the_threshold_gives_way(rule: str) -> None:
    logits = np.random.RandomState(1).normal(scale=3, size=(200, 5))
    low, high = threshold_range(rule, 5)
    thresholds = np.linspace(low, high, 9)
    shares = [leaves_early(logits, rule, threshold).mean() for threshold in thresholds]
    assert shares == sorted(shares, reverse=rule == "max-probability")
    assert len(set(shares)) > 3


@pytest.mark.parametrize("rule", RULES)
def test_labels_cannot_influence_the_decision(rule: str) -> None:
    """Nothing that decides takes a label; and renaming the classes, labels with them, changes no decision."""
    allowed = {"logits", "exits", "rule", "threshold", "thresholds", "limit", "classes"}
    for name, function in inspect.getmembers(exit_rules, inspect.isfunction):
        if function.__module__ == exit_rules.__name__:
            parameters = set(inspect.signature(function).parameters)
            assert parameters <= allowed, name
    generator = np.random.RandomState(2)
    logits = generator.normal(scale=2, size=(300, 7))
    threshold = 1.0 if rule == "entropy" else 0.6
    decisions = leaves_early(logits, rule, threshold)
    assert 0 < decisions.sum() < 300
    for _ in range(5):
        assert (leaves_early(logits[:, generator.permutation(7)], rule, threshold) == decisions).all()


@pytest.mark.parametrize(("rule", "threshold"), [("entropy", -0.1), ("entropy", 2.31), ("max-probability", 1.01)])
@pytest.mark.parametrize("shift", [0.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(rule: str, threshold: float, shift: float) -> None:
    with pytest.raises(UsageError, match="--exit-threshold must be 0 to .* for the rule {}".format(rule)):
        checked_threshold(rule, threshold + shift, 10)


def test_a_rounded_end_of_the_range_is_taken() -> None:
    assert checked_threshold("entropy", 2.3026, 10) == 2.3026


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="exit rule 'loss' does not exist; there are: entropy, max-prob"):
        doubt(np.zeros((1, 3)), "loss")


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="NaN or infinity"):
        entropy(np.array([0.0, np.nan]))
