"""Where labelled images come from: an array in memory, or files read when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bottlekit.device.images import image_from_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]  # (h, w, 3)


class Source(Protocol):
    """Images (h, w, 3) uint8 of any size, and a class index for each."""

    @property
    def labels(self) -> Sequence[int]:
        """The class index of every image."""
        ...

    def image(self, index: int) -> Image:
        """The image at `index`, as its owner stored it."""
        ...


class ArrayImages:
    """Images (n, h, w, 3) uint8 that fit in memory."""

    def __init__(self, images: NDArray[np.uint8], labels: Sequence[int]) -> None:
        self.images = images
        self.labels = labels

    def image(self, index: int) -> Image:
        """The image at `index`."""
        image: Image = self.images[index]
        return image


class FileImages:
    """One image file each. A file that is no image raises DataError, with its name, when it is read."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        self.paths = paths
        self.labels = labels

    def image(self, index: int) -> Image:
        """The image at `index`, decoded from its file."""
        return image_from_file(str(self.paths[index]))
