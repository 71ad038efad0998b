"""Reading a meter beside what is measured, each reading with its time."""

import threading
import time
import types
from typing import Any, Callable, List, Optional, Tuple, Type

import numpy as np

from ..errors import UsageError
from ..power_trace import PowerTrace
from .meter import Meter

# Two readings further apart than this many periods have a gap between them.
GAP_PERIODS = 5.0


class Sampler:
    """A thread that reads an open meter every `period_s`, from `start` (or the begin of a `with`) to `stop`.

    ::

        meter.read --every period--> times_s, values --trace()--> PowerTrace

    A reading's time is the middle between before and after it was taken, or the meter's own `stamp_s`; the same
    stamp again is no new reading. Readings that come late are not made up for by a burst.
    What the meter raises ends the thread, and is raised by `check` and `stop`.

    Args:
        meter: open, and read by nobody else meanwhile.
        period_s: the time from one reading to the next.
        refresh_s: what measured_refresh found, for the trace; None where it found nothing.
        clock: seconds, monotonic.
        wait: waits so many seconds and returns whether that is the end; None for until `stop`.

    Attributes:
        times_s: when each reading was taken.
        values: what was read, one list for each rail.
        gaps: (begin, end) in seconds of each two successive readings more than GAP_PERIODS apart.
    """

    def __init__(
        self,
        meter: Meter,
        period_s: float,
        refresh_s: Optional[float] = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Optional[Callable[[float], bool]] = None,
    ) -> None:
        if not 0 < period_s < float("inf"):
            raise UsageError("a meter is read every so many seconds, more than 0, not {:g}".format(period_s))
        self.times_s: List[float] = []
        self.values: List[List[float]] = [[] for _ in meter.rails]
        self.gaps: List[Tuple[float, float]] = []
        self._meter = meter
        self._period_s = period_s
        # Nothing is seen more often than it is read.
        self._refresh_s = max(refresh_s or 0.0, period_s)
        self._clock = clock
        self._facts = meter.facts()
        self._stamp_s: Optional[float] = None
        self._enough = threading.Event()
        self._wait = wait or self._enough.wait
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[types.TracebackType],
    ) -> None:
        # An error of the block comes first: the meter's must not hide it.
        self._end()
        if kind is None:
            self.check()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def check(self) -> None:
        """Raise what the meter raised, if it did: a long measurement need not go on without it."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the thread, and raise what the meter raised, if it did."""
        self._end()
        self.check()

    def trace(self) -> PowerTrace:
        """All readings up to now."""
        # The time is the last to be added: so many readings are complete.
        count = len(self.times_s)
        rows = [row[:count] for row in self.values]
        return PowerTrace(
            times_s=np.array(self.times_s[:count], dtype=np.float64),
            values=np.array(rows, dtype=np.float64).reshape(len(rows), count),
            rails=tuple(self._meter.rails),
            kind=self._meter.kind,
            refresh_s=self._refresh_s,
            meter=self._facts,
        )

    def _end(self) -> None:
        self._enough.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            due_s = self._clock()
            while not self._wait(max(0.0, due_s - self._clock())):
                self._take()
                due_s = max(due_s + self._period_s, self._clock())
        # Whatever it is, the thread that waits for the readings must hear of it.
        except BaseException as failure:
            self._failure = failure

    def _take(self) -> None:
        before_s = self._clock()
        values = self._meter.read()
        time_s = (before_s + self._clock()) / 2
        stamp_s: Any = self._meter.stamp_s
        if stamp_s is not None:
            if stamp_s == self._stamp_s:
                return
            self._stamp_s = time_s = stamp_s
        if self.times_s and time_s - self.times_s[-1] > GAP_PERIODS * self._refresh_s:
            self.gaps.append((self.times_s[-1], time_s))
        for row, value in zip(self.values, values):
            row.append(value)
        self.times_s.append(time_s)
