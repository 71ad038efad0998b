"""Handwritten digits that come inside scikit-learn: 1797 real images of 8x8 pixels, 16 levels of gray.

The held-out 360 are 36 of each class, evenly spaced in the order of the file, so that all writers are in both
parts. The split is arithmetic: no seed moves an image from one part to the other, and a network that is
fine-tuned with another seed never meets its held-out images in training.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from bottlekit.training.sources import ArrayImages

CLASSES = [str(digit) for digit in range(10)]
HELD_OUT_PER_CLASS = 36


def digits(size: int) -> tuple[ArrayImages, ArrayImages]:
    """The training and the held-out images, each (n, size, size, 3) uint8, upsampled with a bicubic filter."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = np.asarray(bunch.target)
    images = np.stack([upsampled(image, size) for image in bunch.images])
    held_out = held_out_mask(labels, HELD_OUT_PER_CLASS)
    return (
        ArrayImages(images[~held_out], labels[~held_out].tolist()),
        ArrayImages(images[held_out], labels[held_out].tolist()),
    )


def upsampled(image: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """An image (8, 8) of values 0..16 as (size, size, 3) uint8, white on black."""
    gray = np.round(image * (255 / 16)).astype(np.uint8)
    return np.asarray(PIL.Image.fromarray(gray).resize((size, size), PIL.Image.Resampling.BICUBIC).convert("RGB"))


def held_out_mask(labels: NDArray[np.int64], per_class: int) -> NDArray[np.bool_]:
    """True for `per_class` images of every class, evenly spaced among that class's images."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        mask[places[np.arange(per_class) * len(places) // per_class]] = True
    return mask
