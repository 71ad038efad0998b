"""What a search trains next, and when it is done: Algorithm 1's training phase (BottleNet, section 2.3).

    grid, results so far --next_step--> Trial      train this, add its accuracy to the results, ask again
                                        Verdict    the smallest reduction that is accurate enough, or none

A pure function of the results: an interrupted search goes on by asking again with the results that were kept.

    exhaustive   every reduction of the grid: what the algorithm says, and what a figure of all widths needs
    linear       from the smallest on until one is accurate enough: the same answer with the fewest trainings
    fast         linear, with a trial first: a quarter of the epochs, then another, from the weights of the one
                 before. A network that is accurate enough then goes no further, nor one that will not be. What is
                 open then is trained as the linear search trains it.

When will a network not be accurate enough? Where even with diminishing returns it cannot come there: each doubling
of its training is taken to gain at most what the doubling before it gained, and twice the standard error of an
accuracy of that size is granted to chance. Where this holds, fast and linear give the same answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bottlekit.training.search.grid import Reduction

Mode = Literal["linear", "fast", "exhaustive"]
MODES: tuple[Mode, ...] = ("linear", "fast", "exhaustive")
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: `epochs` more epochs of a reduction at a split point, from the weights that `start` left."""

    split: str
    reduction: Reduction
    epochs: int
    rung: int = 0
    start: Trial | None = None

    def to_dict(self) -> dict[str, object]:
        """As JSON values, with everything that it started from."""
        return {
            "split": self.split,
            "channels": self.reduction.channels,
            "spatial": self.reduction.spatial,
            "epochs": self.epochs,
            "rung": self.rung,
            "start": None if self.start is None else self.start.to_dict(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Trial:
        """The trial that `to_dict` gave these values for."""
        start = values["start"]
        return Trial(
            values["split"],
            Reduction(values["channels"], values["spatial"]),
            values["epochs"],
            values["rung"],
            None if start is None else Trial.from_dict(start),
        )


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is accurate enough, told by so many held-out images, and how long a whole training is.

    `least` is a fraction 0..1, `epochs` those of the recipe.
    """

    least: float
    images: int
    epochs: int
    mode: Mode = "linear"

    def met(self, accuracy: float | None) -> bool:
        """Whether this is accurate enough; a training that diverged (None) is not."""
        return accuracy is not None and accuracy >= self.least - _ROUNDING

    def chance(self) -> float:
        """Two standard errors of an accuracy near `least`, counted on `images` images."""
        near = min(max(self.least, 0.0), 1.0)
        return 2 * math.sqrt(near * (1 - near) / self.images)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The end of a search at one split point: the training whose network is taken, or None.

    `best` is the most accurate training there was, `spent` how many whole trainings the search cost (its epochs by
    those of one), and `linear` how many a linear search needs for the same answer.
    """

    found: Trial | None
    best: Trial | None
    spent: float
    linear: int

    @property
    def saved(self) -> float:
        """Trainings that a linear search would have needed beyond these; negative where it needs fewer."""
        return self.linear - self.spent


Results = Mapping[Trial, float | None]


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs of each rung of a fast search: a quarter, a quarter and the rest, as nearly as it goes.

    In place of the rest, the last rung is a whole training.
    """
    quarter = max(1, epochs // 4)
    steps = (quarter, -(-epochs // 2) - quarter, epochs - max(quarter, -(-epochs // 2)))
    return tuple(step for step in steps if step > 0)


def next_step(split: str, widths: Sequence[Reduction], goal: Goal, results: Results) -> Trial | Verdict:
    """The next training at a split point, or its verdict. `widths` are ascending; `results` may hold others too.

    A result is the accuracy 0..1 on held-out images, or None for a training that diverged.
    """
    steps = rungs(goal.epochs) if goal.mode == "fast" else (goal.epochs,)
    start: Trial | None = None
    found: Trial | None = None
    seen: list[Trial] = []
    linear = 0
    for width in widths:
        linear += found is None
        curve: list[float | None] = []
        for rung, epochs in enumerate(steps):
            last = rung == len(steps) - 1
            trial = Trial(split, width, goal.epochs) if last else Trial(split, width, epochs, rung, start)
            if trial not in results:
                return trial
            seen.append(trial)
            curve.append(results[trial])
            if goal.mode == "fast" and curve[-1] is not None:
                start = trial
            if goal.met(curve[-1]):
                found = found or trial
                break
            if hopeless(curve, steps, goal):
                break
        if found is not None and goal.mode != "exhaustive":
            break
    measured = [(accuracy, trial) for trial in seen if (accuracy := results[trial]) is not None]
    best = max(measured, key=lambda pair: pair[0])[1] if measured else None
    spent = sum(trial.epochs for trial in seen) / goal.epochs if goal.epochs else float(len(seen))
    return Verdict(found, best, spent, linear)


def hopeless(curve: Sequence[float | None], steps: Sequence[int], goal: Goal) -> bool:
    """Whether a network with this accuracy after each rung so far will not be accurate enough after the last.

    A single rung says nothing about growth, unless training diverged in it.
    """
    last = curve[-1]
    if last is None:
        return True
    if len(curve) == 1 or len(curve) == len(steps):
        return False
    before = curve[-2]
    gain = max(0.0, last - (last if before is None else before))
    doublings_left = math.log2(sum(steps) / sum(steps[: len(curve)]))
    doublings_done = math.log2(sum(steps[: len(curve)]) / sum(steps[: len(curve) - 1]))
    return last + gain * doublings_left / doublings_done + goal.chance() < goal.least - _ROUNDING
