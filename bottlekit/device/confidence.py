"""How far a mean may be off: over repeats, and inside one run.

    values of repeats          -> mean_interval       Student's t; the repeats are independent
    samples of one run         -> bootstrap_interval  moving blocks; neighbours in time depend on each other
    values of a run, in order  -> windows_agree       its parts are alike: nothing drifts

A TX2 has numpy and no SciPy; the tests compare with SciPy where there is one.
"""

from math import exp, isfinite, lgamma, log, log1p, sqrt
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from .errors import ReportError
from .stats import WINDOWS, agree

# An exact 95 % interval misses one time in twenty; a table has more cells than that.
CONFIDENCE = 0.99

_RESAMPLES = 1000
# Where the continued fraction has converged, and how many terms it may take: it needs a few dozen.
_EPSILON = 1e-15
_TERMS = 10000
# A double's mantissa is found in this many halvings.
_HALVINGS = 200


class Interval(NamedTuple):
    """A mean, and how far it may be off to either side with the given confidence (0..1); in the values' unit."""

    mean: float
    half_width: float
    confidence: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent repeats with Student's t interval; ReportError for fewer than two.

    Gosset, "The probable error of a mean", 1908: mean +- t * s / sqrt(n) with n - 1 degrees of freedom.
    """
    known = _checked(values, 2)
    spread = float(known.std(ddof=1)) / sqrt(known.size)
    return Interval(float(known.mean()), t_quantile(confidence, known.size - 1) * spread, confidence)


def t_quantile(confidence: float, degrees: float) -> float:
    """The t that |T| stays below with probability `confidence` (0..1, both exclusive); degrees of freedom >= 1.

    P(|T| > t) is the regularised incomplete beta function I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t^2);
    it rises with x, and is inverted by halving.
    """
    if not 0.0 < confidence < 1.0:
        raise ReportError("a confidence lies between 0 and 1, not at {}".format(confidence))
    if degrees < 1:
        raise ReportError("Student's t needs at least one degree of freedom, not {}".format(degrees))
    outside, low, high = 1.0 - confidence, 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if incomplete_beta(middle, 0.5 * degrees, 0.5) < outside:
            low = middle
        else:
            high = middle
    # 1 - x is exact enough near 1, where t is near 0.
    x = 0.5 * (low + high)
    return sqrt(degrees * (1.0 - x) / x)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 <= x <= 1, a and b > 0.

    By its continued fraction (DLMF 8.17.22), evaluated with Lentz's method as Thompson and Barnett modified it; it
    converges fast below the mean of the distribution, so above it 1 - I_{1-x}(b, a) is used (DLMF 8.17.4).
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(1.0 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for term in range(_TERMS):
        m = term // 2
        if term == 0:
            factor = 1.0
        elif term % 2 == 0:
            factor = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        else:
            factor = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        d = 1.0 / _away_from_zero(1.0 + factor * d, tiny)
        c = _away_from_zero(1.0 + factor / c, tiny)
        fraction *= c * d
        if abs(1.0 - c * d) < _EPSILON and term > 0:
            break
    return front * (fraction - 1.0)


def _away_from_zero(value: float, least: float) -> float:
    return least if abs(value) < least else value


def bootstrap_interval(
    samples: Sequence[float], block: int, seed: int, confidence: float = CONFIDENCE, resamples: int = _RESAMPLES
) -> Interval:
    """The mean of samples in the order of time, and how far it may be off, by the moving-block bootstrap.

    Blocks of `block` successive samples are drawn with replacement until there are as many samples again, so that
    what neighbours share stays together (Kuensch, "The jackknife and the bootstrap for general stationary
    observations", 1989). The half width is the quantile of the resampled means' distances from their own mean. The
    same seed gives the same interval. ReportError for fewer than two blocks.
    """
    known = _checked(samples, 2)
    if block < 1 or known.size < 2 * block:
        raise ReportError(
            "a bootstrap of {} samples needs blocks of 1 to {}, not of {}".format(
                known.size, known.size // 2, block
            )
        )
    sums = np.concatenate([[0.0], np.cumsum(known - known.mean())])
    block_means = (sums[block:] - sums[:-block]) / block
    draws = np.random.RandomState(seed).randint(0, block_means.size, (resamples, known.size // block))
    means = block_means[draws].mean(axis=1)
    distances = np.abs(means - means.mean())
    # The spread of m blocks' mean, drawn from themselves, is short by this factor.
    blocks = known.size / float(block)
    half_width = float(np.percentile(distances, 100.0 * confidence)) * sqrt(blocks / (blocks - 1.0))
    return Interval(float(known.mean()), half_width, confidence)


def windows_agree(values: Sequence[float], within: float, windows: int = WINDOWS) -> Optional[bool]:
    """Whether the means of the run's `windows` equal parts lie within this fraction of the smallest of them.

    None where there are fewer values than windows.
    """
    known = _checked(values, 1)
    if known.size < windows:
        return None
    means = [float(window.mean()) for window in np.array_split(known, windows)]
    return agree(means, within)


def _checked(values: Sequence[float], least: int) -> "np.ndarray[Any, Any]":
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or known.size < least:
        raise ReportError("this takes a list of at least {} numbers, not {}".format(least, known.size))
    if not np.isfinite(known).all():
        bad = [float(value) for value in known if not isfinite(value)]
        raise ReportError("a mean of {} is none; only finite numbers have one".format(bad[0]))
    return known
