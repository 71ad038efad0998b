import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.errors import MeterError, ReadingError, UsageError
from bottlekit.device.meters.replay import ReplayMeter
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Clock


def trace(times_s=(7.0, 7.5, 9.0), values=((10.0, 20.0, 30.0), (1.0, 2.0, 3.0)), kind="power"):
    return PowerTrace(
        np.array(times_s),
        np.array(values),
        ("VDD_IN", "VDD_4V0_WIFI")[: len(values)],
        kind,
        0.5,
        {"name": "ina3221", "boundary": "module (VDD_IN)", "quantum_mw": 8.0},
    )


def test_readings_come_at_the_pace_they_were_recorded_with_their_times():
    clock = Clock()
    with ReplayMeter(trace(), clock) as meter:
        begin_s = clock.now_s
        said = []
        for _ in range(10):
            said.append((meter.read()[0], meter.stamp_s - begin_s))
            clock.sleep(0.3)
    assert said == [(10.0, 0.0)] * 2 + [(20.0, 0.5)] * 5 + [(30.0, 2.0)] * 3


def test_it_measures_what_the_recorded_meter_measured():
    with ReplayMeter(trace(kind="energy"), Clock()) as meter:
        assert meter.kind == "energy"
        assert meter.rails == ("VDD_IN", "VDD_4V0_WIFI")
        assert meter.boundary == "replayed: module (VDD_IN)"
        assert meter.read() == (10.0, 1.0)
    with ReplayMeter(trace(), Clock()) as meter:
        facts = json.loads(json.dumps(meter.facts(), allow_nan=False))
    assert facts["quantum_mw"] == 8.0
    assert facts["recorded_from"]["name"] == "ina3221"


def test_after_the_last_reading_it_is_over():
    clock = Clock()
    with ReplayMeter(trace(), clock) as meter:
        # The last counts as long as the one before it: 1.5 s.
        clock.sleep(3.5)
        assert meter.read()[0] == 30.0
        clock.sleep(0.01)
        with pytest.raises(ReadingError, match="the recording a trace in memory is over after 2.0 s"):
            meter.read()
    with meter:
        assert meter.read()[0] == 10.0


def test_a_recording_of_one_reading_lasts_one_refresh():
    clock = Clock()
    with ReplayMeter(trace([3.0], [[10.0]]), clock) as meter:
        clock.sleep(0.5)
        assert meter.read() == (10.0,)
        clock.sleep(0.01)
        with pytest.raises(ReadingError, match="is over after 0.0 s"):
            meter.read()


def test_a_file_is_played(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(trace().to_dict()))
    with ReplayMeter(str(path), Clock()) as meter:
        assert meter.read() == (10.0, 1.0)
        assert meter.facts()["recording"] == str(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no power trace at .*: the file does not exist"),
        ("{", "is no readable power trace"),
        ("{}", "lacks kind"),
        (json.dumps(dict(trace().to_dict(), times_s=[1, 1, 2])), "its times must go on"),
        (json.dumps(dict(trace().to_dict(), times_s=[1, 3, 2])), "its times must go on"),
        (json.dumps(dict(trace().to_dict(), times_s=[], values=[[], []])), "there must be at least one"),
    ],
)
def test_a_recording_that_cannot_be_played_is_refused(tmp_path, content, complaint):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MeterError, match="the meter replay cannot play .*" + complaint):
        ReplayMeter(str(path)).open()


def test_it_needs_a_recording():
    with pytest.raises(UsageError, match="the meter replay needs a recording"):
        ReplayMeter()
