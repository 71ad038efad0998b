import json
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bottlekit.device.errors import MeterError, ReadingError, UsageError
from bottlekit.device.meters import ina226_registers
from bottlekit.device.meters.ina226 import Ina226HwmonMeter, Ina226I2cMeter
from bottlekit.device.meters.ina226_registers import Ina226

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Clock, Ina226Bus, hwmon_ina226, write


@pytest.fixture
def bus():
    return Ina226Bus(Clock())


def meter_on(bus, shunt_ohm=0.01, **options):
    return Ina226I2cMeter(Ina226(shunt_ohm, bus, clock=bus.clock, sleep=bus.clock.sleep, **options))


def test_the_chip_is_reset_configured_and_calibrated(bus):
    with meter_on(bus) as meter:
        # 0x42df: 4 x 588 us for shunt and bus, continuous. 2048 = 0.00512 / (250 uA * 0.01 ohm).
        assert bus.written == [(0, 0x8000), (0, 0x42DF), (5, 2048)]
        assert meter.facts()["conversion_ms"] == pytest.approx(4.704)
        assert 1000 / meter.facts()["conversion_ms"] == pytest.approx(213, abs=0.5)
        assert meter.quantum == pytest.approx(6.25)
    assert not bus.closed


@pytest.mark.parametrize("amperes", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    ("shunt_ohm", "most_a"), [(0.002, None), (0.01, None), (0.01, 0.6), (0.1, None), (0.1, 0.6)]
)
def test_power_is_volts_times_amperes_to_one_step(shunt_ohm, amperes, most_a):
    bus = Ina226Bus(Clock(), shunt_ohm)
    bus.volts, bus.amperes = 12.0, amperes
    with meter_on(bus, shunt_ohm, max_current_a=most_a) as meter:
        # A step of the power, and one of the shunt's voltage.
        step_mw = meter.quantum + 2.5e-6 / shunt_ohm * 12e3
        assert meter.read()[0] == pytest.approx(12e3 * amperes, abs=step_mw)


@given(
    shunt_ohm=st.floats(1e-3, 1.0),
    part_of_range=st.floats(0.0, 0.999),
    volts=st.floats(0.0, 36.0),
    part_asked_for=st.one_of(st.none(), st.floats(0.07, 1.0)),
)
def test_power_is_within_its_steps_for_any_shunt(shunt_ohm, part_of_range, volts, part_asked_for):
    range_a = 0.08192 / shunt_ohm
    most_a = None if part_asked_for is None else part_asked_for * range_a
    bus = Ina226Bus(Clock(), shunt_ohm)
    bus.volts = volts
    bus.amperes = part_of_range * (most_a or range_a)
    with meter_on(bus, shunt_ohm, max_current_a=most_a) as meter:
        # A step of each: power, current (rounded down), shunt and bus voltage.
        step_a = meter.quantum / 25e3
        step_mw = meter.quantum + 1e3 * (volts * (step_a + 2.5e-6 / shunt_ohm) + 1.25e-3 * bus.amperes)
        assert meter.read()[0] == pytest.approx(1e3 * volts * bus.amperes, abs=step_mw)


# For some of these 0.00512 / (current step * shunt) comes out as 2047.9999.
@pytest.mark.parametrize("shunt_ohm", [0.001, 0.002, 0.0043, 0.005, 0.01, 0.02, 0.035, 0.068, 0.1, 0.14])
def test_the_whole_range_is_a_calibration_of_2048(shunt_ohm):
    bus = Ina226Bus(Clock(), shunt_ohm)
    with meter_on(bus, shunt_ohm):
        assert bus.calibration == 2048


def test_a_smaller_range_gives_a_finer_step_and_says_what_flows_beyond_it(bus):
    with meter_on(bus, max_current_a=1.0) as meter:
        assert meter.quantum == pytest.approx(25e3 / 2**15, rel=1e-4)
        bus.amperes = 1.1
        with pytest.raises(ReadingError, match="beyond its range of 1 A; raise the largest current"):
            meter.read()


def test_each_reading_waits_for_a_new_conversion(bus):
    with meter_on(bus) as meter:
        times_s = []
        for _ in range(5):
            meter.read()
            times_s.append(bus.clock.now_s)
    steps_s = [later - earlier for earlier, later in zip(times_s, times_s[1:])]
    assert all(4.704e-3 <= step_s <= 4.704e-3 * 1.06 for step_s in steps_s)


def test_the_registers_of_a_chip_after_reset_are_those_of_the_data_sheet(bus):
    assert bus.registers()[0] == 0x4127
    # 1.1 ms each, no averaging.
    assert bus.conversion_s() == pytest.approx(2.2e-3)


@pytest.mark.parametrize("identity", [(0x5449, 0x2270), (0xFFFF, 0xFFFF), (0, 0)])
def test_another_chip_is_refused(bus, identity):
    bus.identity = identity
    with pytest.raises(MeterError, match="at a bus, address 0x40 is no INA226: it calls itself 0x.*i2cdetect"):
        meter_on(bus).open()
    assert bus.written == []


def test_a_chip_that_does_not_keep_its_settings_is_refused(bus):
    bus.write_i2c_block_data = lambda *arguments: None
    with pytest.raises(
        MeterError, match="does not keep its settings: 0x42df was written to register 0, and 0x4127"
    ):
        meter_on(bus).open()


def test_a_chip_that_stops_converting(bus):
    with meter_on(bus) as meter:
        meter.read()
        bus.stuck = True
        with pytest.raises(ReadingError, match="stopped converting: nothing in 24 ms"):
            meter.read()


def test_a_shunt_the_other_way_round(bus):
    bus.amperes = -0.5
    with meter_on(bus) as meter:
        with pytest.raises(
            ReadingError, match="a current of -0.5 A, which is negative: the shunt is wired the other"
        ):
            meter.read()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shunt_ohm": None}, "needs the shunt's resistance in ohm over I2C, like 0.01, not None"),
        ({"shunt_ohm": 0}, "not 0"),
        ({"shunt_ohm": float("nan")}, "not nan"),
        ({"address": 0x50}, "an address from 0x40 to 0x4f, not 0x50"),
        ({"max_current_a": 9}, "9 A cannot be measured over a shunt of 0.01 ohm: choose 0.512 to 8.19 A"),
        ({"max_current_a": 0.5}, "0.5 A cannot be measured"),
        ({"max_current_a": -1}, "-1 A cannot be measured"),
        ({"max_current_a": float("nan")}, "nan A cannot be measured"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, complaint):
    with pytest.raises(UsageError) as caught:
        Ina226(**dict({"shunt_ohm": 0.01}, **options))
    assert complaint in str(caught.value)


def test_nobody_at_that_address(bus):
    with pytest.raises(MeterError, match="the meter ina226 cannot be used: Remote I/O error; look whether"):
        meter_on(bus, address=0x41).open()


def test_a_bus_that_breaks_during_the_measurement(bus):
    with meter_on(bus) as meter:
        bus.broken = OSError(121, "Remote I/O error")
        with pytest.raises(ReadingError, match="stopped during the measurement: Remote I/O error"):
            meter.read()


def test_no_permission_on_the_bus(bus):
    bus.broken = PermissionError(13, "Permission denied", "/dev/i2c-1")
    with pytest.raises(MeterError, match=r"/dev/i2c-1 Permission denied; type: sudo usermod -aG i2c \$USER"):
        meter_on(bus).open()


def smbus2_with(monkeypatch, make):
    class Module:
        SMBus = staticmethod(make)

    monkeypatch.setitem(sys.modules, "smbus2", Module)


def test_a_bus_by_number_is_opened_and_closed_again(bus, monkeypatch):
    numbers = []
    smbus2_with(monkeypatch, lambda number: numbers.append(number) or bus)
    chip = Ina226(0.01, 3, clock=bus.clock, sleep=bus.clock.sleep)
    with Ina226I2cMeter(chip, boundary="the whole board") as meter:
        assert meter.read() == (5000.0,)
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert numbers == [3]
    assert bus.closed
    assert facts["paths"] == ["/dev/i2c-3, address 0x40"]
    assert facts["boundary"] == "the whole board"
    assert facts["shunts_uohm"] == [10000.0]


def test_a_bus_that_does_not_exist_is_named(monkeypatch):
    def missing(number):
        raise FileNotFoundError(2, "No such file or directory")

    smbus2_with(monkeypatch, missing)
    with pytest.raises(MeterError, match="there is no I2C bus /dev/i2c-9; .*type: sudo modprobe i2c-dev"):
        Ina226I2cMeter(Ina226(0.01, 9)).open()


def test_a_bus_that_is_refused_names_the_group(monkeypatch):
    def refused(number):
        raise PermissionError(13, "Permission denied")

    smbus2_with(monkeypatch, refused)
    with pytest.raises(MeterError, match=r"/dev/i2c-1 Permission denied; type: sudo usermod -aG i2c \$USER"):
        Ina226I2cMeter(Ina226(0.01, 1)).open()


def test_without_smbus2_the_command_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(ina226_registers.importlib, "import_module", absent)
    with pytest.raises(MeterError, match="not installed; type: pip3 install smbus2"):
        Ina226I2cMeter(Ina226(0.01, 1)).open()


def test_hwmon_gives_microwatts(tmp_path):
    folder = hwmon_ina226(tmp_path, microwatts=4123456)
    with Ina226HwmonMeter(str(tmp_path)) as meter:
        assert meter.read() == (4123.456,)
        assert meter.rails == ("external",)
        # 25 x 250 uA at 1 V each.
        assert meter.quantum == pytest.approx(6.25)
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["driver"] == "ina2xx (hwmon), ina226"
    assert facts["paths"] == [str(folder / "power1_input")]
    assert facts["conversion_ms"] == 2.0


def test_one_of_several_must_be_chosen(tmp_path):
    hwmon_ina226(tmp_path, 0, "1-0040", 1000000)
    hwmon_ina226(tmp_path, 1, "1-0041", 2000000)
    hwmon_ina226(tmp_path, 2, "1-0042", 3000000, chip="ina219")
    with pytest.raises(UsageError, match="choose one: 1-0040, 1-0041$"):
        Ina226HwmonMeter(str(tmp_path)).open()
    with pytest.raises(UsageError, match="has no sensor 1-0042; there are: 1-0040, 1-0041"):
        Ina226HwmonMeter(str(tmp_path), "1-0042").open()
    with Ina226HwmonMeter(str(tmp_path), "1-0041") as meter:
        assert meter.read() == (2000.0,)


def test_no_chip_in_hwmon(tmp_path):
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "coretemp")
    with pytest.raises(MeterError, match="finds no ina226 or ina230 or ina231 in .*load its driver, or give"):
        Ina226HwmonMeter(str(tmp_path)).open()


def test_a_chip_that_vanishes_from_hwmon(tmp_path):
    folder = hwmon_ina226(tmp_path)
    with Ina226HwmonMeter(str(tmp_path)) as meter:
        (folder / "power1_input").unlink()
        with pytest.raises(ReadingError, match="power1_input No such file"):
            meter.read()
