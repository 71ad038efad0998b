"""What a meter said during a measurement: every reading with its time, as arrays and as JSON."""

from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from .fields import Fields

KINDS = ("power", "energy")
_INFINITY = float("inf")


class PowerTrace(NamedTuple):
    """The readings of a meter, in the order they were taken.

    `times_s` float64 (n,): seconds of one monotonic clock. `values` float64 (rails, n): the power in mW (kind
    "power"), or the energy in mJ since the meter was opened (kind "energy"). `rails` names the rows, the first is
    the meter's boundary. `refresh_s` is how often the sensor has something new. `meter` holds the meter's facts.

    A trace is only raw data: whether it is long enough, without gaps and from a clock that did not jump is for
    those to judge who compute from it.
    """

    times_s: np.ndarray
    values: np.ndarray
    rails: Tuple[str, ...]
    kind: str
    refresh_s: float
    meter: Dict[str, Any]

    def to_dict(self) -> Dict[str, Any]:
        """The trace as JSON values; every float64 comes back as it was."""
        return {
            "kind": self.kind,
            "rails": list(self.rails),
            "refresh_s": float(self.refresh_s),
            "meter": self.meter,
            "times_s": [float(time) for time in self.times_s],
            "values": [[float(value) for value in row] for row in self.values],
        }

    @classmethod
    def from_dict(cls, values: Any, where: str = "power trace") -> "PowerTrace":
        """The trace that `to_dict` wrote; BundleError naming the field that is missing or wrong in `where`."""
        fields = Fields(values, where)
        kind = fields.text("kind")
        if kind not in KINDS:
            raise fields.error("kind", " or ".join(KINDS))
        rails = fields.texts("rails")
        if not rails or len(set(rails)) != len(rails):
            raise fields.error("rails", "a list of different names, at least one")
        times_s = fields.numbers("times_s", _length(fields, "times_s"), -_INFINITY, _INFINITY)
        rows = fields.any("values")
        if not isinstance(rows, list) or len(rows) != len(rails):
            raise fields.error("values", "a list of {} lists, one for each rail".format(len(rails)))
        by_rail = Fields(dict(zip(rails, rows)), where, "values")
        numbers = [by_rail.numbers(rail, len(times_s), 0.0, _INFINITY) for rail in rails]
        return cls(
            times_s=np.array(times_s, dtype=np.float64),
            values=np.array(numbers, dtype=np.float64).reshape(len(rails), len(times_s)),
            rails=tuple(rails),
            kind=kind,
            refresh_s=fields.number("refresh_s", 0.0, _INFINITY),
            meter=fields.object("meter").values,
        )


def _length(fields: Fields, name: str) -> int:
    value = fields.any(name)
    if not isinstance(value, list):
        raise fields.error(name, "a list of numbers")
    return len(value)
