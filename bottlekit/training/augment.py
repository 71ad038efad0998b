"""Changes to a training image that leave its class alone: image (h, w, 3) uint8 and dice in, image out.

They end at the network's input size, so that what follows is the same preprocessing as on a device. All dice
come from the generator that is passed in; the same generator gives the same image. Plain functions, so that
worker processes can be given one: `partial(shift_and_turn, size=64)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (h, w, 3)
Augmentation = Callable[[Image, np.random.Generator], Image]


def shift_and_turn(image: Image, dice: np.random.Generator, size: int) -> Image:
    """Turn by up to 10 degrees, shift by up to 5 % of the size; for images where left and right matter."""
    angle = math.radians(dice.uniform(-10.0, 10.0))
    shift_x, shift_y = dice.uniform(-0.05, 0.05, 2) * size
    cos, sin, centre = math.cos(angle), math.sin(angle), (size - 1) / 2
    # The output pixel (x, y) is read at: turned about the centre, then shifted.
    affine = (
        cos, -sin, centre - cos * centre + sin * centre + shift_x,
        sin, cos, centre - sin * centre - cos * centre + shift_y,
    )  # fmt: skip
    source = _resized(PIL.Image.fromarray(image), size, size)
    transform, bilinear = PIL.Image.Transform.AFFINE, PIL.Image.Resampling.BILINEAR
    return np.array(source.transform((size, size), transform, affine, bilinear))


def crop_of_padded(image: Image, dice: np.random.Generator, size: int) -> Image:
    """Pad by an eighth of the size on each side, crop a random window, flip: what is usual for CIFAR."""
    margin = max(1, size // 8)
    whole = np.asarray(_resized(PIL.Image.fromarray(image), size, size))
    padded = np.pad(whole, ((margin, margin), (margin, margin), (0, 0)))
    top, left = dice.integers(0, 2 * margin, 2, endpoint=True)
    return _flipped(padded[top : top + size, left : left + size], dice)


def crop_of_resized(image: Image, dice: np.random.Generator, resize: int, size: int) -> Image:
    """Resize the short side to `resize`, crop a random window, flip.

    "We randomly crop a 224x224 region from each sample" (BottleNet, section 3.1); the flip is ours.
    """
    height, width = image.shape[:2]
    scale = resize / min(height, width)
    whole = _resized(PIL.Image.fromarray(image), max(size, round(width * scale)), max(size, round(height * scale)))
    left = int(dice.integers(0, whole.width - size, endpoint=True))
    top = int(dice.integers(0, whole.height - size, endpoint=True))
    return _flipped(np.asarray(whole.crop((left, top, left + size, top + size))), dice)


def _resized(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), PIL.Image.Resampling.BILINEAR)


def _flipped(image: Image, dice: np.random.Generator) -> Image:
    return np.ascontiguousarray(image[:, ::-1] if dice.random() < 0.5 else image)
