"""Pictures of iterated function systems (Kataoka et al., ACCV 2020): a class is a system, its images vary it.

A system is 2 to 8 affine maps (a, b, c, d, e, f): (x, y) -> (a x + b y + e, c x + d y + f), drawn uniformly from
-1..1 as in the paper, a map's share of the walk being that of its |determinant|. Walkers that take the maps at
random fill the system's attractor; a system whose attractor fills too little of its box is drawn again. An image
multiplies one of the six parameters, in all maps, by 0.8 to 1.2, flips, and draws each point as a 3x3 patch of its
own.

The same on every machine: dice are the raw bits of PCG64, and points are float64 sums and products, one operation
at a time. (Seed, class, number, size) alone decide an image: more classes or more images change none of them.

Ours, where the paper is silent or would break: only maps that contract even when varied, so that no attractor
escapes; and an image's shades tell how often a pixel was met.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]  # (size, size), gray

MOST_MAPS = 8
_VARIATION = 0.2
# The norm of a map that still contracts with one parameter 1.2 times as large.
_LARGEST_NORM_SQUARED = (1 / (1 + _VARIATION)) ** 2
_FILLING = (0.12, 0.6)
_SEARCH_SIZE = 64
_SLOTS = 1 << 16
_WALKERS = 256
# Walkers begin together, at a point of the attractor; after so many steps they are spread over it.
_FIRST_STEPS = 10
_POINTS_PER_PIXEL = 0.8
# So many points make a pixel half as bright as it can be.
_HALF_BRIGHT = 3


def system_of_class(seed: int, number: int) -> Floats:
    """The maps (m, 6) of a class, m from 2 to 8."""
    dice = np.random.PCG64(np.random.SeedSequence((seed, number)))
    while True:
        maps = _contracting(dice, 2 + int(_uniform(dice, 1)[0] * (MOST_MAPS - 1)))
        counts = _counts(_walk(maps[None], [dice], _SEARCH_SIZE), _SEARCH_SIZE)
        if _FILLING[0] <= float((counts > 0).mean()) <= _FILLING[1]:
            return maps


def images_of_class(seed: int, number: int, system: Floats, first: int, count: int, size: int) -> Image:
    """The images (count, size, size) uint8 of a class from the one numbered `first` on."""
    dice = [np.random.PCG64(np.random.SeedSequence((seed, number, first + k))) for k in range(count)]
    varied, flips, patches = [], [], []
    for one in dice:
        which, by, horizontal, vertical, *patch = _uniform(one, 4 + 9).tolist()
        maps = system.copy()
        maps[:, int(which * 6)] *= 1 + _VARIATION * (2 * by - 1)
        varied.append(maps)
        flips.append((slice(None, None, 1 - 2 * round(vertical)), slice(None, None, 1 - 2 * round(horizontal))))
        # A patch without its middle would be the same fractal, moved.
        patches.append([at for at, bit in enumerate(patch) if bit < 0.5 or at == 4])
    counts = _counts(_walk(np.stack(varied), dice, size), size)
    pictures = np.zeros((count, size, size), dtype=np.int64)
    padded = np.pad(counts, ((0, 0), (1, 1), (1, 1)))
    for picture, met, patch in zip(pictures, padded, patches, strict=True):
        for at in patch:
            picture += met[at // 3 : at // 3 + size, at % 3 : at % 3 + size]
    shades: Image = (255 * pictures // (pictures + _HALF_BRIGHT)).astype(np.uint8)
    return np.stack([shade[flip] for shade, flip in zip(shades, flips, strict=True)])


def _contracting(dice: np.random.PCG64, count: int) -> Floats:
    """`count` maps (count, 6) with parameters uniform in -1..1, each of a norm below 1 / 1.2."""
    maps: list[Floats] = []
    while len(maps) < count:
        one = 2 * _uniform(dice, 6) - 1
        a, b, c, d, _, _ = one.tolist()
        squares, determinant = a * a + b * b + c * c + d * d, a * d - b * c
        # The square of the larger singular value of ((a, b), (c, d)).
        if (
            squares + math.sqrt(max(0.0, squares * squares - 4 * determinant * determinant))
        ) / 2 < _LARGEST_NORM_SQUARED:
            maps.append(one)
    return np.stack(maps)


def _walk(maps: Floats, dice: list[np.random.PCG64], size: int) -> tuple[Floats, Floats]:
    """Points x, y (n, points) of the attractors of systems (n, m, 6), each by its own dice."""
    images, count = maps.shape[:2]
    steps = _FIRST_STEPS + -(-int(size * size * _POINTS_PER_PIXEL) // _WALKERS)
    shares = np.abs(maps[:, :, 0] * maps[:, :, 3] - maps[:, :, 1] * maps[:, :, 2])
    # No map is left out because its share is tiny. Running sums have one order everywhere; a sum has not.
    ends = np.cumsum(shares + 0.01 * np.cumsum(shares, axis=1)[:, -1:], axis=1)
    ends = np.floor(ends / ends[:, -1:] * _SLOTS).astype(np.int64)
    of_slot = np.empty((images, _SLOTS), dtype=np.int64)
    for row, bounds in zip(of_slot, ends, strict=True):
        row[:] = np.repeat(np.arange(count), np.diff(bounds, prepend=0))
    of_slot += count * np.arange(images)[:, None]
    slots = np.stack([_sixteen_bits(one, steps * _WALKERS) for one in dice]).reshape(images, steps, _WALKERS)
    slots = slots + _SLOTS * np.arange(images)[:, None, None]
    taken = of_slot.ravel().take(slots).transpose(1, 0, 2)
    a, b, c, d, e, f = np.ascontiguousarray(maps.reshape(-1, 6).T)
    xs, ys = np.empty((2, steps, images, _WALKERS))
    x, y = (np.repeat(start[:, None], _WALKERS, 1) for start in _fixed_points(maps[:, 0]))
    for step, index in enumerate(taken):
        x, y = a[index] * x + b[index] * y + e[index], c[index] * x + d[index] * y + f[index]
        xs[step], ys[step] = x, y
    kept = (values[_FIRST_STEPS:].transpose(1, 0, 2).reshape(images, -1) for values in (xs, ys))
    return next(kept), next(kept)


def _fixed_points(maps: Floats) -> tuple[Floats, Floats]:
    """x and y (n,) that maps (n, 6) leave where they are: they are in the attractor."""
    a, b, c, d, e, f = maps.T
    determinant = (1 - a) * (1 - d) - b * c
    return ((1 - d) * e + b * f) / determinant, ((1 - a) * f + c * e) / determinant


def _counts(points: tuple[Floats, Floats], size: int) -> NDArray[np.int64]:
    """How many of points (n, k) each pixel has, (n, size, size); their box fills the image but for a margin."""
    places = []
    for values in points:
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        wide = np.maximum(high - low, 1e-9)
        places.append(1 + np.floor((values - low) / wide * (size - 2 - 1e-6)).astype(np.int64))
    column, row = places
    images = len(row)
    pixel = (np.arange(images)[:, None] * size + row) * size + column
    return np.bincount(pixel.ravel(), minlength=images * size * size).reshape(images, size, size)


def _uniform(dice: np.random.PCG64, count: int) -> Floats:
    """`count` numbers 0 <= u < 1 with 53 bits, from raw bits, which no version of numpy draws differently."""
    raw: NDArray[np.uint64] = dice.random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _sixteen_bits(dice: np.random.PCG64, count: int) -> NDArray[np.int64]:
    raw: NDArray[np.uint64] = dice.random_raw(-(-count // 4))
    return raw.astype("<u8").view("<u2")[:count].astype(np.int64)
