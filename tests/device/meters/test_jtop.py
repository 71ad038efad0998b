import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import bottlekit.device as devices
from bottlekit.device.children import child_environment
from bottlekit.device.errors import MeterError, ReadingError, UsageError
from bottlekit.device.meters.jtop import JtopMeter
from bottlekit.device.meters.refresh import measured_refresh

DOUBLE = str(Path(__file__).parent / "jtop_double")


@pytest.fixture
def jtop(monkeypatch):
    """A function that makes a meter whose real child process finds the double of jetson-stats.

    The double's pace does not depend on the interval, which decides how long a silence is taken for a machine that
    is busy.
    """
    monkeypatch.setenv("PYTHONPATH", DOUBLE)

    def make(interval_s=30.0, **behaviour):
        monkeypatch.setenv("JTOP_DOUBLE", json.dumps(behaviour))
        return JtopMeter(interval_s, start_timeout_s=60.0)

    return make


def until(meter, condition, seconds=60.0):
    """Read until the condition holds of a reading, and return that reading."""
    deadline = time.monotonic() + seconds
    while True:
        values = meter.read()
        if condition(values):
            return values
        assert time.monotonic() < deadline
        time.sleep(0.002)


def failure(meter, seconds=60.0):
    """Read until it fails, and return the failure's words."""
    with pytest.raises(ReadingError) as caught:
        until(meter, lambda values: False, seconds)
    return str(caught.value)


def test_the_modules_input_is_the_first_rail_again_and_no_average_is_used(jtop):
    with jtop() as meter:
        assert meter.rails == ("VDD_IN", "VDD_4V0_WIFI", "VDD_SYS_CPU")
        assert meter.boundary == "module (VDD_IN)"
        # The double counts its readings in the total; its average would be half of that at first.
        values = until(meter, lambda values: values[0] >= 4003.0)
        assert values[0] < 40000.0
        assert values[1:] == (38.0, 457.0)
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["driver"] == "jetson-stats 4.3.2"
    assert "AGPL-3.0" in facts["licence"]
    assert facts["interval_s"] == 30.0
    assert JtopMeter().facts()["interval_s"] == 0.5


def test_this_process_never_imports_it(jtop):
    with jtop() as meter:
        meter.read()
    assert "jtop" not in sys.modules


def test_a_reading_has_the_time_when_it_arrived(jtop):
    before_s = time.monotonic()
    with jtop(pace_s=0.05) as meter:
        first = meter.read()
        first_s = meter.stamp_s
        assert before_s < first_s <= time.monotonic()
        # The same reading keeps its time.
        second = until(meter, lambda values: values != first)
        assert second[0] >= first[0] + 1
        assert meter.stamp_s - first_s >= 0.05 * 0.99


def test_a_board_without_a_rail_for_the_module_says_what_the_total_is(jtop):
    with jtop(no_module_rail=True) as meter:
        assert meter.rails == ("sum of all rails", "VDD_4V0_WIFI", "VDD_SYS_CPU")
        assert meter.boundary == "sum of all rails, as jtop adds them up"
        assert meter.read() == (495.0, 38.0, 457.0)


def test_a_service_that_stops_in_silence_is_found(jtop):
    with jtop(ends_after=3) as meter:
        words = failure(meter)
    assert words == (
        "the meter jtop stopped after 3 readings: its service stopped; type: sudo systemctl restart jtop.service, "
        "and measure again"
    )


def test_a_process_that_dies_is_found(jtop):
    with jtop(dies_after=2) as meter:
        assert "stopped after 2 readings: its process ended with status 139" in failure(meter)


def test_a_process_that_hangs_is_found(jtop):
    started_s = time.monotonic()
    with jtop(0.5, hangs_after=2) as meter:
        assert re.search(r"has said nothing for \d+\.\d s; type: sudo systemctl restart", failure(meter))
        # After three intervals of 0.5 s, jtop itself would have ended.
        assert time.monotonic() - started_s > 1.5


def test_the_child_ends_with_the_meter(jtop):
    meter = jtop()
    with meter:
        process = meter._process
        assert process.poll() is None
    assert process.poll() == -signal.SIGTERM
    with meter:
        assert meter.read()[0] > 4000.0


def test_its_refresh_is_that_of_its_times(jtop):
    with jtop(pace_s=0.02) as meter:
        said = measured_refresh(meter, 2.0)
    assert said["refresh_ms"] > 19.9
    # More readings than there were news.
    assert said["readings"] > said["changes"]


def test_the_child_is_found_in_the_agents_one_file(jtop, tmp_path):
    package = Path(devices.__file__).parent.parent
    agent = tmp_path / "agent.pyz"
    with zipfile.ZipFile(str(agent), "w") as archive:
        for source in [package / "__init__.py"] + sorted((package / "device").rglob("*.py")):
            archive.write(str(source), str(Path("bottlekit") / source.relative_to(package)))
    jtop()
    program = (
        "from bottlekit.device.meters.jtop import JtopMeter, __file__ as here\n"
        "with JtopMeter() as meter: print(here, meter.rails[0], meter.read()[0] > 4000)"
    )
    said = subprocess.check_output(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(agent), DOUBLE])),
        cwd=str(tmp_path),
    )
    assert said.decode("utf-8").split() == [
        str(agent / "bottlekit/device/meters/jtop.py"),
        "VDD_IN",
        "True",
    ]


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        (
            {"missing": True},
            "jetson-stats is not installed (No module named 'jtop'); type: sudo pip3 install ",
        ),
        (
            {"refuses": "The jtop.service is not active. Please run:\nsudo systemctl restart jtop.service"},
            "jtop.service is not running; type: sudo systemctl restart jtop.service",
        ),
        (
            {
                "refuses": "Mismatch version jtop service: [4.2.7] and client: [4.3.2]. Please run:\n\n"
                "sudo systemctl restart jtop.service"
            },
            "Mismatch version jtop service: [4.2.7] and client: [4.3.2]; type: sudo pip3 install "
            "jetson-stats==4.2.7, and then: sudo systemctl restart jtop.service",
        ),
        (
            {"refuses": "I can't access jtop.service.\nPlease logout or reboot this board."},
            "this user may not talk to jtop.service; type: sudo usermod -aG jtop $USER, and log in again",
        ),
        ({"refuses": "Something new"}, "JtopException: Something new"),
        (
            {"power": {}},
            "this version of jetson-stats tells power in another form (KeyError: 'tot'); type: sudo pip",
        ),
        ({"power": [1, 2]}, "this version of jetson-stats tells power in another form (TypeError"),
        ({"power": {"tot": {"power": "4 W"}, "rail": {}}}, "it said what cannot be understood (ValueError"),
        ({"power": {"tot": {"power": None}, "rail": {}}}, "it said what cannot be understood (TypeError"),
        ({"ends_after": 0}, "its service stopped"),
        ({"dies_after": 0}, "its process ended with status 139"),
    ],
)
def test_what_is_wrong_with_it_is_one_line_that_says_what_to_type(jtop, behaviour, complaint):
    meter = jtop(**behaviour)
    with pytest.raises(MeterError) as caught:
        meter.open()
    assert str(caught.value).startswith("the meter jtop cannot be used: " + complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("power", [-5, float("nan")])
def test_readings_that_cannot_be_are_refused(jtop, power):
    with jtop(power={"tot": {"power": power, "name": "VDD_IN"}, "rail": {}}) as meter:
        with pytest.raises(ReadingError, match="VDD_IN reads .* mW, which cannot be"):
            meter.read()


def child(program):
    return [sys.executable, "-c", program]


def test_a_child_that_says_nothing(tmp_path):
    meter = JtopMeter(command=child("import time; time.sleep(60)"), start_timeout_s=0.3)
    with pytest.raises(MeterError, match="got no reading in 0.3 s; type: sudo systemctl restart jtop.service"):
        meter.open()


def test_a_child_that_cannot_be_started():
    with pytest.raises(MeterError, match="cannot be used: .*no/such/python"):
        JtopMeter(command=[os.path.join(os.sep, "no", "such", "python")]).open()


STARTED = {"event": "started", "version": "4.3.2", "boundary": "VDD_IN", "rails": ["A"]}
READING = {"event": "reading", "time_s": 1.0, "total_mw": 5, "rails_mw": [1]}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["no JSON"], "it said what cannot be understood"),
        (["[]"], "it said what cannot be understood"),
        ([json.dumps(READING)], "it said what cannot be understood (KeyError: 'rails')"),
        ([json.dumps(STARTED), json.dumps(dict(READING, rails_mw=[1, 2]))], "its rails changed"),
    ],
)
def test_what_is_no_answer_is_refused(lines, complaint):
    meter = JtopMeter(command=child("print({!r})".format("\n".join(lines))))
    with pytest.raises(MeterError) as caught:
        meter.open()
    assert complaint in str(caught.value)


@pytest.mark.parametrize("interval_s", [0.1, 0, -1, float("nan"), float("inf")])
def test_an_interval_below_what_its_author_advises_is_refused(interval_s):
    with pytest.raises(UsageError, match="jtop's interval must be 0.5 s or more"):
        JtopMeter(interval_s)


def test_the_child_ends_when_nobody_listens(jtop):
    jtop()
    module = JtopMeter.__module__ + "_child"
    process = subprocess.Popen(
        [sys.executable, "-m", module, "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    assert json.loads(process.stdout.readline().decode("utf-8"))["event"] == "started"
    # As when the parent was killed.
    process.stdout.close()
    assert process.wait(60) == 0
    # Nothing but what jtop printed.
    assert process.stderr.read().split() == b"jtop is here".split()
    process.stderr.close()
