"""The held-out images of the data set a checkpoint was trained on, as the network and the link see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bottlekit.device.images import image_from_bytes, input_from_image, jpeg_from_image
from bottlekit.errors import BottlekitError, DataError
from bottlekit.export.sessions import Array
from bottlekit.models.checkpoint import Checkpoint
from bottlekit.specs import Preprocessing, to_dict
from bottlekit.training.data import DataSet, dataset_from_name, name_to_show

Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images by index 0..len-1, spread evenly over the data set so that every class appears.

    `name` is the kind of data set without its place on this machine; `image` gives pixels uint8 (h, w, 3).
    """

    name: str
    labels: list[int]
    image: Callable[[int], Pixels]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: range) -> Array:
        """Network inputs float32 (k, 3, crop, crop)."""
        return np.stack([input_from_image(self.image(index), to_dict(self.preprocessing)) for index in indices])

    def batches(self, size: int) -> Iterator[range]:
        """The indices in ranges of at most `size`."""
        for start in range(0, len(self), size):
            yield range(start, min(start + size, len(self)))

    def jpeg(self, network_input: Array, quality: int) -> tuple[int, Array]:
        """What cloud-only sends of a network input (3, crop, crop): the JPEG's size in bytes, and the network
        input that the server decodes from it."""
        data = jpeg_from_image(self._pixels(network_input), quality)
        # Resized and cropped already; the server only scales and normalises.
        there = dataclasses.replace(self.preprocessing, resize=self.preprocessing.crop)
        return len(data), input_from_image(image_from_bytes(data), to_dict(there))

    def _pixels(self, network_input: Array) -> Pixels:
        """The resized and cropped image uint8 (crop, crop, 3) that a network input was made from, exactly."""
        mean = np.array(self.preprocessing.mean, np.float32).reshape(3, 1, 1)
        std = np.array(self.preprocessing.std, np.float32).reshape(3, 1, 1)
        scaled = np.rint((network_input * std + mean) * np.float32(255))
        return np.ascontiguousarray(scaled.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def held_out_from_checkpoint(
    checkpoint: Checkpoint, data_root: Path | None, limit: int | None, say: Callable[[str], None]
) -> HeldOut | None:
    """The held-out images of the checkpoint's data set, at most `limit` of them; None where it cannot be found.

    The path in the checkpoint is where the data was when it was trained: if it is gone, `say` tells that random
    inputs are used instead. A `data_root` that was asked for and cannot be read is an error.

    Raises DataError if the data set has other classes than the checkpoint.
    """
    try:
        data = data_from_checkpoint(checkpoint, data_root)
    except BottlekitError as error:
        if data_root is not None:
            raise
        say(f"no held-out images, so random inputs are used and nothing is measured again: {error}")
        return None
    return held_out_from_dataset(data, checkpoint.classes, checkpoint.preprocessing, limit)


def data_from_checkpoint(checkpoint: Checkpoint, data_root: Path | None) -> DataSet:
    """The data set that a checkpoint was trained on, in `data_root` or where it was then.

    Raises UnknownNameError, UsageError or DataError where it cannot be read.
    """
    return dataset_from_name(
        checkpoint.data.partition(":")[0] if data_root else checkpoint.data,
        root=data_root,
        input_size=checkpoint.model.input_size,
    )


def held_out_from_dataset(
    data: DataSet, classes: Sequence[str], preprocessing: Preprocessing, limit: int | None
) -> HeldOut:
    """At most `limit` held-out images of a data set; DataError if it has other classes than the network."""
    check_classes(data, classes)
    indices = data.val_indices(len(data.val) if limit is None else limit)
    return HeldOut(
        name=name_to_show(data.name),
        labels=[int(data.val.labels[index]) for index in indices],
        image=lambda place: data.image_uint8(indices[place]),
        preprocessing=preprocessing,
    )


def check_classes(data: DataSet, classes: Sequence[str]) -> None:
    """Raise DataError if a data set has other classes than a network."""
    if tuple(data.classes) != tuple(classes):
        raise DataError(
            f"the data set {data.name} has the classes {_some(data.classes)}, and the network "
            f"{_some(classes)}; give the data it was trained on with --data-root"
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, ... ({len(names)})" if len(names) > 3 else shown
