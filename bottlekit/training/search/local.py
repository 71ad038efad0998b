"""This machine as the workforce of a search: one training after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bottlekit.training.search.decisions import Trial
from bottlekit.training.search.job import Job, outcome_of_job


class ThisMachine:
    """Trains in this process. An interrupted training goes on at its last finished epoch, see `outcome_of_job`."""

    hands = 1

    def __init__(self, source: Path, job_of: Callable[[Trial], Job], quiet: bool = False) -> None:
        self._source = source
        self._job_of = job_of
        self._quiet = quiet
        self._begun: list[tuple[Trial, Path | None, Path]] = []

    def begin(self, trial: Trial, start: Path | None, output: Path) -> None:
        """Note a training; it is done when it is waited for."""
        self._begun.append((trial, start, output))

    def next_done(self) -> tuple[Trial, dict[str, Any]]:
        """Do the training that was noted first."""
        trial, start, output = self._begun.pop(0)
        return trial, outcome_of_job(self._job_of(trial), self._source, start, output, self._quiet)
