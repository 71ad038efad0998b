"""What a person sees while a network trains: a bar on a terminal, one line an epoch elsewhere, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType


class TrainingProgress:
    """A `with` around a training run; everything goes to stderr."""

    def __init__(self, title: str, epochs: int, steps_per_epoch: int, quiet: bool = False) -> None:
        self.title = title
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            # Without a terminal the bar would be printed once, at the end; lines are of more use there.
            disable=quiet or not self.console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=epochs * steps_per_epoch, state="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float) -> None:
        """After step `step` (counted from 0 over the whole run)."""
        epoch = step // self.steps_per_epoch + 1
        self._bar.update(self._task, completed=step + 1, state=f"epoch {epoch}/{self.epochs}  loss {loss:.3f}")

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch, with its record as in the checkpoint."""
        accuracy = "" if record["accuracy"] is None else f", held-out accuracy {record['accuracy']:.2%}"
        if "estimated_bytes" in record:
            accuracy = f", about {record['estimated_bytes']:.0f} bytes{accuracy}"
        if accuracy or not self.console.is_terminal:
            self.console.print(
                f"{self.title}: epoch {record['epoch']}/{self.epochs}, mean loss {record['loss']:.3f}{accuracy}"
            )
