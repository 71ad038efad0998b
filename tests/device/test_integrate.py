"""Energy from traces of readings: exact where it can be, refused with a reason where it cannot."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bottlekit.device.errors import ReportError
from bottlekit.device.integrate import energy_between_mj, interior_of, window_means_mw
from bottlekit.device.power_trace import PowerTrace


def trace_of(times_s, values, kind="power", refresh_s=0.02):
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    rails = tuple("rail{}".format(i) for i in range(len(values)))
    return PowerTrace(np.asarray(times_s, dtype=np.float64), values, rails, kind, refresh_s, {})


def noisy(seconds=60.0, period_s=0.01, refresh_s=0.02, mean_mw=5000.0, seed=1):
    """A sensor that has a new reading every `refresh_s`, polled every `period_s`: never the same twice."""
    random = np.random.RandomState(seed)
    times = np.arange(int(seconds / period_s) + 1) * period_s
    fresh = random.normal(mean_mw, 50.0, int(seconds / refresh_s) + 2)
    return trace_of(times, fresh[np.floor(times / refresh_s + 1e-6).astype(int)], refresh_s=refresh_s)


def counting(trace):
    """The same as an energy counter."""
    steps = 0.5 * (trace.values[:, 1:] + trace.values[:, :-1]) * np.diff(trace.times_s)
    return trace._replace(values=np.insert(np.cumsum(steps, axis=1), 0, 0.0, axis=1), kind="energy")


def codes(interior):
    return [reason.code for reason in interior.reasons]


# The integral alone

GAPS = st.lists(st.floats(1e-4, 10.0), min_size=2, max_size=40)


@st.composite
def traces(draw):
    times = np.cumsum(draw(GAPS))
    powers = draw(st.lists(st.floats(0.0, 1e5), min_size=times.size, max_size=times.size))
    trace = trace_of(times, [powers, powers[::-1]])
    return counting(trace) if draw(st.booleans()) else trace


@st.composite
def moments(draw, trace, count):
    fractions = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=count, max_size=count)))
    first, last = float(trace.times_s[0]), float(trace.times_s[-1])
    return [min(first + fraction * (last - first), last) for fraction in fractions]


@given(st.data())
def test_adjacent_intervals_add_up(data):
    trace = data.draw(traces())
    a, b, c = data.draw(moments(trace, 3))
    whole = energy_between_mj(trace, a, c)
    assert energy_between_mj(trace, a, b) + energy_between_mj(trace, b, c) == pytest.approx(
        whole, rel=1e-9, abs=1e-9 * (1.0 + float(trace.values.max()) * float(trace.times_s[-1]))
    )
    assert (whole >= -1e-6).all()


@given(st.data(), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_of_time_and_power_multiply(data, of_time, of_power):
    trace = data.draw(traces())
    begin, end = data.draw(moments(trace, 2))
    other = trace._replace(times_s=trace.times_s * of_time, values=trace.values * of_power)
    factor = of_power * (of_time if trace.kind == "power" else 1.0)
    begin_too = max(begin * of_time, float(other.times_s[0]))
    end_too = min(end * of_time, float(other.times_s[-1]))
    assume(begin_too <= end_too)
    scale = float(energy_between_mj(trace, trace.times_s[0], trace.times_s[-1]).max())
    assert energy_between_mj(other, begin_too, end_too) / factor == pytest.approx(
        energy_between_mj(trace, begin, end), rel=1e-6, abs=1e-9 * (1.0 + scale)
    )


@given(GAPS, st.floats(0.0, 1e6), st.data())
def test_constant_power_is_exact(steps, power_mw, data):
    times = np.cumsum(steps)
    trace = trace_of(times, np.full(times.size, power_mw))
    begin, end = data.draw(moments(trace, 2))
    assert energy_between_mj(trace, begin, end)[0] == pytest.approx(
        power_mw * (end - begin), rel=1e-9, abs=1e-12 * (1.0 + power_mw * times[-1])
    )


def test_a_ramp_is_a_trapezoid():
    trace = trace_of([0.0, 1.0, 3.0], [[0.0, 10.0, 30.0], [4.0, 4.0, 0.0]])
    assert energy_between_mj(trace, 0.0, 3.0).tolist() == [45.0, 8.0]
    # From 5 to 20 mW in 1.5 s; 4 mW for half a second, then down to 2 mW.
    assert energy_between_mj(trace, 0.5, 2.0) == pytest.approx([18.75, 5.0])


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 1.0), (0.5, 3.1), (2.0, 1.0)])
def test_what_a_trace_does_not_hold_has_no_energy(begin, end):
    with pytest.raises(ReportError, match=r"does not hold .* 2 readings, from 0.000 to 3.000 s"):
        energy_between_mj(trace_of([0.0, 3.0], [1.0, 1.0]), begin, end)


# The interior of a run


@pytest.mark.parametrize("kind", ["power", "energy"])
def test_a_good_run_has_its_mean_and_no_reasons(kind):
    trace = noisy()
    interior = interior_of(trace if kind == "power" else counting(trace), 0.0, 60.0, min_readings=100)
    assert interior.reasons == ()
    assert interior.mean_mw == pytest.approx([5000.0], rel=2e-3)
    assert interior.coverage == pytest.approx(1.0)
    assert interior.refresh_s == pytest.approx(0.02)
    assert 2900 <= interior.readings <= 6000


@pytest.mark.parametrize("kind", ["power", "energy"])
def test_both_ends_are_trimmed_by_two_refreshes(kind):
    times = np.arange(0, 1001) * 0.01
    power = np.where((times <= 0.2) | (times >= 9.8), 9e6, 1000.0 + np.arange(1001) % 2)
    trace = trace_of(times, power, refresh_s=0.2)
    interior = interior_of(trace if kind == "power" else counting(trace), 0.0, 10.0)
    assert interior.mean_mw == pytest.approx([1000.5], rel=1e-4)
    assert (interior.begin_s, interior.end_s) == pytest.approx((0.4, 9.6), abs=0.0101)
    assert interior.reasons == ()


def test_a_sensor_that_slowed_down_under_load_is_trimmed_by_its_new_refresh():
    slow = noisy(refresh_s=0.4)._replace(refresh_s=0.001)
    interior = interior_of(slow, 0.0, 60.0)
    assert interior.refresh_s == pytest.approx(0.4)
    assert interior.begin_s == pytest.approx(0.8)
    assert interior.reasons == ()


def test_windows_of_the_interior_have_its_mean():
    trace = noisy()
    interior = interior_of(trace, 0.0, 60.0)
    windows = window_means_mw(trace, interior, 7)
    assert windows.shape == (1, 7)
    assert windows.mean() == pytest.approx(interior.mean_mw[0], rel=1e-9)
    assert windows.std() > 0.0


# Reasons


def broken(change):
    """A good trace of 60 s after `change(times, values)`, which may return others."""
    trace = noisy()
    times, values = trace.times_s.copy(), trace.values.copy()
    changed = change(times, values)
    return (
        trace._replace(times_s=changed[0], values=changed[1])
        if changed
        else trace._replace(times_s=times, values=values)
    )


def without(begin_s, end_s):
    def change(times, values):
        kept = (times < begin_s) | (times > end_s)
        return times[kept], values[:, kept]

    return change


def replaced(at, number):
    def change(times, values):
        values[0, at] = number

    return change


def jump(by_s):
    def change(times, values):
        times[3000:] += by_s

    return change


def stop(times, values):
    values[0, 4000:] = values[0, 4000]


def thin(times, values):
    # Every other 4 refreshes are missing: no gap is too long, and half of the time is unseen.
    kept = (np.arange(times.size) // 8) % 2 == 0
    return times[kept], values[:, kept]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (replaced(77, float("nan")), "not_a_number", "1 readings are no numbers"),
        (replaced(77, float("inf")), "not_a_number", "1 readings are no numbers"),
        (replaced(77, -1.0), "negative", "1 readings are below zero"),
        (jump(-5.0), "clock", "ran back, or stood: by 4.99 s"),
        (jump(-1.005), "clock", "ran back, or stood: by 0.995 s"),
        (without(20.0, 20.2), "gap", "no reading for 0.22 s; more than 5 refreshes of 0.02 s"),
        (without(50.0, 61.0), "gap", "no reading for 9.97 s"),
        (thin, "coverage", "it takes 95 %"),
        (stop, "stuck", "stayed the same for 19.96 s; it changes every 0.02 s"),
    ],
)
def test_a_trace_with_a_fault_is_rejected_with_its_reason(change, code, words):
    interior = interior_of(broken(change), 0.0, 60.0)
    assert code in codes(interior)
    assert any(words in reason.reason for reason in interior.reasons), interior.reasons
    assert (interior.mean_mw is None) == (code in ("not_a_number", "negative", "clock"))


def test_a_clock_that_jumps_ahead_leaves_a_gap():
    assert "gap" in codes(interior_of(broken(jump(3.0)), 0.0, 63.0))


def test_faults_outside_the_run_do_not_matter():
    trace = broken(replaced(5999, float("nan")))
    assert interior_of(trace, 0.0, 50.0).reasons == ()


def test_a_counter_that_runs_back_or_stops_is_rejected():
    trace = counting(noisy())
    back, stopped = trace.values.copy(), trace.values.copy()
    back[0, 3000:] -= 100.0
    stopped[0, 3000:] = stopped[0, 3000]
    assert codes(interior_of(trace._replace(values=back), 0.0, 60.0)) == ["negative"]
    assert "coverage" in codes(interior_of(trace._replace(values=stopped), 0.0, 60.0))


def test_a_counter_misses_nothing_between_two_readings():
    trace = counting(noisy())
    kept = (trace.times_s < 20.0) | (trace.times_s > 30.0)
    thin_trace = trace._replace(times_s=trace.times_s[kept], values=trace.values[:, kept])
    with_gap, whole = interior_of(thin_trace, 0.0, 60.0), interior_of(trace, 0.0, 60.0)
    assert with_gap.mean_mw == pytest.approx(whole.mean_mw, rel=1e-9)
    assert with_gap.reasons == ()


def test_too_few_distinct_readings_are_too_few_however_often_they_were_read():
    trace = noisy(refresh_s=0.5)
    interior = interior_of(trace, 0.0, 20.0, min_readings=100)
    assert codes(interior) == ["few_readings"]
    assert 35 <= interior.readings <= 40
    assert interior.reasons[0].reason == "{} distinct readings; it takes 100".format(interior.readings)
    assert codes(interior_of(trace, 0.0, 60.0, min_readings=100)) == []


def test_the_table_of_fifty_runs_at_ten_hertz_is_rejected():
    # 50 inferences of 5.8 ms, a reading every 100 ms.
    interior = interior_of(noisy(seconds=1.0, period_s=0.1, refresh_s=0.1), 0.05, 0.34, min_readings=100)
    assert codes(interior) == ["too_short"]
    assert interior.mean_mw is None


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_trace_with_hardly_a_reading_is_too_short(count):
    trace = trace_of(np.arange(count) * 0.1, np.ones(count))
    assert codes(interior_of(trace, 0.0, 10.0)) == ["too_short"]
