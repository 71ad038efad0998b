from __future__ import annotations

import numpy as np
import pytest

from bottlekit.device.exit_rules import RULES, first_sure, leaves_early
from bottlekit.errors import UsageError
from bottlekit.training.exit_curve import Answers, calibrated_threshold, exit_curve, point_at, who_answers


def some_answers(count: int = 60, classes: int = 4, seed: int = 0) -> Answers:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    signal = np.eye(classes)[labels]
    exit_logits = (signal * 2 + random.normal(size=(count, classes))).astype(np.float32)
    cloud_logits = (signal * 5 + random.normal(size=(count, classes))).astype(np.float32)
    return Answers(exit_logits, cloud_logits, labels)


@pytest.mark.parametrize("rule", RULES)
def test_every_point_is_what_its_threshold_really_does(rule: str) -> None:
    answers = some_answers()
    curve = exit_curve(answers, rule)
    assert len(curve) == 61
    for point in curve:
        again = point_at(answers, rule, point.threshold)
        assert again.early_share == point.early_share
        assert again.accuracy == pytest.approx(point.accuracy)
        for ours, theirs in (
            (point.early_accuracy, again.early_accuracy),
            (point.offloaded_accuracy, again.offloaded_accuracy),
        ):
            assert (ours is None) == (theirs is None)
            assert ours is None or ours == pytest.approx(theirs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("exits", [2, 3])
def test_with_several_exits_every_point_is_what_its_threshold_really_does(rule: str, exits: int) -> None:
    parts = [some_answers(seed=seed) for seed in range(exits)]
    labels = parts[0].labels
    # Each exit's logits belong to the same labels.
    logits = [part.exit_logits[np.argsort(part.labels, kind="stable")] for part in parts]
    labels = np.sort(labels)
    cloud = parts[0].cloud_logits[np.argsort(parts[0].labels, kind="stable")]
    answers = Answers(logits[-1], cloud, labels, tuple(logits[:-1]))
    curve = exit_curve(answers, rule)
    assert len(curve) > 61
    shares = [point.early_share for point in curve]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    for point in curve:
        again = point_at(answers, rule, point.threshold)
        assert (again.early_share, again.accuracy) == (point.early_share, pytest.approx(point.accuracy))
        assert (again.early_accuracy or 0.0) == pytest.approx(point.early_accuracy or 0.0)
        who = who_answers(answers.exits, rule, point.threshold)
        for image in range(len(labels)):
            one = [exit_[image] for exit_ in answers.exits]
            first = first_sure(one, rule, [point.threshold] * exits)
            assert who[image] == (exits if first is None else first)


@pytest.mark.parametrize("rule", RULES)
def test_the_curve_runs_from_the_clouds_accuracy_to_the_exits(rule: str) -> None:
    answers = some_answers()
    first, *_, last = exit_curve(answers, rule)
    assert (first.early_share, last.early_share) == (0.0, 1.0)
    assert first.accuracy == np.mean(answers.cloud_logits.argmax(1) == answers.labels)
    assert last.accuracy == np.mean(answers.exit_logits.argmax(1) == answers.labels)
    assert (first.early_accuracy, last.offloaded_accuracy) == (None, None)


def test_images_of_equal_doubt_leave_together() -> None:
    logits = np.array([[3.0, 0], [3, 0], [0, 3], [1, 0]], np.float32)
    curve = exit_curve(Answers(logits, logits, np.zeros(4, int)), "entropy")
    assert [point.early_share for point in curve] == [0.0, 0.75, 1.0]


@pytest.mark.parametrize("rule", RULES)
def test_complete_doubt_never_leaves(rule: str) -> None:
    logits = np.zeros((3, 4), np.float32)
    logits[0, 0] = 9
    curve = exit_curve(Answers(logits, logits, np.zeros(3, int)), rule)
    reached = [point.early_share for point in curve]
    for point in curve:
        assert leaves_early(logits, rule, point.threshold).mean() == point.early_share
    assert reached[:2] == [0.0, 1 / 3]


def test_calibration_lets_as_many_leave_as_the_accuracy_allows() -> None:
    validation = some_answers(200)
    curve = exit_curve(validation, "entropy")
    point = calibrated_threshold(validation, "entropy", 0.95)
    assert point.accuracy >= 0.95
    assert all(other.accuracy < 0.95 for other in curve if other.early_share > point.early_share)


def test_where_no_threshold_is_accurate_enough_the_best_is_taken() -> None:
    validation = some_answers(100, seed=3)
    best = max(point.accuracy for point in exit_curve(validation, "entropy"))
    assert calibrated_threshold(validation, "entropy", 1.01).accuracy == best


def test_the_threshold_depends_on_the_validation_images_alone() -> None:
    """The labels of the images that it is used on are not there when it is chosen, and change no decision."""
    validation, used = some_answers(100, seed=1), some_answers(50, seed=2)
    point = calibrated_threshold(validation, "entropy", 0.9)
    decisions = leaves_early(used.exit_logits, "entropy", point.threshold)
    wrong = Answers(used.exit_logits, used.cloud_logits, (used.labels + 1) % 4)
    assert point_at(wrong, "entropy", point.threshold).early_share == decisions.mean()
    assert point_at(used, "entropy", point.threshold).early_share == decisions.mean()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match="do not belong together"):
        Answers(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(3))
    with pytest.raises(UsageError, match="without images"):
        Answers(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
