"""The INA3221 chips on a Jetson's module, read directly: IIO up to JetPack 4, hwmon from JetPack 5 on.

A Jetson TX2 has VDD_SYS_GPU, VDD_SYS_SOC and VDD_4V0_WIFI on the chip 0-0040, VDD_IN, VDD_SYS_CPU and VDD_SYS_DDR
on 0-0041, and the carrier board's rails on 0-0042 and 0-0043. Rails are found by name, never by position. VDD_IN is
the whole module; VDD_4V0_WIFI is its radio.
"""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import MeterError, UnknownNameError
from .meter import Meter
from .sysfs import below, number, number_or_none, text, text_or_none

_DRIVERS = "sys/bus/i2c/drivers"
IIO = _DRIVERS + "/ina3221x/*/iio[:_]device*"
HWMON = _DRIVERS + "/ina3221/*/hwmon/hwmon*"

# The rails that feed a whole module.
MODULE_RAILS = ("VDD_IN", "POM_5V_IN")
# Chips on the carrier board of a TX1 or TX2.
_CARRIER_CHIPS = ("0042", "0043")
# One step of the chip's shunt voltage.
_SHUNT_STEP_UV = 40.0


class Rail(NamedTuple):
    """One rail: its name, the chip it is on ("0-0041"), and its files.

    `power` holds mW, None where the driver has no such file; `voltage` mV, `current` mA. `shunt_uohm` is None where
    the driver does not tell.
    """

    name: str
    chip: str
    power: Optional[str]
    voltage: str
    current: str
    shunt_uohm: Optional[float]

    def power_mw(self) -> float:
        """The power now, mW."""
        if self.power is not None:
            return number(self.power)
        return number(self.voltage) * number(self.current) / 1e3


class Ina3221Meter(Meter):
    """Power of a Jetson's rails, mW.

    Args:
        root: where the system's files are.
        rails: which rails, the boundary's first; None for all of the module, VDD_IN first.
    """

    name = "ina3221"
    _permission = "type: sudo chmod a+r {path} (until the next boot), or run it as root"

    def __init__(self, root: str = "/", rails: Optional[Sequence[str]] = None) -> None:
        super().__init__()
        self._root = root
        self._asked = rails
        self._rails: List[Rail] = []
        self._others: List[str] = []
        self._form = ""
        self._folders: List[str] = []

    def _open(self) -> None:
        self._form, self._folders, found = rails_below(self._root)
        by_name = {rail.name: rail for rail in found}
        if self._asked is None:
            names = [rail.name for rail in found if not rail.chip.endswith(_CARRIER_CHIPS)]
            # Python's sort keeps the order of the rest.
            names.sort(key=lambda name: name not in MODULE_RAILS)
        else:
            names = list(self._asked)
            for name in names:
                if name not in by_name:
                    raise UnknownNameError("rail", name, sorted(by_name))
        self._rails = [by_name[name] for name in names]
        self._others = sorted(set(by_name) - set(names))
        self.rails = tuple(names)
        first = self._rails[0]
        if first.name in MODULE_RAILS:
            self.boundary = "module ({})".format(first.name)
        else:
            self.boundary = "the rail {} alone, not the whole module".format(first.name)
        self.quantum = _quantum_mw(first)

    def _values(self) -> Tuple[float, ...]:
        return tuple(rail.power_mw() for rail in self._rails)

    def _facts(self) -> Dict[str, Any]:
        files = ("running_mode", "polling_delay_0", "update_interval", "samples")
        settings = {
            "{}/{}".format(_chip_of(folder), name): text_or_none(os.path.join(folder, name))
            for folder in self._folders
            for name in files
        }
        return {
            "driver": {"iio": "ina3221x (IIO)", "hwmon": "ina3221 (hwmon)"}[self._form],
            "paths": [rail.power or rail.current for rail in self._rails],
            "shunts_uohm": [rail.shunt_uohm for rail in self._rails],
            "driver_settings": ["{}={}".format(*item) for item in settings.items() if item[1] is not None],
            "other_rails": self._others,
        }


def rails_below(root: str) -> Tuple[str, List[str], List[Rail]]:
    """The form of the driver ("iio" or "hwmon"), its folders and the rails they have, the carrier board's too.

    MeterError where there are none.
    """
    for form, pattern, rails_of in (("iio", IIO, _iio_rails), ("hwmon", HWMON, _hwmon_rails)):
        folders = below(root, pattern)
        rails: Dict[str, Rail] = {}
        for folder in folders:
            for rail in rails_of(folder):
                rails.setdefault(rail.name, rail)
        if rails:
            return form, folders, list(rails.values())
    raise MeterError(
        "the meter ina3221 finds no rails in {} (ina3221x, ina3221); only Jetsons have them".format(
            os.path.join(root, _DRIVERS)
        )
    )


def _iio_rails(folder: str) -> List[Rail]:
    rails = []
    for name_file in below(folder, "rail_name_[0-9]"):
        name, channel = text(name_file), name_file[-1]
        if name and name != "NC":
            power = os.path.join(folder, "in_power{}_input".format(channel))
            rails.append(
                Rail(
                    name,
                    _chip_of(folder),
                    power if os.path.exists(power) else None,
                    os.path.join(folder, "in_voltage{}_input".format(channel)),
                    os.path.join(folder, "in_current{}_input".format(channel)),
                    _shunt_of_device_tree_uohm(folder, channel),
                )
            )
    return rails


def _hwmon_rails(folder: str) -> List[Rail]:
    rails = []
    # The chip has three channels; in4 to in6 are the shunts' voltages and in7 is their sum.
    for channel in ("1", "2", "3"):
        name = text_or_none(os.path.join(folder, "in{}_label".format(channel)))
        is_on = text_or_none(os.path.join(folder, "in{}_enable".format(channel))) != "0"
        if name and name != "NC" and is_on:
            rails.append(
                Rail(
                    name,
                    _chip_of(folder),
                    None,
                    os.path.join(folder, "in{}_input".format(channel)),
                    os.path.join(folder, "curr{}_input".format(channel)),
                    number_or_none(os.path.join(folder, "shunt{}_resistor".format(channel))),
                )
            )
    return rails


def _chip_of(folder: str) -> str:
    """The chip's bus and address ("0-0041") of .../0-0041/iio:device1 or .../1-0040/hwmon/hwmon3."""
    parent = os.path.dirname(folder)
    return os.path.basename(os.path.dirname(parent) if os.path.basename(parent) == "hwmon" else parent)


def _shunt_of_device_tree_uohm(folder: str, channel: str) -> Optional[float]:
    """What the device tree says of a channel's shunt: mOhm as four bytes, the greatest first."""
    path = os.path.join(os.path.dirname(folder), "of_node/channel@{}/ti,shunt-resistor-mohm".format(channel))
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return None
    return 1e3 * int.from_bytes(content, "big") if len(content) == 4 and any(content) else None


def _quantum_mw(rail: Rail) -> Optional[float]:
    """What one step of the chip's current is at the voltage that the rail has now, mW."""
    voltage_mv = number_or_none(rail.voltage)
    if voltage_mv is None or rail.shunt_uohm is None or not rail.shunt_uohm > 0:
        return None
    step_ma = 1e3 * _SHUNT_STEP_UV / rail.shunt_uohm
    return voltage_mv * step_ma / 1e3
