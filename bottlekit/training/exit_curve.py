"""Accuracy against the share that leaves early, for every threshold from one pass over the images.

    the images in order of the exit's doubt     surest                          least sure
                                                |--- leave: exit's answer ---|--- cloud's answer ---|
                                                                          threshold

Moving the threshold over one image changes one answer, so sums from the left and from the right give all points.
The labels only count who was right; the order comes from the exit's logits alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bottlekit.device.exit_rules import doubt, doubt_limit, leaves_early, threshold_of_doubt, threshold_range
from bottlekit.errors import UsageError

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a pass over labelled images gave: logits (n, classes) of the exit and of the cloud, labels (n,)."""

    exit_logits: Array
    cloud_logits: Array
    labels: Array

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together (UsageError)."""
        if self.exit_logits.shape != self.cloud_logits.shape or len(self.labels) != len(self.exit_logits):
            raise UsageError(
                f"exit logits {self.exit_logits.shape}, cloud logits {self.cloud_logits.shape} and "
                f"{len(self.labels)} labels do not belong together"
            )
        if not len(self.labels):
            raise UsageError("without images there is no threshold to choose")


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
    doubts = doubt(answers.exit_logits, rule)
    order = np.argsort(doubts, kind="stable")
    ordered = doubts[order]
    exit_right = (answers.exit_logits.argmax(1) == answers.labels)[order]
    cloud_right = (answers.cloud_logits.argmax(1) == answers.labels)[order]
    count = len(order)
    early_right = np.concatenate([[0], np.cumsum(exit_right)])
    late_right = np.concatenate([np.cumsum(cloud_right[::-1])[::-1], [0]])
    points = []
    for early in range(count + 1):
        if 0 < early < count and ordered[early - 1] == ordered[early]:
            continue
        threshold = _threshold(rule, ordered, early, answers.exit_logits.shape[1])
        if early and not ordered[early - 1] < doubt_limit(rule, threshold):
            continue  # complete doubt: no threshold lets these go
        points.append(
            CurvePoint(
                threshold=threshold,
                early_share=early / count,
                accuracy=float(early_right[early] + late_right[early]) / count,
                early_accuracy=float(early_right[early]) / early if early else None,
                offloaded_accuracy=float(late_right[early]) / (count - early) if early < count else None,
            )
        )
    return points


def point_at(answers: Answers, rule: str, threshold: float) -> CurvePoint:
    """The point of one threshold on these images."""
    early = leaves_early(answers.exit_logits, rule, threshold)
    exit_right = answers.exit_logits.argmax(1) == answers.labels
    cloud_right = answers.cloud_logits.argmax(1) == answers.labels
    right = np.where(early, exit_right, cloud_right)
    return CurvePoint(
        threshold=threshold,
        early_share=float(early.mean()),
        accuracy=float(right.mean()),
        early_accuracy=float(right[early].mean()) if early.any() else None,
        offloaded_accuracy=float(right[~early].mean()) if not early.all() else None,
    )


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


def _threshold(rule: str, ordered: Array, early: int, classes: int) -> float:
    """A threshold that lets exactly the first `early` images leave; at the ends, the end of the rule's range."""
    low, high = threshold_range(rule, classes)
    if early == 0:
        return low if rule == "entropy" else high
    if early == len(ordered):
        return high if rule == "entropy" else low
    middle = float(ordered[early - 1] + ordered[early]) / 2
    # Two neighbouring floats have no number between them: the upper one itself lets the lower leave.
    limit = middle if ordered[early - 1] < middle else float(ordered[early])
    return threshold_of_doubt(rule, limit)
