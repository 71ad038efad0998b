"""Rates: what a bucket allows at once, on the average, and for how many names it remembers that."""

import pytest

from bottlekit.device.limits import Rates, ServerLimits


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def taken(rates, name, times):
    return sum(rates.take(name) for _ in range(times))


def test_a_burst_is_allowed_and_then_the_average():
    clock = Clock()
    rates = Rates(10.0, 2.0, clock)
    assert taken(rates, "a", 100) == 20
    clock.now += 1.0
    assert taken(rates, "a", 100) == 10
    clock.now += 1000.0
    assert taken(rates, "a", 100) == 20


def test_names_do_not_take_from_each_other():
    rates = Rates(1.0, 3.0, Clock())
    assert [taken(rates, name, 9) for name in ("a", "b", "c")] == [3, 3, 3]


def test_a_slow_rate_allows_one_at_least():
    clock = Clock()
    rates = Rates(0.1, 1.0, clock)
    assert taken(rates, "a", 5) == 1
    clock.now += 9.0
    assert taken(rates, "a", 5) == 0
    clock.now += 1.5
    assert taken(rates, "a", 5) == 1


@pytest.mark.parametrize("times", [1, 100000])
def test_no_rate_is_no_limit(times):
    assert taken(Rates(0.0, 5.0, Clock()), "a", times) == times


def test_memory_is_bounded_whoever_comes():
    rates = Rates(1.0, 1.0, Clock())
    for number in range(10000):
        rates.take("address {}".format(number))
    assert len(rates._buckets) <= 4096
    assert not rates.take("address 9999")


def test_the_limits_have_bounds_by_default():
    limits = ServerLimits()
    assert 0 < limits.queue < 10000
    assert 0 < limits.connections < 10000
    assert limits.connects_per_s > 0
