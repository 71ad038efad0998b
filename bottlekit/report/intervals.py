"""How sure a change is: confidence intervals of a ratio, from raw samples or from a few repeats.

    samples before, samples after -> circular block bootstrap -> interval of statistic(after) / statistic(before)
    means of repeats              -> Welch's t               -> interval of after / before

Samples of a loop are not independent: a slow moment makes several neighbours slow. Blocks of neighbours are drawn
rather than single samples (Künsch 1989; circular, so that no sample is drawn less often: Politis and Romano 1992).
Drawing five repeats again and again would give an interval that is too narrow; they get Student's t instead.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bottlekit.device.confidence import t_quantile
from bottlekit.errors import ReportError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


# How many numbers a piece of the resampling may hold: tens of megabytes, however many samples there are.
_PIECE = 2_000_000


class Sureness(NamedTuple):
    """How intervals are made.

    `confidence` is the share of them that hold the true change, if the samples are what a run gives; `resamples` is
    how often both sides are drawn again; the same `seed` gives the same intervals.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0


USUAL = Sureness()


def checked_sureness(sureness: Sureness) -> Sureness:
    """`sureness` if it makes sense, UsageError naming the option otherwise."""
    if not 0.5 <= sureness.confidence < 1.0:
        raise UsageError(f"--confidence must be a fraction from 0.5 to below 1, not {sureness.confidence}")
    # Each end of the interval should rest on more than a handful of resamples.
    fewest = round(10.0 / (1.0 - sureness.confidence))
    if not fewest <= sureness.resamples <= 1_000_000:
        raise UsageError(
            f"--resamples must be {fewest:,} to 1,000,000 for a confidence of {sureness.confidence:g}, "
            f"not {sureness.resamples:,}"
        )
    if sureness.seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {sureness.seed}")
    return sureness


class Estimate(NamedTuple):
    """A mean of repeats, how far it is off on average, and with how many degrees of freedom that is known."""

    mean: float
    standard_error: float
    freedom: int


class Interval(NamedTuple):
    """A confidence interval of a change, as a fraction: 0.05 is 5 % more."""

    low: float
    high: float


def block_length(count: int) -> int:
    """How many neighbours are drawn together: the cube root of the number of samples (Hall and others 1995)."""
    return max(1, round(math.pow(count, 1.0 / 3.0)))


def bootstrap_changes(
    before: Sequence[float],
    after: Sequence[float],
    statistics: Sequence[int | None],
    sureness: Sureness = USUAL,
    name: str = "",
    block: int | None = None,
) -> list[Interval]:
    """One interval for each of `statistics`: how it changed from the samples before to those after.

    Args:
        before, after: samples in the order they were taken, positive.
        statistics: a percentile 0..100, or None for the mean.
        sureness: how the intervals are made.
        name: of what is compared; it keeps comparisons apart, so that one does not move when another is left out.
        block: neighbours drawn together; None for `block_length` of each side.
    """
    generator = _generator(sureness, name)
    first, second = (
        _drawn(np.asarray(samples, dtype=np.float64), statistics, generator, sureness.resamples, block)
        for samples in (before, after)
    )
    bounds = np.percentile(second / first - 1.0, _tails(sureness), axis=1)
    return [Interval(float(low), float(high)) for low, high in bounds.T]


def _generator(sureness: Sureness, name: str) -> np.random.Generator:
    return np.random.default_rng([sureness.seed, zlib.crc32(name.encode("utf-8"))])


def _tails(sureness: Sureness) -> tuple[float, float]:
    """The two percentiles between which the interval lies."""
    tail = 50.0 * (1.0 - sureness.confidence)
    return tail, 100.0 - tail


def _drawn(
    samples: NDArray[np.float64],
    statistics: Sequence[int | None],
    generator: np.random.Generator,
    resamples: int,
    block: int | None,
) -> NDArray[np.float64]:
    """The statistics of the samples drawn again: (statistics, resamples)."""
    length = block_length(samples.size) if block is None else block
    percentiles = [statistic for statistic in statistics if statistic is not None]
    found = np.empty((len(statistics), resamples))
    for rows in _pieces(resamples, samples.size):
        count = rows.stop - rows.start
        starts = generator.integers(0, samples.size, size=(count, math.ceil(samples.size / length), 1))
        places = (starts + np.arange(length)) % samples.size
        drawn = samples[places.reshape(count, -1)[:, : samples.size]]
        of_percentiles = iter(np.percentile(drawn, percentiles, axis=1) if percentiles else ())
        for index, statistic in enumerate(statistics):
            found[index, rows] = drawn.mean(axis=1) if statistic is None else next(of_percentiles)
    return found


def _pieces(resamples: int, size: int) -> Iterator[slice]:
    step = max(1, _PIECE // size)
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def bernoulli_change(
    before: float,
    after: float,
    images: Sequence[int],
    sureness: Sureness = USUAL,
    name: str = "",
) -> Interval:
    """The interval of the change of an accuracy 0..1; `images` are how many it was counted on, before and after.

    Drawing images again gives a binomial number of right ones. Which images were right is not known, so the two
    are taken as independent: of the same images, the interval is wider than it need be.
    """
    generator = _generator(sureness, name)
    first = generator.binomial(images[0], before, sureness.resamples) / images[0]
    second = generator.binomial(images[1], after, sureness.resamples) / images[1]
    if not first.all():
        raise ReportError("the accuracy before is too near to 0, on too few images, to tell how it changed")
    low, high = np.percentile(second / first - 1.0, _tails(sureness))
    return Interval(float(low), float(high))


def welch_change(before: Estimate, after: Estimate, sureness: Sureness = USUAL) -> Interval:
    """The interval of after / before - 1, of two means that were estimated from a few repeats each (Welch 1947).

    The spread of the ratio follows from those of both means to first order; spreads of a few per cent, as repeats
    have, need no more. Raises ReportError for a mean that is not positive.
    """
    if min(before.mean, after.mean) <= 0.0:
        raise ReportError("there is nothing above idle to compare")
    # Squared relative errors of the two means.
    errors = [(side.standard_error / side.mean) ** 2 for side in (before, after)]
    ratio, total = after.mean / before.mean, sum(errors)
    if total == 0.0:
        return Interval(ratio - 1.0, ratio - 1.0)
    freedom = total**2 / sum(error**2 / side.freedom for error, side in zip(errors, (before, after), strict=True))
    half = t_quantile(sureness.confidence, max(1.0, freedom)) * ratio * math.sqrt(total)
    return Interval(ratio - 1.0 - half, ratio - 1.0 + half)
