"""The protocol that every meter follows."""

import math
import types
from typing import Any, Dict, Optional, Tuple, Type, TypeVar

from ..errors import MeterError, ReadingError

_Self = TypeVar("_Self", bound="Meter")


class Meter:
    """A sensor that is read: power in mW, or energy in mJ since it was opened.

    ::

        sensor --_values--> one number a rail --checked--> read() --> Sampler --> PowerTrace

    Use it in a `with`; it can be opened again after it was closed. `kind`, `rails`, `boundary` and `quantum` are
    known once it is open. One thread reads at a time.

    Attributes:
        name: as in METER_NAMES.
        kind: "power" or "energy".
        rails: what is measured. The first is the boundary's own, the others lie within it; none for `none`.
        boundary: whose power that is, for people.
        quantum: the smallest step of the first rail, mW (kind "power") or mJ; None where nobody tells.
        stamp_s: when the last reading was taken, on this machine's monotonic clock, if the reading is not taken
            by `read` itself; the same stamp again is the same reading again. None where `read` asks the sensor.
        why_chosen: why it is this meter.
    """

    name = ""
    kind = "power"
    rails: Tuple[str, ...] = ()
    boundary = ""
    quantum: Optional[float] = None
    stamp_s: Optional[float] = None
    why_chosen = "asked for"

    # What lets a user in whom the system refused.
    _permission = "run it as root"

    def __init__(self) -> None:
        self._is_open = False
        self._last: Tuple[float, ...] = ()

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[types.TracebackType],
    ) -> None:
        self.close()

    def open(self) -> None:
        """Find the sensor and make it ready; MeterError, saying why and what to do, where that cannot be."""
        self._last = ()
        try:
            self._open()
        except OSError as error:
            self._close()
            raise MeterError(self._told("cannot be used", error))
        except BaseException:
            self._close()
            raise
        self._is_open = True

    def close(self) -> None:
        """Let the sensor go."""
        self._is_open = False
        self._close()

    def read(self) -> Tuple[float, ...]:
        """One value a rail: mW, or mJ since it was opened with the counter's wrap-around undone.

        ReadingError when the sensor stopped, or says what cannot be: NaN, a negative number, energy that came back.
        """
        if not self._is_open:
            raise MeterError("the meter {} is not open; read it inside `with meter:`".format(self.name))
        try:
            values = self._values()
        except OSError as error:
            raise ReadingError(self._told("stopped during the measurement", error))
        unit = "mW" if self.kind == "power" else "mJ"
        for rail, value in zip(self.rails, values):
            if not math.isfinite(value) or value < 0:
                raise ReadingError(
                    "{}: {} reads {:g} {}, which cannot be; look at the sensor and its wiring, and measure "
                    "again".format(self.name, rail, value, unit)
                )
        if self.kind == "energy":
            for rail, value, before in zip(self.rails, values, self._last):
                if value < before:
                    raise ReadingError(
                        "{}: the energy of {} went back from {:g} to {:g} mJ: its counter was reset; measure "
                        "again".format(self.name, rail, before, value)
                    )
        self._last = values
        return values

    def facts(self) -> Dict[str, Any]:
        """All that a reader of the numbers must know of the meter, as JSON values."""
        facts: Dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "rails": list(self.rails),
            "boundary": self.boundary,
            "quantum_mw" if self.kind == "power" else "quantum_mj": self.quantum,
            "why_chosen": self.why_chosen,
        }
        facts.update(self._facts())
        return facts

    def throttling(self) -> Tuple[str, ...]:
        """What holds the measured machine back at this moment, as far as this sensor's driver knows."""
        return ()

    def _open(self) -> None:
        """Find the sensor. An OSError becomes a MeterError."""

    def _close(self) -> None:
        """Let go of what `_open` took, all of it or a part."""

    def _values(self) -> Tuple[float, ...]:
        """Ask the sensor. An OSError becomes a ReadingError."""
        raise NotImplementedError

    def _facts(self) -> Dict[str, Any]:
        """What this meter adds to the facts."""
        return {}

    def _told(self, what: str, error: OSError) -> str:
        """One line for what the system refused."""
        if isinstance(error, PermissionError):
            advice = self._permission.format(path=error.filename)
        else:
            advice = "look whether the sensor and its driver are still there, and measure again"
        where = " {}".format(error.filename) if error.filename else ""
        return "the meter {} {}:{} {}; {}".format(self.name, what, where, error.strerror or error, advice)
