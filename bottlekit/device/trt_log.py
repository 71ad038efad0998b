"""What TensorRT says: recorded line by line, never printed.

::

    trt.Builder(logger), trt.Runtime(logger) --one logger a module--> every RecordedLog that is alive
"""

import weakref
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple


class LogLine(NamedTuple):
    """One message of TensorRT: its severity (INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE) and its text."""

    severity: str
    text: str


class RecordedLog:
    """What TensorRT says from now on, for as long as this object lives.

    TensorRT keeps the first logger it is given for the whole process and ignores every later one. So there is
    one logger for each module, and it hands each line to all logs that are alive.

    `listener` is called with each line as it comes, so that it is known even of a process that then dies.
    """

    def __init__(self, listener: Optional[Callable[[LogLine], None]] = None) -> None:
        self.lines: List[LogLine] = []
        self._listener = listener

    def take(self, line: LogLine) -> None:
        """Add a line. Called from C++, where an exception would end the process: a failing listener is dropped."""
        self.lines.append(line)
        if self._listener is not None:
            try:
                self._listener(line)
            except Exception:
                self._listener = None

    def logger(self, trt: Any) -> Any:
        """The module's logger (an ILogger), which now writes into this log as well."""
        logger, listeners = _logger_of(trt)
        listeners.add(self)
        return logger

    def errors(self) -> List[str]:
        """The texts of all errors so far."""
        return [line.text for line in self.lines if line.severity in ("ERROR", "INTERNAL_ERROR")]

    def texts(self, *severities: str) -> List[str]:
        """Lines of these severities as "SEVERITY: text", in order; they go into sidecars."""
        return ["{}: {}".format(line.severity, line.text) for line in self.lines if line.severity in severities]


# By module identity; the module is kept with it, so that an identity is never used twice.
_LOGGERS: Dict[int, Tuple[Any, Any, Any]] = {}


def _logger_of(trt: Any) -> Tuple[Any, Any]:
    if id(trt) not in _LOGGERS:
        listeners: Any = weakref.WeakSet()

        class Recorder(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                line = LogLine(enum_name(severity), msg)
                for log in list(listeners):
                    log.take(line)

        _LOGGERS[id(trt)] = (trt, Recorder(), listeners)
    return _LOGGERS[id(trt)][1:]


def enum_name(value: Any) -> str:
    """The bare name of an enum value of the bindings: Severity.ERROR is "ERROR"."""
    return str(getattr(value, "name", value)).rsplit(".", 1)[-1]
