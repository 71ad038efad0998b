"""A Jetson's power through jetson-stats (jtop), which runs in a process of its own because of its licence.

::

    jtop.service --jtop_child, another process--> JSON lines with their times --thread--> the last reading
"""

import json
import math
import re
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..children import child_environment
from ..errors import MeterError, ReadingError, UsageError
from .meter import Meter

# What its author advises as the least.
LEAST_INTERVAL_S = 0.5
# jtop ends by itself after three intervals without news; after so many it should have told that.
_SILENT_INTERVALS = 4.0

# The last that Python 3.6 runs, and the newest for the others.
_WANTED = "jetson-stats==4.3.2" if sys.version_info < (3, 8) else "'jetson-stats>=4.3.2'"

_OTHER_VERSION = re.compile(r"service: \[([\w.]+)\]")


class _Reading(NamedTuple):
    time_s: float
    values: Tuple[float, ...]


class JtopMeter(Meter):
    """Power of the module and its rails, mW, as often as jtop's service reads them.

    jtop moves VDD_IN out of the rails into the total: here it is the first rail again. Where a board has no such
    rail, jtop adds up all it has, parts and wholes alike, and that is what the boundary then says.

    Args:
        interval_s: how often, 0.5 s at least.
        command: the child process, for tests; it speaks as jtop_child.py does.
        start_timeout_s: how long to wait for the first reading.
        clock: seconds, monotonic, the same in both processes.
    """

    name = "jtop"

    def __init__(
        self,
        interval_s: float = LEAST_INTERVAL_S,
        command: Optional[Sequence[str]] = None,
        start_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        if not LEAST_INTERVAL_S <= interval_s < math.inf:
            raise UsageError(
                "jtop's interval must be {} s or more, as its author advises, not {:g}".format(
                    LEAST_INTERVAL_S, interval_s
                )
            )
        self._interval_s = interval_s
        self._command = command or [
            sys.executable,
            "-m",
            __name__.rpartition(".")[0] + ".jtop_child",
            repr(interval_s),
        ]
        self._start_timeout_s = start_timeout_s
        self._clock = clock
        self._process: Any = None
        self._thread: Optional[threading.Thread] = None
        self._changed = threading.Condition()
        self._forget()

    def _forget(self) -> None:
        """Begin anew: nothing was said."""
        self._started: Dict[str, Any] = {}
        self._last_reading: Optional[_Reading] = None
        self._readings = 0
        self._over: Optional[str] = None

    def _open(self) -> None:
        self._forget()
        self._process = subprocess.Popen(
            list(self._command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            # Ctrl-C is for the process that measures: it may want to read on while it tidies up.
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._readings > 0 or self._over is not None, self._start_timeout_s)
            # One that ended after its first reading is for `read` to tell.
            if self._over is not None and not self._readings:
                raise MeterError("the meter jtop cannot be used: {}".format(self._over))
            if not self._readings:
                raise MeterError(
                    "the meter jtop got no reading in {:g} s; type: sudo systemctl restart jtop.service".format(
                        self._start_timeout_s
                    )
                )
            boundary = self._started["boundary"]
            self.rails = (boundary or "sum of all rails",) + tuple(self._started["rails"])
        self.boundary = "module ({})".format(boundary) if boundary else "sum of all rails, as jtop adds them up"
        # jtop tells whole mW; what a step of the sensor is, it does not tell.
        self.quantum = 1.0

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._thread is not None:
            # It ends with the child's output.
            self._thread.join()
        process.stdout.close()

    def _values(self) -> Tuple[float, ...]:
        with self._changed:
            reading, over, readings = self._last_reading, self._over, self._readings
        assert reading is not None
        if over is not None:
            raise ReadingError("the meter jtop stopped after {} readings: {}".format(readings, over))
        silent_s = self._clock() - reading.time_s
        if silent_s > _SILENT_INTERVALS * self._interval_s:
            raise ReadingError(
                "the meter jtop has said nothing for {:.1f} s; type: sudo systemctl restart jtop.service, and "
                "measure again".format(silent_s)
            )
        self.stamp_s = reading.time_s
        return reading.values

    def _facts(self) -> Dict[str, Any]:
        return {
            "driver": "jetson-stats {}".format(self._started.get("version")),
            "licence": "AGPL-3.0, in a process of its own",
            "interval_s": self._interval_s,
        }

    def _listen(self, process: Any) -> None:
        """The thread: take in what the child says, until it ends."""
        why: Optional[str] = None
        for line in process.stdout:
            try:
                why = self._take(json.loads(line.decode("utf-8")))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                why = "it said what cannot be understood ({}: {})".format(type(error).__name__, error)
            if why is not None:
                break
        if why is None:
            why = "its process ended with status {}; measure again".format(process.wait())
        with self._changed:
            self._over = why
            self._changed.notify_all()

    def _take(self, said: Dict[str, Any]) -> Optional[str]:
        """One line of the child's; returns why it is over, or None while it goes on."""
        event = said["event"]
        if event == "error":
            return _advice(said["kind"], said["message"])
        if event == "end":
            return "its service stopped; type: sudo systemctl restart jtop.service, and measure again"
        with self._changed:
            if event == "started":
                rails: List[str] = [str(rail) for rail in said["rails"]]
                self._started = {"version": said["version"], "boundary": said["boundary"], "rails": rails}
            elif event == "reading":
                values = tuple(float(value) for value in [said["total_mw"]] + said["rails_mw"])
                if len(values) != 1 + len(self._started["rails"]):
                    return "its rails changed; measure again"
                self._last_reading = _Reading(float(said["time_s"]), values)
                self._readings += 1
                self._changed.notify_all()
        return None


def _advice(kind: str, message: str) -> str:
    """What jtop's own errors mean, and what to type."""
    if kind in ("ImportError", "ModuleNotFoundError"):
        return "jetson-stats is not installed ({}); type: sudo pip3 install {}".format(message, _WANTED)
    other = _OTHER_VERSION.search(message)
    if other:
        return "{}; type: sudo pip3 install jetson-stats=={}, and then: sudo systemctl restart jtop.service".format(
            message.partition(". Please")[0], other.group(1)
        )
    if "not active" in message:
        return "jtop.service is not running; type: sudo systemctl restart jtop.service"
    if "access" in message or kind == "PermissionError":
        return "this user may not talk to jtop.service; type: sudo usermod -aG jtop $USER, and log in again"
    if kind in ("KeyError", "TypeError", "AttributeError"):
        return "this version of jetson-stats tells power in another form ({}: {}); type: {}".format(
            kind, message, "sudo pip3 install -U " + _WANTED
        )
    return "{}: {}".format(kind, message)
