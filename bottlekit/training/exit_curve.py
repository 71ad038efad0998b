"""Accuracy against the share that leaves early, for every threshold from one pass over the images.

    the images in order of the exit's doubt     surest                          least sure
                                                |--- leave: exit's answer ---|--- cloud's answer ---|
                                                                          threshold

Moving the threshold over one doubt changes one answer at most, so running sums give all points. With several exits
the doubts of all of them are in one row, and an image whose doubt at an exit is passed is that exit's from then on,
unless an earlier one has it. The labels only count who was right; the order comes from the exits' logits alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlekit.device.exit_rules import doubt, doubt_limit, leaves_early, threshold_of_doubt, threshold_range
from bottlekit.errors import UsageError

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a pass over labelled images gave: logits (n, classes) of the exit and of the cloud, labels (n,).

    With several exits, `exit_logits` are the last one's and `earlier` those of the others, in their order.
    """

    exit_logits: Array
    cloud_logits: Array
    labels: Array
    earlier: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together (UsageError)."""
        shapes = {logits.shape for logits in (*self.exits, self.cloud_logits)}
        if len(shapes) > 1 or len(self.labels) != len(self.exit_logits):
            raise UsageError(
                f"exit logits {self.exit_logits.shape}, cloud logits {self.cloud_logits.shape} and "
                f"{len(self.labels)} labels do not belong together"
            )
        if not len(self.labels):
            raise UsageError("without images there is no threshold to choose")

    @property
    def exits(self) -> tuple[Array, ...]:
        """The logits of every exit, in the order of execution."""
        return (*self.earlier, self.exit_logits)

    def right(self) -> Array:
        """Whether each exit, and the cloud last, is right about each image: bool (exits + 1, n)."""
        found: Array = np.stack([logits.argmax(1) == self.labels for logits in (*self.exits, self.cloud_logits)])
        return found


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """One threshold: the share that leaves early, the accuracy over all, and both groups' (None: nobody in it)."""

    threshold: float
    early_share: float
    accuracy: float
    early_accuracy: float | None
    offloaded_accuracy: float | None


def exit_curve(answers: Answers, rule: str) -> list[CurvePoint]:
    """All points that any threshold of `rule` reaches, from nobody leaving to everybody the rule can let go.

    A point's threshold lies half way between the doubts of the images on its two sides; images of equal doubt
    leave together. Raises UnknownNameError for the rule.
    """
    doubts = np.stack([doubt(logits, rule) for logits in answers.exits])
    order = np.argsort(doubts, axis=None, kind="stable")
    ordered = doubts.ravel()[order]
    right = answers.right()
    exits, count = doubts.shape
    # Who answers each image, the cloud at first; and how many are right among those that left and among the others.
    who = np.full(count, exits)
    early, early_right, late_right = 0, 0, int(right[exits].sum())
    points = [_point(rule, answers, ordered, 0, early, early_right, late_right)]
    changed = False
    for place, (exit_, image) in enumerate(zip(*np.unravel_index(order, doubts.shape), strict=True), 1):
        if exit_ < who[image]:
            if who[image] == exits:
                early, late_right = early + 1, late_right - int(right[exits, image])
            else:
                early_right -= int(right[who[image], image])
            early_right += int(right[exit_, image])
            who[image], changed = exit_, True
        if not changed or (place < len(ordered) and ordered[place - 1] == ordered[place]):
            continue
        point = _point(rule, answers, ordered, place, early, early_right, late_right)
        if ordered[place - 1] < doubt_limit(rule, point.threshold):  # complete doubt: no threshold lets these go
            points.append(point)
        changed = False
    return points


def point_at(answers: Answers, rule: str, threshold: float) -> CurvePoint:
    """The point of one threshold on these images."""
    who = who_answers(answers.exits, rule, threshold)
    early = who < len(answers.exits)
    right = answers.right()[who, np.arange(len(who))]
    return CurvePoint(
        threshold=threshold,
        early_share=float(early.mean()),
        accuracy=float(right.mean()),
        early_accuracy=float(right[early].mean()) if early.any() else None,
        offloaded_accuracy=float(right[~early].mean()) if not early.all() else None,
    )


def who_answers(exits: Sequence[Array], rule: str, threshold: float) -> Array:
    """For each image the first exit that is sure of it, or len(exits) for the cloud: whole numbers (n,)."""
    leaving = np.stack([leaves_early(logits, rule, threshold) for logits in exits])
    found: Array = np.where(leaving.any(axis=0), leaving.argmax(axis=0), len(leaving))
    return found


def calibrated_threshold(validation: Answers, rule: str, least_accuracy: float) -> CurvePoint:
    """The point at which most images leave early while the accuracy on `validation` is at least `least_accuracy`.

    Where no point reaches it, the most accurate one (of several, the one at which most leave). Whoever calls this
    gives images that were neither trained on nor are used to report with.
    """
    points = exit_curve(validation, rule)
    good = [point for point in points if point.accuracy >= least_accuracy]
    if good:
        return max(good, key=lambda point: point.early_share)
    return max(points, key=lambda point: (point.accuracy, point.early_share))


def _point(
    rule: str, answers: Answers, ordered: Array, place: int, early: int, early_right: int, late_right: int
) -> CurvePoint:
    """The point whose threshold passes exactly the first `place` doubts."""
    count = len(answers.labels)
    return CurvePoint(
        threshold=_threshold(rule, ordered, place, answers.exit_logits.shape[1]),
        early_share=early / count,
        accuracy=float(early_right + late_right) / count,
        early_accuracy=float(early_right) / early if early else None,
        offloaded_accuracy=float(late_right) / (count - early) if early < count else None,
    )


def _threshold(rule: str, ordered: Array, place: int, classes: int) -> float:
    """A threshold that passes exactly the first `place` doubts; at the ends, the end of the rule's range."""
    low, high = threshold_range(rule, classes)
    if place == 0:
        return low if rule == "entropy" else high
    if place == len(ordered):
        return high if rule == "entropy" else low
    middle = float(ordered[place - 1] + ordered[place]) / 2
    # Two neighbouring floats have no number between them: the upper one itself lets the lower leave.
    limit = middle if ordered[place - 1] < middle else float(ordered[place])
    return threshold_of_doubt(rule, limit)
