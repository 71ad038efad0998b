"""Statistics of latency samples that do not claim more than the samples hold.

A percentile needs enough samples above it to mean anything: below the counts in MINIMUM_COUNTS it is None. They
are those of MLPerf's early stopping at 99 % confidence; the median needs five. Outliers are counted, never removed.
"""

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from .errors import ReportError

# Percentile -> the fewest samples that can support it.
MINIMUM_COUNTS = {50: 5, 90: 64, 95: 130, 99: 662}

# A sample further than this many median absolute deviations from the median is an outlier.
OUTLIER_MADS = 14.8

# Three successive windows of a loop are stable when their medians lie within this fraction of the smallest.
STABLE_WITHIN = 0.10
WINDOWS = 3


def summary(samples_ms: Sequence[float]) -> Dict[str, Any]:
    """Count, mean, minimum, maximum, percentiles, outliers and stability of samples in the order they were taken.

    A percentile q is interpolated linearly between the two samples around the rank q / 100 * (count - 1), the first
    sample having rank 0. `stable` says whether the medians of the first, second and last third agree, None where a
    third is too short for a median. ReportError for no samples, or samples that are not positive finite numbers.
    """
    samples = _checked(samples_ms)
    result: Dict[str, Any] = {
        "count": int(samples.size),
        "mean_ms": float(samples.mean()),
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
    }
    for percentile in sorted(MINIMUM_COUNTS):
        result["p{}_ms".format(percentile)] = percentile_ms(samples_ms, percentile)
    result["outliers"] = outliers(samples_ms)
    windows = window_medians_ms(samples_ms)
    result["stable"] = None if windows is None else medians_agree(windows)
    return result


def percentile_ms(samples_ms: Sequence[float], percentile: int) -> Optional[float]:
    """One percentile in ms, or None when there are fewer samples than MINIMUM_COUNTS asks for."""
    samples = _checked(samples_ms)
    if samples.size < MINIMUM_COUNTS[percentile]:
        return None
    return float(np.percentile(samples, percentile))


def outliers(samples_ms: Sequence[float]) -> int:
    """How many samples lie more than OUTLIER_MADS median absolute deviations from the median."""
    return int(np.count_nonzero(is_outlier(_checked(samples_ms))))


def is_outlier(values: np.ndarray) -> np.ndarray:
    """Which values (n,) lie more than OUTLIER_MADS median absolute deviations from the median: bool (n,).

    Where more than half of the values are equal, every other value is one.
    """
    distances = np.abs(values - np.median(values))
    flagged: np.ndarray = distances > OUTLIER_MADS * np.median(distances)
    return flagged


def window_medians_ms(samples_ms: Sequence[float]) -> Optional[List[float]]:
    """The medians of the first, second and last third, or None when a third is too short for a median."""
    samples = _checked(samples_ms)
    if samples.size < WINDOWS * MINIMUM_COUNTS[50]:
        return None
    return [float(np.median(window)) for window in np.array_split(samples, WINDOWS)]


def medians_agree(medians_ms: Sequence[float]) -> bool:
    """Whether the largest is within STABLE_WITHIN of the smallest."""
    return agree(medians_ms, STABLE_WITHIN)


def agree(values: Sequence[float], within: float) -> bool:
    """Whether the largest value lies within this fraction of the smallest."""
    return bool(max(values) <= (1.0 + within) * min(values))


def _checked(samples_ms: Sequence[float]) -> np.ndarray:
    samples = np.asarray(samples_ms, dtype=np.float64)
    if samples.ndim != 1 or samples.size == 0:
        raise ReportError("statistics need a list of at least one sample, not {}".format(samples_ms))
    bad = samples[~(np.isfinite(samples) & (samples > 0))]
    if bad.size:
        raise ReportError("a latency sample must be a positive number of ms, not {}".format(bad[0]))
    return samples
