import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.errors import UnknownNameError, UsageError
from bottlekit.device.meters.choose import METER_NAMES, list_meters, meter_from_name
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Clock, Ina226Bus, Nvml, hwmon_ina226, rapl, tx2_iio

TRACE = PowerTrace(np.array([0.0, 99.0]), np.array([[1.0, 2.0]]), ("VDD_IN",), "power", 99.0, {})
# What a machine without jetson-stats says.
NO_JTOP = [sys.executable, "-c", 'print(\'{"event": "error", "kind": "ImportError", "message": "no jtop"}\')']
JTOP = [
    sys.executable,
    "-c",
    'import time; print(\'{"event": "started", "version": "4", "boundary": "VDD_IN", "rails": []}\'); '
    'print(\'{"event": "reading", "time_s": %r, "total_mw": 4, "rails_mw": []}\' % time.monotonic(), '
    "flush=True); time.sleep(60)",
]


def broken_nvml():
    nvml = Nvml()
    nvml.fails = 9
    return nvml


def here(root, **sources):
    """A machine with nothing but what is given."""
    return dict({"root": str(root), "nvml": broken_nvml(), "jtop_command": NO_JTOP}, **sources)


def chosen(root, **sources):
    return meter_from_name("auto", **here(root, **sources))


def test_a_jetson_is_measured_directly(tmp_path):
    tx2_iio(tmp_path)
    rapl(tmp_path)
    meter = chosen(tmp_path, nvml=Nvml(), jtop_command=JTOP)
    assert meter.name == "ina3221"
    assert meter.facts()["why_chosen"] == "auto: the first of ina3221, jtop, nvml, rapl that works"
    with meter:
        assert meter.read()[0] == 4119.0


def test_a_jetson_that_refuses_is_measured_through_jtop(tmp_path):
    assert chosen(tmp_path, jtop_command=JTOP).name == "jtop"


def test_a_gpu_goes_before_the_processor_unless_one_is_named(tmp_path):
    rapl(tmp_path)
    assert chosen(tmp_path, nvml=Nvml()).name == "nvml"
    assert chosen(tmp_path, nvml=Nvml(), processor="gpu").name == "nvml"
    cpu = chosen(tmp_path, nvml=Nvml(), processor="cpu")
    assert cpu.name == "rapl"
    assert cpu.why_chosen == "auto: the first of ina3221, jtop, rapl that works"


def test_a_meter_of_another_processor_is_never_taken(tmp_path):
    assert chosen(tmp_path, nvml=Nvml(), processor="cpu").name == "none"
    rapl(tmp_path)
    assert chosen(tmp_path, processor="gpu").name == "none"
    with pytest.raises(UsageError, match="runs on a cpu or a gpu, not on 'npu'"):
        chosen(tmp_path, processor="npu")


def test_an_external_sensor_is_never_guessed(tmp_path):
    hwmon_ina226(tmp_path)
    assert chosen(tmp_path).name == "none"
    with meter_from_name("ina226", root=str(tmp_path)) as meter:
        assert meter.read() == (5000.0,)


def test_where_nothing_works_every_reason_is_kept(tmp_path):
    meter = chosen(tmp_path)
    assert meter.name == "none"
    assert meter.why_chosen == "auto: none of ina3221, jtop, nvml, rapl works"
    reason = meter.facts()["reason"]
    for words in ("ina3221 finds no rails", "no jtop", "Driver Not Loaded", "rapl finds no processor package"):
        assert words in reason
    assert "\n" not in reason


def test_every_name_makes_its_meter(tmp_path):
    given = here(tmp_path, trace=TRACE)
    assert [meter_from_name(name, **given).name for name in METER_NAMES] == list(METER_NAMES)


def test_a_bus_makes_it_i2c():
    bus = Ina226Bus(Clock(tick_s=0.0))
    bus.stuck = False
    meter = meter_from_name("ina226", i2c_bus=bus, shunt_ohm=0.01, external_boundary="the board's 5 V")
    with meter:
        bus.clock.sleep(1.0)
        assert meter.read() == (5000.0,)
        assert meter.boundary == "the board's 5 V"
    with pytest.raises(UsageError, match="needs the shunt's resistance"):
        meter_from_name("ina226", i2c_bus=bus)


def test_an_unknown_meter_is_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match="meter 'ina219' does not exist; there are: auto, ina3221, ina226"):
        meter_from_name("ina219")


def test_the_list_says_what_there_is_and_why_the_rest_is_not(tmp_path):
    tx2_iio(tmp_path)
    rows = json.loads(json.dumps(list_meters(**here(tmp_path, nvml=Nvml())), allow_nan=False))
    assert [row["name"] for row in rows] == list(METER_NAMES)
    by_name = {row["name"]: row for row in rows}
    assert {name for name, row in by_name.items() if row["available"]} == {"ina3221", "nvml", "none"}
    assert [name for name, row in by_name.items() if row["auto"]] == ["ina3221"]
    assert by_name["ina3221"]["rails"][0] == "VDD_IN"
    assert by_name["ina3221"]["boundary"] == "module (VDD_IN)"
    assert by_name["nvml"]["kind"] == "power"
    assert by_name["rapl"]["why_not"].startswith("the meter rapl finds no processor package")
    assert by_name["replay"]["why_not"].startswith("the meter replay needs a recording")
    assert all((row["why_not"] is None) == row["available"] for row in rows)
    assert len({frozenset(row) for row in rows}) == 1


def test_the_list_takes_what_auto_takes(tmp_path):
    rapl(tmp_path)
    for sources in ({}, {"nvml": Nvml()}, {"nvml": Nvml(), "processor": "cpu"}, {"processor": "gpu"}):
        given = here(tmp_path, **sources)
        marked = [row["name"] for row in list_meters(**given) if row["auto"]]
        assert marked == [meter_from_name("auto", **given).name]


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"shunt_ohm": "10m"}, "a meter's shunt_ohm must be a number of ohms, not '10m'"),
        ({"shunt_ohm": True}, "must be a number of ohms, not True"),
        ({"i2c_bus": "one"}, "a meter's i2c_bus must be the number of a bus, not 'one'"),
        ({"i2c_bus": True}, "i2c_bus must be the number of a bus, not True"),
        ({"gpu": "a"}, "a meter's gpu must be a GPU's number, not 'a'"),
        ({"gpu": 0.5}, "a meter's gpu must be a GPU's number, not 0.5"),
        ({"counter": 1}, "a meter's counter must be true or false, not 1"),
        ({"rails": "VDD_IN"}, "a meter's rails must be a list of rails, not 'VDD_IN'"),
        ({"trace": 5}, "a meter's trace must be the name of a file, not 5"),
        ({"hwmon_device": 1}, "a meter's hwmon_device must be a bus and an address, like 1-0040, not 1"),
        ({"jtop_interval_s": "fast"}, "a meter's jtop_interval_s must be a number of seconds"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "ina226", "none"])
def test_sources_of_the_wrong_kind_are_refused(name, sources, complaint):
    with pytest.raises(UsageError) as caught:
        meter_from_name(name, **sources)
    assert complaint in str(caught.value)
    with pytest.raises(UsageError):
        list_meters(**sources)
