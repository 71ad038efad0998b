"""Bytes at equal accuracy, of methods that have a few settings each, with an interval.

    setting: bytes and right answers for each seed and held-out image --mean--> a point (bytes, accuracy)
    points of a method --front--> those that no other beats --bytes_at--> bytes for an accuracy between them

Bytes between two points follow a straight line of their logarithm over accuracy, as Bjontegaard compares video
codecs. Below a front's first accuracy the first point's bytes are what it takes; above its last, nothing does.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLINGS = 2000

Front = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a method: payload bytes and right answers (0 or 1), each (seeds, images)."""

    sizes: NDArray[np.float64]
    right: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.sizes.shape != self.right.shape or self.sizes.ndim != 2 or not self.sizes.size:
            raise ValueError(f"sizes {self.sizes.shape} and answers {self.right.shape} must be (seeds, images)")


def front(points: Sequence[tuple[float, float]]) -> Front:
    """Those (bytes, accuracy) that are more accurate than all with as few bytes; fewest bytes first."""
    best: Front = []
    for size, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((size, accuracy))
    return best


def bytes_at(of_front: Front, accuracy: float) -> float | None:
    """The bytes that an accuracy takes; None where no point is as accurate. A front has ascending accuracies."""
    if not of_front or accuracy > of_front[-1][1]:
        return None
    if accuracy <= of_front[0][1]:
        return of_front[0][0]
    (low_bytes, low), (high_bytes, high) = next(
        pair for pair in itertools.pairwise(of_front) if accuracy <= pair[1][1]
    )
    share = (accuracy - low) / (high - low)
    return math.exp((1 - share) * math.log(low_bytes) + share * math.log(high_bytes))


def shared_accuracies(ours: Sequence[Setting], theirs: Sequence[Setting], count: int = 4) -> list[float]:
    """Accuracies that both methods have bytes for, from the lowest that both measured to the highest, evenly.

    Where one is always more accurate there is one: the best of the other.
    """
    fronts = _front(ours), _front(theirs)
    low, high = max(one[0][1] for one in fronts), min(one[-1][1] for one in fronts)
    return [high] if low >= high else np.linspace(low, high, count).tolist()


def ratio_at(ours: Sequence[Setting], theirs: Sequence[Setting], accuracy: float, seed: int = 0) -> dict[str, Any]:
    """Our bytes over theirs at an accuracy, with the bootstrap's interval over images and seeds.

    Images are drawn alike for both methods, as both were asked about the same ones; seeds apart. `reached` is the
    share of drawings in which both reach the accuracy; the interval is of those alone. None where one does not.
    """
    left, right = bytes_at(_front(ours), accuracy), bytes_at(_front(theirs), accuracy)
    dice = np.random.default_rng(seed)
    images = ours[0].sizes.shape[1]
    ratios = []
    for _ in range(RESAMPLINGS):
        drawn = dice.integers(0, images, images)
        of_drawn = [bytes_at(_front(method, drawn, dice), accuracy) for method in (ours, theirs)]
        if of_drawn[0] is not None and of_drawn[1] is not None:
            ratios.append(of_drawn[0] / of_drawn[1])
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(ratios, tails).tolist() if ratios else (None, None)
    return {
        "accuracy": accuracy, "ours_bytes": left, "theirs_bytes": right,
        "ratio": None if left is None or right is None else left / right,
        "low": low, "high": high, "confidence": CONFIDENCE, "reached": len(ratios) / RESAMPLINGS,
    }  # fmt: skip


def _front(
    method: Sequence[Setting],
    images: NDArray[np.int64] | None = None,
    dice: np.random.Generator | None = None,
) -> Front:
    """The front of a method, over all its seeds and images or over some that are drawn, each seed with return."""
    points = []
    for setting in method:
        seeds = len(setting.sizes)
        rows = np.arange(seeds) if dice is None else dice.integers(0, seeds, seeds)
        columns = slice(None) if images is None else images
        points.append(
            (float(setting.sizes[rows][:, columns].mean()), float(setting.right[rows][:, columns].mean()))
        )
    return front(points)
