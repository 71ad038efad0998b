"""The device's own statistics against SciPy's, which a TX2 does not have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from bottlekit.device.confidence import incomplete_beta, mean_interval, t_quantile
from bottlekit.device.energy_doubts import _RANGE_OF_THREE
from bottlekit.device.stats import OUTLIER_MADS, is_outlier, percentile_ms


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 29, 100, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.999999])
def test_students_t(degrees: int, confidence: float) -> None:
    assert t_quantile(confidence, degrees) == pytest.approx(stats.t.ppf(0.5 + 0.5 * confidence, degrees), rel=1e-9)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, 5.0, 50.0, 500.0])
@pytest.mark.parametrize("b", [0.5, 1.0, 3.0, 70.0])
def test_the_incomplete_beta_function(a: float, b: float) -> None:
    for x in np.linspace(0.001, 0.999, 57):
        assert incomplete_beta(float(x), a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-10, abs=1e-14)


def test_the_interval_of_a_mean() -> None:
    values = np.random.RandomState(7).normal(40.0, 2.0, 11)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.99)
    ours = mean_interval([float(value) for value in values], 0.99)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-10)


def test_outliers_by_the_median_absolute_deviation() -> None:
    values = np.random.RandomState(8).standard_cauchy(5000)
    distances = np.abs(values - np.median(values)) / stats.median_abs_deviation(values)
    flagged = is_outlier(values)
    assert flagged.tolist() == (distances > OUTLIER_MADS).tolist()
    assert 0 < flagged.sum() < 500


def test_the_range_of_three_means() -> None:
    assert pytest.approx(stats.studentized_range.ppf(0.999, 3, 20), abs=5e-3) == _RANGE_OF_THREE


def test_percentiles() -> None:
    samples = np.random.RandomState(9).gamma(3.0, 2.0, 700) + 0.1
    for percentile in (50, 90, 95, 99):
        theirs = stats.mstats.mquantiles(samples, [percentile / 100], alphap=1.0, betap=1.0)[0]
        assert percentile_ms([float(sample) for sample in samples], percentile) == pytest.approx(theirs, rel=1e-12)
