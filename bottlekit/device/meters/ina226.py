"""An external INA226 in the supply of the board, as the papers used: through Linux's hwmon, or over I2C.

The chip knows the voltage over a shunt resistor and the voltage of the bus. What flows through the shunt is what
is measured: only who wired it knows what that feeds.
"""

import os
from typing import Any, Dict, Optional, Tuple

from ..errors import MeterError, UsageError
from .ina226_registers import Ina226
from .meter import Meter
from .sysfs import below, number, number_or_none, text_or_none

HWMON = "sys/class/hwmon/hwmon*"
# Chips with the registers of an INA226, as the driver ina2xx names them.
CHIPS = ("ina226", "ina230", "ina231")

BOUNDARY = "what flows through the external shunt"


class Ina226HwmonMeter(Meter):
    """Power through the shunt, mW, as the kernel's driver ina2xx tells it.

    Args:
        root: where the system's files are.
        device: the chip's bus and address ("1-0040"), needed where there are several.
        boundary: what the shunt feeds.
    """

    name = "ina226"
    rails = ("external",)
    _permission = "type: sudo chmod a+r {path} (until the next boot), or run it as root"

    def __init__(self, root: str = "/", device: Optional[str] = None, boundary: str = BOUNDARY) -> None:
        super().__init__()
        self._root = root
        self._device = device
        self.boundary = boundary
        self._folder = ""

    def _open(self) -> None:
        found = {_device_of(path): path for path in below(self._root, HWMON) if _chip(path) in CHIPS}
        if not found:
            raise MeterError(
                "the meter ina226 finds no {} in {}; load its driver, or give the I2C bus and the shunt's "
                "resistance".format(" or ".join(CHIPS), os.path.join(self._root, HWMON))
            )
        if self._device is None and len(found) > 1:
            raise UsageError("there are several sensors for the meter ina226; choose one: {}".format(_list(found)))
        if self._device is not None and self._device not in found:
            raise UsageError("the meter ina226 has no sensor {}; there are: {}".format(self._device, _list(found)))
        self._folder = found[self._device] if self._device is not None else next(iter(found.values()))
        shunt_uohm = number_or_none(os.path.join(self._folder, "shunt_resistor"))
        # The driver calibrates for the chip's whole range: a step is 25 times 2.5 uV over the shunt, in W.
        self.quantum = None if not shunt_uohm else 1e3 * 25 * 2.5 / shunt_uohm

    def _values(self) -> Tuple[float, ...]:
        return (number(os.path.join(self._folder, "power1_input")) / 1e3,)

    def _facts(self) -> Dict[str, Any]:
        return {
            "driver": "ina2xx (hwmon), {}".format(_chip(self._folder)),
            "paths": [os.path.join(self._folder, "power1_input")],
            "shunts_uohm": [number_or_none(os.path.join(self._folder, "shunt_resistor"))],
            "conversion_ms": number_or_none(os.path.join(self._folder, "update_interval")),
        }


class Ina226I2cMeter(Meter):
    """Power through the shunt, mW, from the chip's registers over I2C: one value a conversion.

    Args:
        chip: the chip behind its registers.
        boundary: what the shunt feeds.
    """

    name = "ina226"
    rails = ("external",)
    _permission = "type: sudo usermod -aG i2c $USER, and log in again"

    def __init__(self, chip: Ina226, boundary: str = BOUNDARY) -> None:
        super().__init__()
        self._chip = chip
        self.boundary = boundary

    def _open(self) -> None:
        self._chip.open()
        self.quantum = self._chip.power_step_mw

    def _close(self) -> None:
        self._chip.close()

    def _values(self) -> Tuple[float, ...]:
        return (self._chip.power_mw(),)

    def _facts(self) -> Dict[str, Any]:
        return {
            "driver": "smbus2",
            "paths": [self._chip.where],
            "shunts_uohm": [1e6 * self._chip.shunt_ohm],
            "conversion_ms": self._chip.conversion_ms,
        }


def _chip(folder: str) -> Optional[str]:
    return text_or_none(os.path.join(folder, "name"))


def _device_of(folder: str) -> str:
    """The chip's bus and address: hwmon3/device is a link to it."""
    return os.path.basename(os.path.realpath(os.path.join(folder, "device")))


def _list(found: Dict[str, str]) -> str:
    return ", ".join(sorted(found))
