"""The search itself: ask the decisions, have a workforce train, keep the result, ask again.

    for each split point without a verdict or a training under way --next_step--> Trial --> workforce
    workforce --> result of one training --> store                            a folder; see store.py

Split points are searched side by side as far as the workforce goes; at one split point one training follows
another, since what is trained next depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bottlekit.training.search.decisions import Goal, Trial, Verdict, next_step
from bottlekit.training.search.grid import Reduction
from bottlekit.training.search.store import Store

Listener = Callable[[str], None]


class Workforce(Protocol):
    """Who trains: this machine, or a cluster."""

    @property
    def hands(self) -> int:
        """How many trainings it does at once."""
        ...

    def begin(self, trial: Trial, start: Path | None, output: Path) -> None:
        """Take a training on; `start` and `output` are checkpoints on this machine."""
        ...

    def next_done(self) -> tuple[Trial, dict[str, Any]]:
        """Wait for one of the trainings that were begun: its outcome, its network at its `output`."""
        ...


def search(
    grids: Mapping[str, Sequence[Reduction]], goal: Goal, store: Store, workforce: Workforce, say: Listener
) -> dict[str, Verdict]:
    """The verdict at every split point of `grids` (name -> reductions, ascending), in their order.

    What the store holds is not trained again. Raises what training raises; the store keeps what was done.
    """
    under_way: set[str] = set()
    while True:
        steps = {
            split: next_step(split, widths, goal, store.results)
            for split, widths in grids.items()
            if split not in under_way
        }
        for split, step in steps.items():
            if isinstance(step, Trial) and len(under_way) < workforce.hands:
                start = None if step.start is None else store.checkpoint(step.start)
                workforce.begin(step, start, store.checkpoint(step))
                under_way.add(split)
        if not under_way:
            return {split: step for split, step in steps.items() if isinstance(step, Verdict)}
        trial, outcome = workforce.next_done()
        under_way.remove(trial.split)
        store.add(trial, outcome)
        say(_line(trial, outcome, goal))


def _line(trial: Trial, outcome: dict[str, Any], goal: Goal) -> str:
    what = f"{trial.split} {trial.reduction}, {trial.epochs} epoch{'s' if trial.epochs > 1 else ''}"
    if outcome["accuracy"] is None:
        return f"{what}: {outcome['error']}"
    enough = "accurate enough" if goal.met(outcome["accuracy"]) else f"less than {goal.least:.2%}"
    return f"{what}: {outcome['accuracy']:.2%}, {enough}"
