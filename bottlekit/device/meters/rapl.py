"""Intel's and AMD's own energy counters of the processor packages, through Linux's powercap.

Only whole packages are counted: the zones within a package are parts of it, and `psys` and `intel-rapl-mmio` would
count a package again. Most virtual machines have no such counters.
"""

import os
from typing import Any, Dict, List, NamedTuple, Tuple

from ..errors import MeterError
from .meter import Meter
from .sysfs import below, number, text

ZONES = "sys/class/powercap/intel-rapl:[0-9]*"


class Zone(NamedTuple):
    """One package: its name ("package-0"), its counter's file (uJ), and where the counter begins again (uJ)."""

    name: str
    counter: str
    range_uj: float


class RaplMeter(Meter):
    """Energy of the processor packages in mJ since it was opened.

    With several packages the first rail is their sum. A counter begins again after `max_energy_range_uj` (an hour
    at 70 W, minutes under load on a server): it must be read more often than that.
    """

    name = "rapl"
    kind = "energy"
    _permission = "type: sudo chmod a+r {path} (until the next boot), or run it as root"

    def __init__(self, root: str = "/") -> None:
        super().__init__()
        self._root = root
        self._zones: List[Zone] = []
        self._before_uj: List[float] = []
        self._total_uj: List[float] = []

    def _open(self) -> None:
        self._zones = [_zone(path) for path in below(self._root, ZONES) if _is_package(path)]
        if not self._zones:
            raise MeterError(
                "the meter rapl finds no processor package in {}: virtual machines and ARM have none; on a PC "
                "type: sudo modprobe intel_rapl_msr".format(os.path.join(self._root, "sys/class/powercap"))
            )
        names = tuple(zone.name for zone in self._zones)
        self.rails = names if len(names) == 1 else ("packages",) + names
        self.boundary = "CPU package" if len(names) == 1 else "{} CPU packages".format(len(names))
        self._before_uj = [number(zone.counter) for zone in self._zones]
        self._total_uj = [0.0] * len(names)

    def _values(self) -> Tuple[float, ...]:
        for index, zone in enumerate(self._zones):
            now_uj = number(zone.counter)
            step_uj = now_uj - self._before_uj[index]
            self._total_uj[index] += step_uj if step_uj >= 0 else step_uj + zone.range_uj
            self._before_uj[index] = now_uj
        values = tuple(total_uj / 1e3 for total_uj in self._total_uj)
        return values if len(values) == 1 else (sum(values),) + values

    def _facts(self) -> Dict[str, Any]:
        return {
            "driver": "powercap intel-rapl",
            "paths": [zone.counter for zone in self._zones],
            "counter_ranges_mj": [zone.range_uj / 1e3 for zone in self._zones],
        }


def _is_package(path: str) -> bool:
    """Whether a zone is a package, rather than a part of one ("core", "dram") or the whole machine ("psys")."""
    return text(os.path.join(path, "name")).startswith("package")


def _zone(path: str) -> Zone:
    return Zone(
        text(os.path.join(path, "name")),
        os.path.join(path, "energy_uj"),
        number(os.path.join(path, "max_energy_range_uj")),
    )
