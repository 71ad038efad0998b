"""What a machine tells of its clocks and temperatures, from trees of files like those of /sys."""

import json

import pytest

from bottlekit.device.conditions import ThrottleWatch, conditions


@pytest.fixture
def tree(tmp_path):
    """A function that writes files below a root: tree(**{"sys/a/b": "text"}) -> root"""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n".format(text))
        return str(tmp_path)

    return write


CPU = "sys/devices/system/cpu/cpu{}/"
TX2 = {
    "sys/class/thermal/thermal_zone0/type": "BCPU-therm",
    "sys/class/thermal/thermal_zone0/temp": "41500",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm",
    "sys/class/thermal/thermal_zone1/temp": "39000",
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die",
    "sys/class/thermal/thermal_zone2/temp": "-256000",
    "sys/class/thermal/cooling_device0/type": "cpu-balanced",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/thermal/cooling_device1/type": "pwm-fan",
    "sys/class/thermal/cooling_device1/cur_state": "3",
    CPU.format(0) + "cpufreq/scaling_cur_freq": "2035200",
    CPU.format(0) + "cpufreq/scaling_max_freq": "2035200",
    CPU.format(3) + "cpufreq/scaling_cur_freq": "345600",
    "sys/class/devfreq/17000000.gp10b/cur_freq": "1300500000",
}


def test_clocks_and_temperatures_are_told(tree):
    told = conditions(tree(TX2))
    assert told["temperatures_c"] == {"BCPU-therm": 41.5, "GPU-therm": 39.0}
    assert told["cpu_khz"] == {"cur": [345600.0, 2035200.0], "min": [], "max": [2035200.0]}
    assert told["other_hz"] == {"17000000.gp10b": 1300500000.0}
    # A fan that turns slows nothing down.
    assert told["throttling"] == []
    json.dumps(told, allow_nan=False)


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path):
    told = conditions(str(tmp_path))
    assert (told["temperatures_c"], told["other_hz"], told["throttling"]) == ({}, {}, [])
    assert ThrottleWatch(str(tmp_path)).since() == []


def test_a_device_that_slows_the_processor_down_is_seen_while_it_does(tree):
    root = tree(TX2)
    watch = ThrottleWatch(root)
    assert watch.since() == []
    tree({"sys/class/thermal/cooling_device0/cur_state": "2"})
    assert watch.since() == ["cpu-balanced is at step 2"]
    assert watch.since() == ["cpu-balanced is at step 2"]
    tree({"sys/class/thermal/cooling_device0/cur_state": "0"})
    assert watch.since() == []


def test_thermal_events_between_two_looks_are_seen_once(tree):
    counters = {CPU.format(i) + "thermal_throttle/package_throttle_count": "7" for i in range(2)}
    watch = ThrottleWatch(tree(counters))
    assert watch.since() == []
    tree(dict.fromkeys(counters, "8"))
    assert watch.since() == ["thermal events of the processor (package_throttle_count)"]
    assert watch.since() == []


@pytest.mark.parametrize("broken", ["", "hot", "nan"])
def test_files_that_hold_no_number_are_left_out(tree, broken):
    root = tree(dict(TX2, **{"sys/class/thermal/thermal_zone0/temp": broken}))
    assert conditions(root)["temperatures_c"] == {"GPU-therm": 39.0}
