import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.errors import ReadingError, UsageError
from bottlekit.device.meters.meter import Meter
from bottlekit.device.meters.sampler import Sampler
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Clock


class Counting(Meter):
    """Reads 1, 2, 3, ... mW, and 10 times that; what `script` holds for a reading happens before it."""

    name = "counting"
    rails = ("module", "wifi")
    boundary = "module"

    def __init__(self, script=None):
        super().__init__()
        self.script = script or {}
        self.count = 0

    def _values(self):
        self.count += 1
        what = self.script.get(self.count)
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            what(self)
        return (float(self.count), 10.0 * self.count)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_readings_are_taken_beside_the_work_with_their_times():
    with Counting() as meter:
        begin_s = time.monotonic()
        with Sampler(meter, 0.002) as sampler:
            wait_for(lambda: len(sampler.times_s) >= 20)
        end_s = time.monotonic()
        count = meter.count
        time.sleep(0.01)
        assert meter.count == count
    trace = sampler.trace()
    assert trace.values.tolist() == [
        [float(n) for n in range(1, count + 1)],
        [10.0 * n for n in range(1, count + 1)],
    ]
    assert begin_s <= trace.times_s[0] <= trace.times_s[-1] <= end_s
    assert np.all(np.diff(trace.times_s) > 0)
    assert (trace.rails, trace.kind) == (("module", "wifi"), "power")
    assert trace.meter["name"] == "counting"
    assert np.array_equal(PowerTrace.from_dict(trace.to_dict()).values, trace.values)


def sampled(reads_s, period_s, **options):
    """A sampler that is through: the n-th reading takes the n-th time, on a clock that only that moves."""
    clock = Clock()
    script = {count: lambda meter, s=s: clock.sleep(s) for count, s in enumerate(reads_s, 1)}

    def wait(seconds):
        clock.sleep(seconds)
        return meter.count == len(reads_s)

    with Counting(script) as meter, Sampler(meter, period_s, clock=clock, wait=wait, **options) as sampler:
        wait_for(lambda: not sampler._thread.is_alive())
    return sampler


def test_a_readings_time_is_the_middle_of_taking_it():
    sampler = sampled([0.25, 0.5, 0.0], 1.0)
    assert sampler.times_s == [100.125, 101.25, 102.0]


def test_readings_keep_their_pace_whatever_they_take():
    sampler = sampled([0.25, 0.75, 0.5, 0.25] * 50, 1.0)
    assert abs(sampler.times_s[-1] - (100.0 + 199.0 + 0.125)) < 1e-9


def test_a_reading_that_comes_late_is_not_made_up_for_by_a_burst():
    sampler = sampled([0.0, 4.5, 0.0, 0.0, 0.0], 1.0)
    # Taken from 101.0 to 105.5; the next at once, and then a period between them again.
    assert sampler.times_s == [100.0, 103.25, 105.5, 106.5, 107.5]
    assert sampler.gaps == []


def test_gaps_are_kept():
    sampler = sampled([0.0, 0.0, 20.0, 0.0, 0.0], 1.0)
    assert sampler.times_s == [100.0, 101.0, 112.0, 122.0, 123.0]
    assert sampler.gaps == [(101.0, 112.0), (112.0, 122.0)]
    assert sampled([0.0, 0.0, 20.0, 0.0, 0.0], 1.0, refresh_s=3.0).gaps == []


def test_a_slow_sensor_has_no_gaps_between_its_readings():
    def stamp(meter):
        meter.stamp_s = float(meter.count)

    with Counting(dict.fromkeys(range(1, 1000), stamp)) as meter:
        with Sampler(meter, 0.001, refresh_s=0.25) as sampler:
            wait_for(lambda: len(sampler.times_s) >= 4)
        assert sampler.gaps == []
        assert sampler.trace().refresh_s == 0.25
        with Sampler(meter, 0.001, refresh_s=0.1) as sampler:
            wait_for(lambda: len(sampler.times_s) >= 4)
        assert sampler.gaps[0][1] - sampler.gaps[0][0] == 1.0


def test_nothing_is_seen_more_often_than_it_is_read():
    with Counting() as meter:
        assert Sampler(meter, 0.01, refresh_s=0.00084).trace().refresh_s == 0.01
        assert Sampler(meter, 0.01).trace().refresh_s == 0.01


def test_the_same_stamp_is_the_same_reading():
    def stamp(meter):
        meter.stamp_s = 100.0 + meter.count // 4

    with Counting(dict.fromkeys(range(1, 1000), stamp)) as meter, Sampler(meter, 0.001) as sampler:
        wait_for(lambda: len(sampler.times_s) >= 4)
    assert sampler.times_s[:4] == [100.0, 101.0, 102.0, 103.0]
    assert sampler.values[0][:4] == [1.0, 4.0, 8.0, 12.0]


def test_a_sensor_that_stops_is_told_at_the_end_and_can_be_asked_for_before():
    asked = []

    def measure(meter):
        with Sampler(meter, 0.001) as sampler:
            asked.append(sampler)
            wait_for(lambda: not sampler._thread.is_alive())
            with pytest.raises(ReadingError):
                sampler.check()

    with Counting({4: OSError(19, "No such device")}) as meter:
        with pytest.raises(ReadingError, match="stopped during the measurement: No such device"):
            measure(meter)
        assert meter.count == 4
        assert asked[0].trace().values[0].tolist() == [1.0, 2.0, 3.0]


def test_stop_raises_it_as_well():
    with Counting({1: OSError(19, "No such device")}) as meter:
        sampler = Sampler(meter, 0.001)
        sampler.start()
        with pytest.raises(ReadingError, match="No such device"):
            sampler.stop()


def test_an_error_of_the_work_comes_first_and_the_thread_ends():
    def measure(meter):
        with Sampler(meter, 0.001) as sampler:
            wait_for(lambda: not sampler._thread.is_alive())
            raise KeyboardInterrupt

    with Counting({2: OSError(19, "No such device")}) as meter, pytest.raises(KeyboardInterrupt):
        measure(meter)
    assert "sampler" not in [thread.name for thread in threading.enumerate()]


def test_a_trace_can_be_had_while_it_runs():
    with Counting() as meter, Sampler(meter, 0.0005) as sampler:
        for _ in range(20):
            trace = sampler.trace()
            assert trace.values.shape == (2, trace.times_s.size)
            assert trace.values[0].tolist() == [float(n) for n in range(1, trace.times_s.size + 1)]
            time.sleep(0.001)


def test_no_readings_are_a_trace_too():
    with Counting() as meter:
        sampler = Sampler(meter, 1.0)
        assert sampler.trace().values.shape == (2, 0)
        sampler.stop()


@pytest.mark.parametrize("period_s", [0, -1, float("nan"), float("inf")])
def test_a_period_that_cannot_be_is_refused(period_s):
    with Counting() as meter, pytest.raises(UsageError, match="every so many seconds, more than 0"):
        Sampler(meter, period_s)
