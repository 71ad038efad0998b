"""What decides how much power a machine draws: power mode, clocks, temperatures, fans; and what holds it back.

/sys --conditions------> JSON values, before and after a measurement
/sys --ThrottleWatch---> a line for everything that throttled since it was last asked
"""

import os
import subprocess
from typing import Any, Dict, List, Optional

from .meters.sysfs import below, number_or_none, text_or_none

_ZONES = "sys/class/thermal/thermal_zone[0-9]*"
_COOLERS = "sys/class/thermal/cooling_device[0-9]*"
_COUNTERS = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"
_CPU_CLOCKS = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_{}_freq"
_OTHER_CLOCKS = "sys/class/devfreq/*/{}_freq"
# A cooling device whose type holds one of these slows a processor down; fans and backlights do not.
_SLOWING = ("cpu", "gpu", "processor", "powerclamp", "balanced", "devfreq", "throttle")
_COMMAND_S = 10.0


def conditions(root: str = "/") -> Dict[str, Any]:
    """Power mode, temperatures and clocks now, as JSON values; None or empty for what a machine does not tell."""
    return {
        "power_mode": power_mode_words(),
        "temperatures_c": _temperatures_c(root),
        "cpu_khz": {bound: _distinct_khz(root, _CPU_CLOCKS.format(bound)) for bound in ("cur", "min", "max")},
        "other_hz": {
            os.path.basename(os.path.dirname(path)): number_or_none(path)
            for path in below(root, _OTHER_CLOCKS.format("cur"))
        },
        "throttling": _slowed(root),
    }


def power_mode_words() -> Optional[str]:
    """What `nvpmodel -q` says of a Jetson's power mode, in one line; None where there is no nvpmodel."""
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = " ".join(done.stdout.decode("utf-8", "replace").split())
    return words if done.returncode == 0 and words else None


class ThrottleWatch:
    """Says what throttled since it was last asked: counters that rose, and devices that slow a processor now."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._counts = _counts(root)

    def since(self) -> List[str]:
        """A line for each."""
        before, self._counts = self._counts, _counts(self._root)
        risen = [path for path, count in self._counts.items() if count > before.get(path, 0.0)]
        words = sorted({_counter_words(path) for path in risen})
        return words + _slowed(self._root)


def _counts(root: str) -> Dict[str, float]:
    found = {}
    for path in below(root, _COUNTERS):
        count = number_or_none(path)
        if count is not None:
            found[path] = count
    return found


def _counter_words(path: str) -> str:
    """cpu3/thermal_throttle/package_throttle_count -> the counter's own name; every core counts the package."""
    return "thermal events of the processor ({})".format(os.path.basename(path))


def _slowed(root: str) -> List[str]:
    """What slows a processor down at this moment."""
    found = []
    for path in below(root, _COOLERS):
        kind = text_or_none(os.path.join(path, "type")) or ""
        state = number_or_none(os.path.join(path, "cur_state"))
        if state is not None and state > 0 and any(word in kind.lower() for word in _SLOWING):
            found.append("{} is at step {:g}".format(kind, state))
    return found


def _temperatures_c(root: str) -> Dict[str, float]:
    """Degrees Celsius of every zone by its type; those that are off read absurd values and are left out."""
    found = {}
    for path in below(root, _ZONES):
        millidegrees = number_or_none(os.path.join(path, "temp"))
        if millidegrees is not None and -40e3 < millidegrees < 150e3:
            name = text_or_none(os.path.join(path, "type")) or os.path.basename(path)
            found[name if name not in found else os.path.basename(path)] = millidegrees / 1e3
    return found


def _distinct_khz(root: str, pattern: str) -> List[float]:
    values = {number_or_none(path) for path in below(root, pattern)}
    return sorted(value for value in values if value is not None)
