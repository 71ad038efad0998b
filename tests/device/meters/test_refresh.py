import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.errors import ReadingError
from bottlekit.device.meters.meter import Meter
from bottlekit.device.meters.refresh import measured_refresh

sys.path.insert(0, str(Path(__file__).parent))
from meter_doubles import Clock


class Refreshing(Meter):
    """A sensor that has a new random value every `refresh_s`, and takes `read_s` to be read."""

    name = "refreshing"
    rails = ("module", "gpu")

    def __init__(self, clock, refresh_s, read_s=0.0001, quantum_mw=1.0, jitter=0.0, stamped=False):
        super().__init__()
        random = np.random.RandomState(3)
        steps_s = refresh_s * (1 + jitter * random.uniform(-1, 1, 20000))
        self.changes_s = clock.now_s + np.cumsum(steps_s)
        self.powers_mw = np.round(random.uniform(3000, 9000, 20001) / quantum_mw) * quantum_mw
        self.clock = clock
        self.read_s = read_s
        self.stamped = stamped

    def _values(self):
        self.clock.sleep(self.read_s)
        index = int(np.searchsorted(self.changes_s, self.clock.now_s))
        if self.stamped:
            self.stamp_s = float(self.changes_s[max(index - 1, 0)])
        # Another rail that changes with every reading must not count.
        return (float(self.powers_mw[index]), self.clock.now_s)


def measure(refresh_s, **options):
    clock = Clock()
    with Refreshing(clock, refresh_s, **options) as meter:
        return measured_refresh(meter, 2.0, clock, clock.sleep)


@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("refresh_ms", [2.0, 5.0, 20.0, 100.0])
def test_the_interval_between_changes_is_found(refresh_ms, jitter):
    said = measure(refresh_ms / 1e3, jitter=jitter)
    assert said["refresh_ms"] == pytest.approx(refresh_ms, abs=0.3 + 0.2 * jitter * refresh_ms)
    assert said["why_not"] is None
    assert said["changes"] == pytest.approx(2000 / refresh_ms, abs=2 + 0.1 * 2000 / refresh_ms)
    assert said["poll_ms"] == pytest.approx(0.3)
    assert said["seconds"] == pytest.approx(2.0, abs=0.001)


def test_a_sensor_that_is_faster_than_it_can_be_read_is_as_fast_as_it_is_read():
    said = measure(0.0001, read_s=0.001)
    assert said["refresh_ms"] == pytest.approx(1.2)
    assert said["refresh_ms"] == pytest.approx(said["poll_ms"])


def test_changes_below_the_sensors_step_make_it_longer_never_shorter():
    assert measure(0.002, quantum_mw=4000.0)["refresh_ms"] >= 1.8


def test_changes_that_are_missed_now_and_then_do_not_matter():
    # Four different values: every fourth change is none, and the mean interval is a third too long.
    said = measure(0.02, quantum_mw=1900.0)
    assert said["changes"] < 85
    assert said["refresh_ms"] == pytest.approx(20.0, abs=0.3)


def test_a_jetsons_slow_mode_is_found_in_two_seconds():
    said = measure(0.422)
    assert said["refresh_ms"] == pytest.approx(422.0, abs=0.5)
    assert said["seconds"] < 2.2
    assert (said["changes"], said["distinct"]) == (4, 5)


def test_a_sensor_that_is_slower_is_given_longer():
    said = measure(1.5)
    assert said["refresh_ms"] == pytest.approx(1500.0, abs=0.5)
    assert said["seconds"] == pytest.approx(6.0, abs=0.01)


def test_a_slow_sensor_is_no_guess():
    said = measure(2.5)
    assert said["refresh_ms"] is None
    assert said["why_not"].startswith("module of the meter refreshing changed 3 times in 8.0 s, too few to tell")
    assert said["distinct"] == 4


def test_a_value_that_never_changes_is_no_refresh():
    said = measure(50.0)
    assert said["refresh_ms"] is None
    assert (said["changes"], said["distinct"]) == (0, 1)


def test_times_of_the_meter_count_where_it_has_them():
    # Every reading is the same 0 mW: only the stamps tell them apart.
    said = measure(0.05, quantum_mw=1e6, stamped=True)
    assert said["refresh_ms"] == pytest.approx(50.0, abs=1e-6)
    assert said["distinct"] == 1


def test_a_sensor_that_fails_is_not_waited_for():
    class Failing(Refreshing):
        def _values(self):
            raise OSError(5, "Input/output error")

    clock = Clock()
    with Failing(clock, 1.0) as meter, pytest.raises(ReadingError, match="Input/output error"):
        measured_refresh(meter, 2.0, clock, clock.sleep)
