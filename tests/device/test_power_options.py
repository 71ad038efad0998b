"""What a person asks for about power: its way as words, and what cannot be asked for."""

import json
import os
import sys

import pytest

from bottlekit.device.energy_effort import QUICK_ENERGY
from bottlekit.device.energy_phase import PowerRequest
from bottlekit.device.errors import MeterError, UnknownNameError, UsageError
from bottlekit.device.power_options import PowerOptions, sources_from_words

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "meters"))
from meter_doubles import rapl


def test_options_travel_as_words():
    options = PowerOptions(True, "ina226", ["i2c_bus=1", "shunt_ohm=0.01"], 0, True, True)
    assert options.words() == [
        "--power",
        "--meter",
        "ina226",
        "--meter-source",
        "i2c_bus=1",
        "--meter-source",
        "shunt_ohm=0.01",
        "--power-mode",
        "0",
        "--lock-clocks",
        "--quick",
    ]
    assert PowerOptions().words() == []
    assert PowerOptions(quick=True).given() == []
    assert PowerOptions(power_mode=3).given() == ["--power-mode"]


def test_a_request_survives_its_way_to_a_worker():
    request = PowerRequest("ina3221", "a test", {"rails": ["VDD_IN"], "processor": None}, QUICK_ENERGY)
    assert PowerRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_sources_are_numbers_truths_lists_or_texts():
    words = [
        "i2c_bus=1",
        "i2c_address=0x41",
        "shunt_ohm=0.01",
        "counter=false",
        "rails=VDD_IN,VDD_SYS_CPU",
        "root=/x",
    ]
    assert sources_from_words(words) == {
        "i2c_bus": 1,
        "i2c_address": 0x41,
        "shunt_ohm": 0.01,
        "counter": False,
        "rails": ["VDD_IN", "VDD_SYS_CPU"],
        "root": "/x",
    }


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["i2c_bus"], UsageError, "NAME=VALUE, not 'i2c_bus'; names: root"),
        (["bus=1"], UnknownNameError, "meter's source 'bus' does not exist; there are: root"),
        (["nvml=1"], UnknownNameError, "meter's source 'nvml' does not exist"),
    ],
)
def test_sources_that_nobody_knows_are_refused(words, error, message):
    with pytest.raises(error, match=message):
        sources_from_words(words)


def test_a_meter_is_chosen_before_anything_is_measured(tmp_path):
    nowhere = ["root=" + str(tmp_path)]
    assert PowerOptions().request([]) is None
    with pytest.raises(MeterError, match="the meter ina3221"):
        PowerOptions(True, "ina3221", nowhere).request([])
    for useless in (PowerOptions(meter="rapl"), PowerOptions(sources=["root=/"])):
        with pytest.raises(UsageError, match="is for --power, which measures energy; add it"):
            useless.request([])
    rapl(tmp_path)
    request = PowerOptions(True, "rapl", ["root=" + str(tmp_path)], quick=True).request([])
    assert (request.meter, request.effort.indicative) == ("rapl", True)


def test_a_profile_tells_what_was_asked_for():
    assert PowerOptions().told(None, {"clocks_locked": False}) is None
    assert PowerOptions(lock_clocks=True).told(None, {"clocks_locked": True}) == {
        "power_mode": {"clocks_locked": True}
    }
    asked = PowerRequest("double", "a test", {}, QUICK_ENERGY)
    told = PowerOptions(True, "double").told(asked, {"clocks_locked": False})
    assert (told["meter"], told["why_chosen"], told["effort"]["run_s"]) == ("double", "a test", QUICK_ENERGY.run_s)
