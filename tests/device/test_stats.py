import math

import numpy as np
import pytest

from bottlekit.device.errors import ReportError
from bottlekit.device.stats import (
    MINIMUM_COUNTS,
    medians_agree,
    outliers,
    percentile_ms,
    summary,
    window_medians_ms,
)


def samples(count, seed=0):
    return np.random.RandomState(seed).gamma(5.0, 2.0, count).tolist()


def by_hand(values, percentile):
    """Linear interpolation between the two samples around the rank, written out."""
    ordered = sorted(values)
    rank = percentile / 100.0 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@pytest.mark.parametrize("count", [662, 663, 1000, 2001])
@pytest.mark.parametrize("percentile", sorted(MINIMUM_COUNTS))
def test_percentiles_are_those_computed_by_hand(count, percentile):
    values = samples(count, seed=count)
    assert percentile_ms(values, percentile) == pytest.approx(by_hand(values, percentile), rel=1e-12)


@pytest.mark.parametrize("percentile", sorted(MINIMUM_COUNTS))
def test_a_percentile_is_refused_one_sample_below_its_count(percentile):
    count = MINIMUM_COUNTS[percentile]
    assert percentile_ms(samples(count - 1), percentile) is None
    assert percentile_ms(samples(count), percentile) is not None


def test_the_counts_are_those_of_early_stopping():
    assert MINIMUM_COUNTS == {50: 5, 90: 64, 95: 130, 99: 662}


def test_a_summary_holds_what_the_samples_allow():
    values = samples(200)
    result = summary(values)
    assert result["count"] == 200
    assert result["mean_ms"] == pytest.approx(sum(values) / 200, rel=1e-12)
    assert (result["min_ms"], result["max_ms"]) == (min(values), max(values))
    assert result["p50_ms"] <= result["p90_ms"] <= result["p95_ms"] <= result["max_ms"]
    assert result["p99_ms"] is None


def test_the_order_of_samples_changes_nothing_but_stability():
    values = samples(700)
    shuffled, ordered = summary(values), summary(sorted(values))
    assert shuffled.pop("stable") is True
    assert ordered.pop("stable") is False
    assert shuffled == pytest.approx(ordered, rel=1e-12)


def test_one_sample_has_no_percentile():
    assert summary([2.0]) == {
        "count": 1,
        "mean_ms": 2.0,
        "min_ms": 2.0,
        "max_ms": 2.0,
        "p50_ms": None,
        "p90_ms": None,
        "p95_ms": None,
        "p99_ms": None,
        "outliers": 0,
        "stable": None,
    }


def test_outliers_are_counted_and_kept():
    # The median is 20, the median absolute deviation 1: the borders lie at 5.2 and 34.8.
    values = [19.0, 20.0, 21.0] * 50
    assert outliers(values) == 0
    assert outliers(values + [34.7, 5.3]) == 0
    assert outliers(values + [34.9, 5.3, 5.1]) == 2
    assert summary(values + [500.0])["max_ms"] == 500.0


def test_among_equal_samples_any_other_is_an_outlier():
    assert outliers([1.0] * 20) == 0
    assert outliers([1.0] * 20 + [1.5]) == 1


def test_windows_are_thirds_in_order():
    assert window_medians_ms([1.0] * 5 + [2.0] * 5 + [3.0] * 5) == [1.0, 2.0, 3.0]
    assert window_medians_ms([1.0] * 14) is None


@pytest.mark.parametrize(
    ("medians", "agree"),
    [([1.0, 1.0, 1.0], True), ([1.0, 1.09, 1.05], True), ([1.0, 1.11, 1.0], False), ([2.0, 1.0, 2.0], False)],
)
def test_windows_agree_within_a_tenth(medians, agree):
    assert medians_agree(medians) is agree


def test_a_loop_that_drifts_is_not_stable():
    assert summary([1.0 + 0.01 * index for index in range(300)])["stable"] is False
    assert summary([1.0 + 0.01 * (index % 3) for index in range(300)])["stable"] is True


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, -1.0], [0.0], [float("inf")], [[1.0], [2.0]]])
def test_what_is_no_list_of_latencies_is_refused(bad):
    with pytest.raises(ReportError):
        summary(bad)
