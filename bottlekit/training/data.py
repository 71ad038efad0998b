"""Data sets by name, ready for training and for measuring.

    source --image (h, w, 3) uint8--> [augment: training only] --> input_from_image --> (3, size, size) float32

`input_from_image` is the function that devices use, so a network is trained, evaluated and deployed on the same
numbers. What a training image looks like depends on seed, epoch and index alone: the number of worker processes
and an interruption in between change nothing.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from bottlekit.device.images import input_from_image
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.specs import Preprocessing, to_dict
from bottlekit.training.augment import crop_of_padded, crop_of_resized, shift_and_turn
from bottlekit.training.cifar import cifar
from bottlekit.training.digits import CLASSES as DIGITS
from bottlekit.training.digits import digits
from bottlekit.training.folders import image_folder, miniimagenet
from bottlekit.training.fractals import fractals, fractals_from_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bottlekit.training.augment import Augmentation
    from bottlekit.training.sources import Source

# name -> input size in pixels when none is asked for
DEFAULT_INPUT_SIZE = {
    "digits": 64,
    "folder": 224,
    "cifar10": 32,
    "cifar100": 32,
    "miniimagenet": 224,
    "fractals": 224,
}
DATA_NAMES = tuple(DEFAULT_INPUT_SIZE)


class LabelledImages(Dataset[tuple[torch.Tensor, int]]):
    """One part of a data set: (input (3, size, size) float32 normalised, class index) by index."""

    def __init__(
        self, source: Source, preprocessing: Preprocessing, augment: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.source = source
        self.labels = list(source.labels)
        self.preprocessing = to_dict(preprocessing)
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentations are drawn; each epoch has its own."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.source.image(index)
        if self.augment is not None:
            image = self.augment(image, np.random.default_rng((self.seed, self.epoch, index)))
        return torch.from_numpy(input_from_image(image, self.preprocessing)), self.labels[index]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set with its held-out part `val`, its class names and the preprocessing a device has to do.

    `name` finds it again: it is what `dataset_from_name` accepts, root included.
    """

    name: str
    train: LabelledImages
    val: LabelledImages
    classes: list[str]
    preprocessing: Preprocessing

    @property
    def input_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.preprocessing.crop

    def image_uint8(self, index: int) -> NDArray[np.uint8]:
        """The held-out image at `index` before preprocessing, (h, w, 3)."""
        return self.val.source.image(index)

    def val_indices(self, count: int) -> list[int]:
        """`count` held-out indices spread evenly, so that all classes appear even if they come in order."""
        count = min(count, len(self.val))
        return [place * len(self.val) // count for place in range(count)]

    def val_images(self, count: int) -> list[NDArray[np.uint8]]:
        """`count` held-out images before preprocessing, spread evenly, each (h, w, 3)."""
        return [self.image_uint8(index) for index in self.val_indices(count)]


def dataset_from_name(
    name: str,
    root: str | Path | None = None,
    input_size: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> DataSet:
    """A data set by its name, or by "name:path" where it is read from files.

    digits         1797 handwritten digits inside scikit-learn; needs no files
    folder:PATH    PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg
    cifar10:PATH   the unpacked archive, binary or Python version; cifar100 alike
    miniimagenet:PATH   100 folders of 600 images, split 85/15 (BottleNet, section 3.1)
    fractals:100x600:7  100 classes of 600 images that are drawn here, from seed 7, and kept; 20x200:0 if it is
                        not said. What follows the colon may be `root` too.

    `seed` chooses the augmentations. It never changes which images are held out. `quiet` draws without a bar.
    Raises UnknownNameError, UsageError for a missing or useless path, DataError for files that do not fit.
    """
    kind, _, path = name.partition(":")
    if kind not in DEFAULT_INPUT_SIZE:
        raise UnknownNameError("data set", kind, DATA_NAMES, "For your own images: --data folder --data-root PATH.")
    if root is None and path:
        root = path
    size = DEFAULT_INPUT_SIZE[kind] if input_size is None else input_size
    if size < 8:
        raise UsageError(f"--input-size must be at least 8 pixels, not {size}")
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {seed}")
    if kind == "digits":
        if root is not None:
            raise UsageError(f"the data set digits comes inside scikit-learn; leave out its path {root}")
        train, val = digits(size)
        preprocessing = Preprocessing(resize=size, crop=size)
        return _dataset("digits", train, val, DIGITS, preprocessing, partial(shift_and_turn, size=size), seed)
    if kind == "fractals":
        wanted = fractals_from_text("" if root is None else str(root))
        drawn_train, drawn_val = fractals(wanted, size, quiet)
        preprocessing = Preprocessing(resize=size, crop=size)
        augment = partial(crop_of_padded, size=size)
        return _dataset(f"fractals:{wanted}", drawn_train, drawn_val, wanted.names, preprocessing, augment, seed)
    if root is None:
        raise UsageError(f"the data set {kind} is read from files: add --data-root PATH")
    full_name = f"{kind}:{root}"
    if kind in ("cifar10", "cifar100"):
        array_train, array_val, classes = cifar(kind, Path(root))
        preprocessing = Preprocessing(resize=size, crop=size)
        return _dataset(
            full_name, array_train, array_val, classes, preprocessing, partial(crop_of_padded, size=size), seed
        )
    read = image_folder if kind == "folder" else miniimagenet
    file_train, file_val, classes = read(Path(root))
    # 256 for an input of 224 pixels, and in proportion for others.
    preprocessing = Preprocessing(resize=round(size * 256 / 224), crop=size)
    augment = partial(crop_of_resized, resize=preprocessing.resize, size=size)
    return _dataset(full_name, file_train, file_val, classes, preprocessing, augment, seed)


def name_to_show(name: str) -> str:
    """The name of a data set without its place on this machine, for a bundle that travels."""
    kind = name.partition(":")[0]
    return name if kind == "fractals" else kind


def _dataset(
    name: str,
    train: Source,
    val: Source,
    classes: list[str],
    preprocessing: Preprocessing,
    augment: Augmentation,
    seed: int,
) -> DataSet:
    return DataSet(
        name=name,
        # An augmented image has the input's size already; resizing it for a centre crop would cut its edges off.
        train=LabelledImages(train, dataclasses.replace(preprocessing, resize=preprocessing.crop), augment, seed),
        val=LabelledImages(val, preprocessing),
        classes=list(classes),
        preprocessing=preprocessing,
    )
