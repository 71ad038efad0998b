"""Learning the prior of the codec `learned` from the codes of training images.

Counts are few: one channel, one class, 256 codes. So a row is the counts, filled up with what its class says in all
channels, and that with what the codes say altogether (Dirichlet smoothing); how much filling is right, and how many
classes, is decided on every third image, which the counts have not seen.

This runs once, at export, in floating point. What is kept are integers.
"""

import itertools
from typing import List, Tuple

import numpy as np

from .base import Tables

# Classes of neighbourhoods to choose from. More than 32 gain nothing on 500 images, and each is a table.
_CLASSES = (1, 8, 32)
# The filling counts as so many images' codes, as a fraction of the number of codes.
_FILLINGS = (0.125, 0.5, 2.0)
_MAX_TABLE_VALUES = 1 << 20
_MAX_CODES = 1 << 23


def precision_from_bits(bits: int) -> int:
    """Into how many slots, as a power of two, the frequencies of codes of `bits` bits are divided.

    Few for few codes: a payload is longer by a part of it. Many for many, as every code takes one at least.
    """
    return 12 if bits <= 6 else 16


def neighbours_sum(codes: np.ndarray) -> np.ndarray:
    """Left plus upper neighbour of codes (..., h, w) uint8 in their channel, 0 outside: int64, the same shape."""
    total = np.zeros(codes.shape, dtype=np.int64)
    total[..., 1:] += codes[..., :-1]
    total[..., 1:, :] += codes[..., :-1, :]
    return total


def prior_from_codes(codes: np.ndarray, bits: int) -> Tables:
    """The tables `frequencies` and `classes` (see LearnedCodec) for codes like these (n, c, h, w) uint8."""
    _, c, h, w = codes.shape
    codes = codes[: max(3, _MAX_CODES // (c * h * w))]
    sums = neighbours_sum(codes)
    test = np.arange(len(codes)) % 3 == 2
    if not test.any():
        test[-1:] = len(codes) > 1
    choices: List[Tuple[float, int, float]] = []
    for wanted, filling in itertools.product(_CLASSES, _FILLINGS):
        classes = classes_of_sums(sums[~test], bits, wanted)
        if c * (int(classes.max()) + 1) << bits > _MAX_TABLE_VALUES:
            continue
        rows = _probabilities(codes[~test], classes[sums[~test]], filling, bits, int(classes.max()) + 1)
        seen = (test if test.any() else ~test)[: len(codes)]
        channel = np.arange(c).reshape(1, c, 1, 1)
        cost = -float(np.log2(rows[channel, classes[sums[seen]], codes[seen]]).sum())
        choices.append((cost, wanted, filling))
    _, wanted, filling = min(choices)
    classes = classes_of_sums(sums, bits, wanted)
    rows = _probabilities(codes, classes[sums], filling, bits, int(classes.max()) + 1)
    return {"frequencies": frequencies_from_probabilities(rows, 1 << precision_from_bits(bits)), "classes": classes}


def classes_of_sums(sums: np.ndarray, bits: int, count: int) -> np.ndarray:
    """At most `count` classes of sums, about equally often met: uint8 (2 * levels + 1,), rising from 0."""
    met = np.bincount(sums.ravel(), minlength=2 * ((1 << bits) - 1) + 1)
    middle = np.cumsum(met) - met / 2
    classes = np.minimum(middle * count / met.sum(), count - 1).astype(np.int64)
    ranks: np.ndarray = np.unique(classes, return_inverse=True)[1].astype(np.uint8)
    return ranks


def frequencies_from_probabilities(rows: np.ndarray, slots: int) -> np.ndarray:
    """Probabilities (..., k) as uint16 of the same shape, each at least 1, `slots` in each row."""
    frequencies = 1 + np.floor(rows * (slots - rows.shape[-1])).astype(np.int64)
    likeliest = rows.argmax(axis=-1)[..., np.newaxis]
    missing = slots - frequencies.sum(axis=-1, keepdims=True)
    np.put_along_axis(frequencies, likeliest, np.take_along_axis(frequencies, likeliest, -1) + missing, -1)
    kept: np.ndarray = frequencies.astype(np.uint16)
    return kept


def _probabilities(codes: np.ndarray, classes: np.ndarray, filling: float, bits: int, count: int) -> np.ndarray:
    """float64 (c, count, 2^bits): what codes (n, c, h, w) are likely to be, given their channel and class."""
    c, symbols = codes.shape[1], 1 << bits
    channel = np.arange(c).reshape(1, c, 1, 1)
    places = ((channel * count + classes) * symbols + codes).ravel()
    met = np.bincount(places, minlength=c * count * symbols).reshape(c, count, symbols).astype(np.float64)
    overall = _filled(met.sum(axis=(0, 1)), np.full(symbols, 1 / symbols), 0.1 * symbols)
    of_class = _filled(met.sum(axis=0), overall, symbols)
    return _filled(met, of_class, filling * symbols)


def _filled(met: np.ndarray, likely: np.ndarray, weight: float) -> np.ndarray:
    """Counts (..., k) with `weight` more that are spread as `likely` (..., k) says, as probabilities."""
    filled: np.ndarray = (met + weight * likely) / (met.sum(axis=-1, keepdims=True) + weight)
    return filled
