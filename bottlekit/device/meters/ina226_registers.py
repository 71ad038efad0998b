"""An INA226 behind its registers, as its data sheet has them.

::

    0 configuration   averaging, conversion times, mode      4 current      LSB chosen by the calibration
    1 shunt voltage   2.5 uV                                 5 calibration  0.00512 / (current LSB * shunt)
    2 bus voltage     1.25 mV                                6 mask         CVRF bit 3, overflow bit 2
    3 power           25 current LSBs                        FE, FF         manufacturer 0x5449, die 0x2260
"""

import importlib
import time
from typing import Any, Callable, Optional

from ..errors import MeterError, ReadingError, UsageError

_CONFIGURATION, _POWER, _CURRENT, _CALIBRATION, _MASK = 0, 3, 4, 5, 6
_MANUFACTURER, _DIE = 0xFE, 0xFF
_TEXAS_INSTRUMENTS, _INA226 = 0x5449, 0x2260
_READY, _OVERFLOW = 1 << 3, 1 << 2
_RESET = 0x8000

# Four conversions of 588 us for the shunt and for the bus, without a pause: 213 readings a second.
_SETTING = 0x4000 | 1 << 9 | 3 << 6 | 3 << 3 | 7
_AVERAGED, _CONVERSION_US = 4, 588
# The largest voltage over the shunt, and the largest calibration.
_SHUNT_RANGE_V = 0.08192
_MOST_CALIBRATION = 0x7FFF
# How many conversions' time may pass without one before the chip counts as stopped.
_PATIENCE = 5.0


class Ina226:
    """The chip: configured, calibrated, checked, then read once a conversion.

    Args:
        shunt_ohm: the shunt's resistance.
        bus: smbus2's SMBus or what behaves like it, or the number of the I2C bus.
        address: the chip's, 0x40 to 0x4f.
        max_current_a: the largest current expected; less than the range of the chip gives a finer power. None for
            the whole range, 81.92 mV over the shunt.
    """

    def __init__(
        self,
        shunt_ohm: Optional[float],
        bus: Any = 1,
        address: int = 0x40,
        max_current_a: Optional[float] = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if shunt_ohm is None or not 0 < shunt_ohm < 100:
            raise UsageError(
                "the meter ina226 needs the shunt's resistance in ohm over I2C, like 0.01, not {}".format(shunt_ohm)
            )
        if not 0x40 <= address <= 0x4F:
            raise UsageError("an INA226 has an address from 0x40 to 0x4f, not {:#x}".format(address))
        range_a = _SHUNT_RANGE_V / shunt_ohm
        most_a = range_a if max_current_a is None else max_current_a
        calibration = _calibration(most_a, shunt_ohm) if 0 < most_a <= range_a else 0
        if not 0 < calibration <= _MOST_CALIBRATION:
            raise UsageError(
                "{:g} A cannot be measured over a shunt of {:g} ohm: choose {:.3g} to {:.3g} A, or another "
                "shunt".format(most_a, shunt_ohm, range_a * 2048 / _MOST_CALIBRATION, range_a)
            )
        self.shunt_ohm = shunt_ohm
        self.where = "{}, address {:#x}".format("/dev/i2c-{}".format(bus) if _is_number(bus) else "a bus", address)
        self.conversion_ms = 2 * _AVERAGED * _CONVERSION_US / 1e3
        self._calibration = calibration
        # The chip takes whole calibrations only, so the steps follow from what it really holds.
        self._current_step_a = 0.00512 / (calibration * shunt_ohm)
        self.power_step_mw = 25e3 * self._current_step_a
        self._given = bus
        self._address = address
        self._bus: Any = None
        self._clock = clock
        self._sleep = sleep

    def open(self) -> None:
        """Reset, configure and calibrate the chip, and see that it took that; MeterError where it is no INA226."""
        if self._bus is None:
            self._bus = _open_bus(self._given) if _is_number(self._given) else self._given
        found = (self._get(_MANUFACTURER), self._get(_DIE))
        if found != (_TEXAS_INSTRUMENTS, _INA226):
            raise MeterError(
                "at {} is no INA226: it calls itself {:#06x}, {:#06x} rather than {:#06x}, {:#06x}; look at the "
                "address, `i2cdetect -y BUS` shows those that answer".format(
                    self.where, found[0], found[1], _TEXAS_INSTRUMENTS, _INA226
                )
            )
        self._put(_CONFIGURATION, _RESET)
        for register, value in ((_CONFIGURATION, _SETTING), (_CALIBRATION, self._calibration)):
            self._put(register, value)
            kept = self._get(register)
            if kept != value:
                raise MeterError(
                    "the INA226 at {} does not keep its settings: {:#06x} was written to register {}, and {:#06x} "
                    "is there; look at its wiring, and whether a driver holds it".format(
                        self.where, value, register, kept
                    )
                )

    def close(self) -> None:
        """Close the bus, if it was opened here."""
        if self._bus is not None and _is_number(self._given):
            self._bus.close()
        self._bus = None

    def power_mw(self) -> float:
        """Wait for the next conversion and return its power, mW; ReadingError where it is none."""
        self._wait()
        power, current = self._get(_POWER), self._get(_CURRENT)
        # The power register has no sign; the current is a two's complement.
        if current & 0x8000:
            raise ReadingError(
                "the INA226 at {} sees a current of {:.3g} A, which is negative: the shunt is wired the other way "
                "round".format(self.where, (current - 0x10000) * self._current_step_a)
            )
        return power * self.power_step_mw

    def _wait(self) -> None:
        """Until a conversion is ready, which reading the mask register acknowledges."""
        deadline_s = self._clock() + _PATIENCE * self.conversion_ms / 1e3
        while True:
            mask = self._get(_MASK)
            if mask & _OVERFLOW:
                raise ReadingError(
                    "the current through the INA226 at {} is beyond its range of {:.3g} A; raise the largest "
                    "current, or take a smaller shunt".format(self.where, self._current_step_a * 2**15)
                )
            if mask & _READY:
                return
            if self._clock() >= deadline_s:
                raise ReadingError(
                    "the INA226 at {} stopped converting: nothing in {:.0f} ms; something else changed its "
                    "settings, or its supply failed".format(self.where, _PATIENCE * self.conversion_ms)
                )
            self._sleep(self.conversion_ms / 20e3)

    def _get(self, register: int) -> int:
        """A register of 16 bits; the chip sends the greater byte first."""
        high, low = self._bus.read_i2c_block_data(self._address, register, 2)
        return int(high) << 8 | int(low)

    def _put(self, register: int, value: int) -> None:
        self._bus.write_i2c_block_data(self._address, register, [value >> 8, value & 0xFF])


def _calibration(most_a: float, shunt_ohm: float) -> int:
    """The whole number below 0.00512 / (current LSB * shunt); a hair more, as 2048 may come out as 2047.9999."""
    return int(0.00512 / (most_a / 2**15 * shunt_ohm) + 1e-6)


def _is_number(bus: Any) -> bool:
    return isinstance(bus, int)


def _open_bus(bus: int) -> Any:
    """SMBus number `bus` of smbus2; MeterError where it is not installed. The system's refusals are OSErrors."""
    try:
        smbus2: Any = importlib.import_module("smbus2")
    except ImportError:
        raise MeterError(
            "the meter ina226 reads I2C through smbus2, which is not installed; type: pip3 install smbus2"
        )
    try:
        return smbus2.SMBus(bus)
    except FileNotFoundError:
        raise MeterError(
            "there is no I2C bus /dev/i2c-{0}; `ls /dev/i2c-*` shows those there are; where it shows none "
            "type: sudo modprobe i2c-dev".format(bus)
        )
    except OSError as error:
        error.filename = error.filename or "/dev/i2c-{}".format(bus)
        raise
