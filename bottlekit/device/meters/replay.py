"""A recorded trace in the place of a sensor: to compute again from raw data, and to test."""

import os
import time
from typing import Any, Callable, Dict, Optional, Tuple, Union

import numpy as np

from ..errors import BundleError, MeterError, ReadingError, UsageError
from ..files import read_json
from ..power_trace import PowerTrace
from .meter import Meter


class ReplayMeter(Meter):
    """Plays a recording at the pace it was taken: each reading is the last one recorded before this moment.

    Args:
        trace: a PowerTrace, or the path of a JSON file that holds what PowerTrace.to_dict wrote.
        clock: seconds, monotonic.
    """

    name = "replay"

    def __init__(
        self, trace: Union[PowerTrace, str, None] = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        if trace is None:
            raise UsageError("the meter replay needs a recording: the JSON file of a power trace")
        self._source = "a trace in memory" if isinstance(trace, PowerTrace) else os.fspath(trace)
        self._trace: Optional[PowerTrace] = trace if isinstance(trace, PowerTrace) else None
        self._clock = clock
        self._started_s = 0.0

    def _open(self) -> None:
        if self._trace is None:
            try:
                self._trace = PowerTrace.from_dict(read_json(self._source, "power trace"), self._source)
            except BundleError as error:
                raise MeterError("the meter replay cannot play its recording: {}".format(error))
        trace = self._trace
        if trace.times_s.size == 0 or np.any(np.diff(trace.times_s) <= 0):
            raise MeterError(
                "the meter replay cannot play {}: its times must go on, and there must be at least one; record it "
                "again".format(self._source)
            )
        self.kind = trace.kind
        self.rails = trace.rails
        self.boundary = "replayed: {}".format(trace.meter.get("boundary", "unknown"))
        quantum = trace.meter.get("quantum_mw" if trace.kind == "power" else "quantum_mj")
        self.quantum = float(quantum) if isinstance(quantum, (int, float)) else None
        self._started_s = self._clock()

    def _values(self) -> Tuple[float, ...]:
        assert self._trace is not None
        times_s = self._trace.times_s
        played_s = self._clock() - self._started_s
        # The last reading counts as long as the one before it did: then the recording is over.
        last_s = times_s[-1] - times_s[0]
        tail_s = float(times_s[-1] - times_s[-2]) if times_s.size > 1 else self._trace.refresh_s
        if played_s > last_s + tail_s:
            raise ReadingError(
                "the recording {} is over after {:.1f} s; measure for a shorter time, or record for longer".format(
                    self._source, last_s
                )
            )
        index = int(np.searchsorted(times_s - times_s[0], played_s, side="right")) - 1
        self.stamp_s = self._started_s + float(times_s[index] - times_s[0])
        return tuple(float(value) for value in self._trace.values[:, index])

    def _facts(self) -> Dict[str, Any]:
        return {"recording": self._source, "recorded_from": None if self._trace is None else self._trace.meter}
