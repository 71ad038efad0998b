"""Intervals and flags; tests/test_statistics_scipy.py compares them with SciPy, which Python 3.6 lacks here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.confidence import (
    bootstrap_interval,
    incomplete_beta,
    mean_interval,
    t_quantile,
    windows_agree,
)
from bottlekit.device.errors import ReportError
from bottlekit.device.stats import agree, is_outlier

# Printed in every table of Student's t, two-sided.
TABLE = [
    (0.95, 1, 12.706),
    (0.95, 2, 4.303),
    (0.95, 4, 2.776),
    (0.99, 4, 4.604),
    (0.99, 9, 3.250),
    (0.90, 30, 1.697),
    (0.99, 120, 2.617),
]


@pytest.mark.parametrize(("confidence", "degrees", "t"), TABLE)
def test_quantiles_are_those_of_the_printed_tables(confidence, degrees, t):
    assert t_quantile(confidence, degrees) == pytest.approx(t, abs=5.1e-4)


@given(st.floats(0.001, 0.999), st.floats(0.5, 200.0), st.floats(0.5, 200.0))
def test_the_incomplete_beta_function_mirrors_itself(x, a, b):
    assert incomplete_beta(x, a, b) == pytest.approx(1.0 - incomplete_beta(1.0 - x, b, a), abs=1e-9)
    assert 0.0 <= incomplete_beta(x, a, b) <= 1.0 + 1e-12


def test_the_incomplete_beta_function_has_the_values_that_can_be_written_down():
    assert incomplete_beta(0.0, 2.0, 3.0) == 0.0
    assert incomplete_beta(1.0, 2.0, 3.0) == 1.0
    for x in (0.1, 0.4, 0.9):
        assert incomplete_beta(x, 1.0, 1.0) == pytest.approx(x, rel=1e-12)
        assert incomplete_beta(x, 3.0, 1.0) == pytest.approx(x**3, rel=1e-12)
        assert incomplete_beta(x, 1.0, 3.0) == pytest.approx(1.0 - (1.0 - x) ** 3, rel=1e-12)


@pytest.mark.parametrize(
    ("confidence", "degrees", "words"),
    [
        (0.0, 4, "between 0 and 1"),
        (1.0, 4, "between 0 and 1"),
        (95, 4, "not at 95"),
        (0.95, 0, "degree of freedom"),
    ],
)
def test_quantiles_that_do_not_exist_are_refused(confidence, degrees, words):
    with pytest.raises(ReportError, match=words):
        t_quantile(confidence, degrees)


def test_the_interval_of_repeats_is_gossets():
    interval = mean_interval([9.0, 10.0, 11.0, 10.0, 10.0], 0.95)
    assert interval.mean == 10.0
    assert interval.half_width == pytest.approx(2.7764451 * np.sqrt(0.5) / np.sqrt(5), rel=1e-6)
    assert (interval.low, interval.high) == (10.0 - interval.half_width, 10.0 + interval.half_width)


@given(st.lists(st.floats(1.0, 1e6), min_size=2, max_size=30), st.floats(1e-3, 1e3))
def test_another_unit_gives_the_same_interval_in_that_unit(values, factor):
    one, other = mean_interval(values), mean_interval([factor * value for value in values])
    assert other.mean == pytest.approx(factor * one.mean, rel=1e-9)
    assert other.half_width == pytest.approx(factor * one.half_width, rel=1e-6, abs=1e-7 * factor * max(values))


@pytest.mark.parametrize(("values", "words"), [([1.0], "at least 2"), ([1.0, float("nan")], "only finite")])
def test_one_value_or_no_number_has_no_interval(values, words):
    with pytest.raises(ReportError, match=words):
        mean_interval(values)


def correlated(count, rho, seed):
    """A first-order autoregressive series of mean 100 and standard deviation 1."""
    random = np.random.RandomState(seed)
    steps = random.normal(0.0, np.sqrt(1.0 - rho**2), count)
    series = np.empty(count)
    series[0] = random.normal()
    for i in range(1, count):
        series[i] = rho * series[i - 1] + steps[i]
    return 100.0 + series


def test_the_bootstrap_agrees_with_student_where_samples_are_independent():
    values = correlated(2000, 0.0, seed=3)
    ours, theirs = bootstrap_interval(values, block=1, seed=1), mean_interval(values)
    assert ours.mean == theirs.mean
    assert ours.half_width == pytest.approx(theirs.half_width, rel=0.1)


def test_the_bootstrap_sees_that_neighbours_depend_on_each_other():
    rho, count = 0.9, 5000
    values = correlated(count, rho, seed=5)
    # The standard deviation of the mean of such a series, and the normal quantile.
    wanted = 2.576 * np.sqrt((1.0 + rho) / (1.0 - rho) / count)
    assert bootstrap_interval(values, block=100, seed=1).half_width == pytest.approx(wanted, rel=0.2)
    assert bootstrap_interval(values, block=1, seed=1).half_width < 0.4 * wanted


def test_the_bootstrap_covers_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        interval = bootstrap_interval(correlated(600, 0.5, seed), block=20, seed=seed, confidence=0.9)
        covered += interval.low <= 100.0 <= interval.high
    # 180 of 200 expected, standard deviation 4.2; blocks of a short series see a little less than all of it.
    assert 166 <= covered <= 192


def test_the_same_seed_gives_the_same_interval():
    values = correlated(300, 0.5, seed=9)
    assert bootstrap_interval(values, 10, seed=4) == bootstrap_interval(values, 10, seed=4)
    assert bootstrap_interval(values, 10, seed=4) != bootstrap_interval(values, 10, seed=5)


@pytest.mark.parametrize("block", [0, 6, 11])
def test_blocks_that_do_not_fit_twice_are_refused(block):
    with pytest.raises(ReportError, match="needs blocks of 1 to 5"):
        bootstrap_interval(range(11), block, seed=0)


def test_outliers_are_flagged_and_nothing_is_lost():
    # Median 10, median absolute deviation 1.
    values = [9.0, 10.0, 11.0, 10.0 + 14.7, 10.0 - 14.9, 9.0, 11.0]
    assert is_outlier(np.array(values)).tolist() == [False, False, False, False, True, False, False]
    assert is_outlier(np.full(3, 5.0)).tolist() == [False] * 3


def test_windows_agree_when_nothing_drifts():
    steady = [100.0, 104.0] * 30
    assert windows_agree(steady, 0.05) is True
    assert windows_agree(np.linspace(100.0, 110.0, 60), 0.05) is False
    assert windows_agree([1.0, 2.0], 0.05) is None
    assert agree([100.0, 105.0, 102.0], 0.05) is True
    assert agree([100.0, 105.1], 0.05) is False
