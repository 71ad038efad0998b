import math

import pytest

from bottlekit.device.errors import MeterError, ReadingError
from bottlekit.device.meters.meter import Meter
from bottlekit.device.meters.none import NoMeter


class Listed(Meter):
    """A meter that reads what a list says."""

    name = "listed"
    rails = ("module", "wifi")
    boundary = "module"
    quantum = 8.0

    def __init__(self, *readings, **attributes):
        super().__init__()
        self.readings = list(readings)
        self.closed = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def _close(self):
        self.closed += 1

    def _values(self):
        value = self.readings.pop(0)
        if isinstance(value, Exception):
            raise value
        return value


def test_readings_are_one_value_a_rail():
    meter = Listed((4000.0, 0.0), (4100.0, 38.0))
    with meter:
        assert meter.read() == (4000.0, 0.0)
        assert meter.read() == (4100.0, 38.0)
    assert meter.closed == 1


@pytest.mark.parametrize(
    ("reading", "complaint"),
    [
        ((math.nan, 1.0), "listed: module reads nan mW, which cannot be"),
        ((4000.0, math.nan), "listed: wifi reads nan mW"),
        ((math.inf, 1.0), "listed: module reads inf mW"),
        ((-0.5, 1.0), "listed: module reads -0.5 mW"),
        ((1.0, -8.0), "listed: wifi reads -8 mW"),
    ],
)
def test_what_no_sensor_measures_is_refused(reading, complaint):
    with Listed(reading) as meter, pytest.raises(ReadingError) as caught:
        meter.read()
    assert complaint in str(caught.value)


def test_energy_that_comes_back_is_refused():
    with Listed((5.0, 1.0), (5.0, 1.0), (5.0, 0.5), kind="energy") as meter:
        meter.read()
        meter.read()
        with pytest.raises(ReadingError, match="the energy of wifi went back from 1 to 0.5 mJ"):
            meter.read()


def test_power_may_fall_and_energy_begins_anew_when_opened_again():
    with Listed((5.0, 1.0), (4.0, 0.0)) as meter:
        assert [meter.read(), meter.read()][1] == (4.0, 0.0)
    meter = Listed((5.0, 1.0), (0.0, 0.0), kind="energy")
    with meter:
        meter.read()
    with meter:
        assert meter.read() == (0.0, 0.0)


def test_a_sensor_that_vanishes_is_told_in_one_line():
    gone = OSError(19, "No such device", "/sys/x/in_power0_input")
    with Listed((1.0, 1.0), gone) as meter:
        meter.read()
        with pytest.raises(ReadingError) as caught:
            meter.read()
    assert str(caught.value) == (
        "the meter listed stopped during the measurement: /sys/x/in_power0_input No such device; look whether the "
        "sensor and its driver are still there, and measure again"
    )


def test_a_meter_is_read_while_it_is_open_only():
    meter = Listed((1.0, 1.0))
    with pytest.raises(MeterError, match="the meter listed is not open"):
        meter.read()
    with meter:
        pass
    with pytest.raises(MeterError, match="is not open"):
        meter.read()


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(5, "Input/output error"), MeterError), (ValueError("bug"), ValueError)]
)
def test_what_was_taken_is_let_go_when_it_cannot_be_opened(error, kind):
    class Broken(Listed):
        def _open(self):
            raise error

    meter = Broken()
    with pytest.raises(kind):
        meter.open()
    assert meter.closed == 1


def test_facts_have_their_units_in_their_names():
    assert Listed().facts() == {
        "name": "listed",
        "kind": "power",
        "rails": ["module", "wifi"],
        "boundary": "module",
        "quantum_mw": 8.0,
        "why_chosen": "asked for",
    }
    energy = Listed(kind="energy").facts()
    assert energy["quantum_mj"] == 8.0
    assert "quantum_mw" not in energy


def test_no_meter_measures_nothing_and_says_why():
    with NoMeter("there is no sensor") as meter:
        assert meter.read() == ()
        assert meter.facts()["reason"] == "there is no sensor"
        assert meter.facts()["rails"] == []
        assert meter.throttling() == ()
