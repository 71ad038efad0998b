"""Intervals: they agree with SciPy's, and hold the true change as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlekit.device.stats import MINIMUM_COUNTS
from bottlekit.errors import ReportError, UsageError
from bottlekit.report.intervals import (
    Estimate,
    Interval,
    Sureness,
    bernoulli_change,
    block_length,
    bootstrap_changes,
    checked_sureness,
    welch_change,
)

STATISTICS = (50, 90, 95, 99, None)


def times(seed: int, count: int, median: float = 5.0) -> np.ndarray:
    return median * np.random.default_rng(seed).lognormal(0.0, 0.1, count)


def statistic_of(which: int | None, samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return samples.mean(axis=axis) if which is None else np.percentile(samples, which, axis=axis)


@pytest.mark.parametrize("which", STATISTICS)
def test_single_samples_drawn_again_agree_with_scipy(which: int | None) -> None:
    before, after = times(1, 700), times(2, 800, 5.3)

    def change(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic_of(which, b, axis) / statistic_of(which, a, axis) - 1.0

    expected = scipy.stats.bootstrap(
        (before, after), change, method="percentile", n_resamples=4000, rng=np.random.default_rng(3)
    ).confidence_interval
    (found,) = bootstrap_changes(before, after, [which], Sureness(resamples=4000), block=1)
    # Two ends of 4000 resamples each differ by their Monte-Carlo error, a few per cent of the width.
    allowed = 0.06 * (expected.high - expected.low)
    assert found == pytest.approx((expected.low, expected.high), abs=allowed)


def test_statistics_asked_for_together_are_those_asked_for_alone() -> None:
    before, after = times(1, 700), times(2, 700)
    together = bootstrap_changes(before, after, STATISTICS, name="head")
    assert together == [bootstrap_changes(before, after, [one], name="head")[0] for one in STATISTICS]


def test_the_seed_and_the_name_decide() -> None:
    before, after = times(1, 200), times(2, 200)
    usual = bootstrap_changes(before, after, [50])
    assert bootstrap_changes(before, after, [50]) == usual
    assert bootstrap_changes(before, after, [50], Sureness(seed=1)) != usual
    assert bootstrap_changes(before, after, [50], name="head") != usual


def test_many_samples_are_resampled_in_pieces() -> None:
    before, after = times(1, 30_000), times(2, 30_000)
    (found,) = bootstrap_changes(before, after, [None], Sureness(resamples=200))
    exact = after.mean() / before.mean() - 1.0
    assert found.low < exact < found.high
    assert found.high - found.low < 0.01


@given(st.floats(0.01, 100.0), st.integers(5, 60), st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_a_change_does_not_depend_on_the_unit_of_time(scale: float, count: int, seed: int) -> None:
    before, after = times(seed, count), times(seed + 1, count)
    sureness = Sureness(resamples=300)
    (found,) = bootstrap_changes(before, after, [50], sureness)
    assert bootstrap_changes(before * scale, after * scale, [50], sureness)[0] == pytest.approx(found, abs=1e-9)


def test_samples_that_never_vary_change_for_sure() -> None:
    (found,) = bootstrap_changes([2.0] * 10, [3.0] * 10, [50])
    assert found == Interval(0.5, 0.5)


def test_blocks_are_the_cube_root() -> None:
    assert [block_length(count) for count in (1, 5, 64, MINIMUM_COUNTS[99], 10_000)] == [1, 2, 4, 9, 22]


def slow_moments(generator: np.random.Generator, count: int) -> np.ndarray:
    """Samples whose neighbours are alike: noise that fades by 0.7 a sample."""
    noise = generator.normal(0.0, 1.0, count + 50)
    for i in range(1, noise.size):
        noise[i] += 0.7 * noise[i - 1]
    return 10.0 + 0.5 * noise[50:]


@pytest.mark.slow
def test_intervals_of_dependent_samples_hold_the_truth() -> None:
    """Without blocks only two of three intervals hold the true change, which is none."""
    generator = np.random.default_rng(11)
    sureness = Sureness(resamples=400)
    held = {None: 0, 1: 0}
    for _ in range(200):
        before, after = slow_moments(generator, 700), slow_moments(generator, 700)
        for block in held:
            low, high = bootstrap_changes(before, after, [None], sureness, block=block)[0]
            held[block] += low <= 0.0 <= high
    assert held[None] >= 172
    assert held[1] <= 150


def estimate(repeats: np.ndarray) -> Estimate:
    return Estimate(float(repeats.mean()), float(scipy.stats.sem(repeats)), repeats.size - 1)


@pytest.mark.parametrize("seed", range(5))
def test_welch_agrees_with_scipy_where_spreads_are_small(seed: int) -> None:
    generator = np.random.default_rng(seed)
    before = generator.normal(40.0, 0.2, 5)
    after = generator.normal(41.0, 0.5, 4)
    # SciPy's is of the difference of logarithms, which is that of the ratio to first order.
    interval = scipy.stats.ttest_ind(np.log(after), np.log(before), equal_var=False).confidence_interval(0.95)
    expected = (np.expm1(interval.low), np.expm1(interval.high))
    assert welch_change(estimate(before), estimate(after)) == pytest.approx(expected, abs=1e-3)


def test_welch_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        low, high = welch_change(estimate(generator.normal(40, 1, 5)), estimate(generator.normal(42, 1, 5)))
        held += low <= 0.05 <= high
    assert 935 <= held <= 975


def test_repeats_that_agree_exactly_change_for_sure() -> None:
    assert welch_change(Estimate(2.0, 0.0, 4), Estimate(3.0, 0.0, 1)) == Interval(0.5, 0.5)


def test_one_sure_side_leaves_the_freedom_of_the_other() -> None:
    low, high = welch_change(Estimate(10.0, 0.0, 4), Estimate(10.0, 0.1, 1))
    assert (low, high) == pytest.approx((-0.127062, 0.127062), rel=1e-4)


@pytest.mark.parametrize("mean", [0.0, -0.2])
def test_nothing_above_idle_cannot_be_compared(mean: float) -> None:
    with pytest.raises(ReportError, match="nothing above idle"):
        welch_change(Estimate(mean, 0.1, 4), Estimate(1.0, 0.1, 4))


def test_an_accuracy_is_as_sure_as_its_images_are_many() -> None:
    few = bernoulli_change(0.95, 0.95, (360, 360))
    many = bernoulli_change(0.95, 0.95, (36_000, 36_000))
    spread = 1.96 * np.sqrt(2 * 0.95 * 0.05 / 360) / 0.95
    assert (few.low, few.high) == pytest.approx((-spread, spread), rel=0.1)
    assert many.high - many.low == pytest.approx((few.high - few.low) / 10, rel=0.1)


def test_an_accuracy_of_nothing_is_refused() -> None:
    with pytest.raises(ReportError, match="too near to 0"):
        bernoulli_change(0.01, 0.9, (10, 10))


@pytest.mark.parametrize(
    ("sureness", "message"),
    [
        (Sureness(confidence=1.0), "--confidence"),
        (Sureness(confidence=float("nan")), "--confidence"),
        (Sureness(confidence=0.99, resamples=999), "--resamples must be 1,000"),
        (Sureness(resamples=10**7), "--resamples"),
        (Sureness(seed=-1), "--seed"),
    ],
)
def test_what_makes_no_interval_is_refused(sureness: Sureness, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_sureness(sureness)
