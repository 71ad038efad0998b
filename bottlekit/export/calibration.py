"""Images to calibrate INT8 with, and images to measure what it costs: never the same ones.

::

    data set of the bundle --training images--> Calibration      without any augmentation
                           --held-out images--> HeldOut          accuracy is measured on these
    a folder of images     --------------------> Calibration
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottlekit.device.bundle import Bundle
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.errors import DataError, UsageError
from bottlekit.export.sessions import Array
from bottlekit.specs import Preprocessing, from_dict
from bottlekit.training.folders import SUFFIXES

if TYPE_CHECKING:
    from bottlekit.export.held_out import HeldOut
    from bottlekit.training.data import DataSet

# Ranges settle after a few dozen images; more cost time and change little.
CALIBRATION_IMAGES = 128
# The accuracy of 512 images is known to 2 %; what INT8 changes is seen on the same images, and so better.
ACCURACY_IMAGES = 512


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Network inputs `images` (k, 3, h, w), and where they are from: "digits, training images", say."""

    images: Array
    source: str

    def to_dict(self) -> dict[str, Any]:
        """What they are, as JSON values: for the sidecar and the key of an engine."""
        return {
            "source": self.source,
            "images": len(self.images),
            "sha256": hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest(),
        }


def calibration_from_folder(bundle: Bundle, folder: Path, count: int = CALIBRATION_IMAGES) -> Calibration:
    """At most `count` of the images in a folder and below it, evenly spread over their names.

    DataError if the folder is none or holds no images, or one of them is damaged.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; --calibration takes a folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder} holds no images; --calibration takes a folder of images like those to classify")
    chosen = [paths[place] for place in spread(count, len(paths))]
    images = [input_from_image(image_from_file(str(path)), bundle.preprocessing) for path in chosen]
    return Calibration(np.stack(images), f"folder {folder.resolve().name}")


def calibration_from_dataset(bundle: Bundle, data: DataSet, count: int = CALIBRATION_IMAGES) -> Calibration:
    """At most `count` training images of a data set, evenly spread so that every class appears."""
    images = training_inputs(data, bundle.preprocessing, count)
    return Calibration(images, f"{data.name.partition(':')[0]}, training images")


def training_inputs(data: DataSet, preprocessing: dict[str, Any], count: int) -> Array:
    """Network inputs (n, 3, h, w) of at most `count` training images, evenly spread and without augmentation."""
    source = data.train.source
    places = spread(count, len(source.labels))
    return np.stack([input_from_image(source.image(place), preprocessing) for place in places])


def dataset_of_bundle(bundle: Bundle, data_root: Path | None) -> DataSet:
    """The data set that a bundle was trained on, which lies in `data_root` where it is read from files.

    UsageError where the bundle names none, its place is not known, or this machine lacks what reads it; DataError
    if `data_root` does not hold it, or it has other classes.
    """
    name = _data_name(bundle)
    try:
        from bottlekit.export.held_out import check_classes
        from bottlekit.training.data import DATA_NAMES, dataset_from_name

        if name is None or name.partition(":")[0] not in DATA_NAMES:
            raise UsageError(f"{bundle.name} was exported without a data set")
        data = dataset_from_name(name, data_root, bundle.input_shape[2])
    except ModuleNotFoundError as error:
        raise UsageError(
            f"reading the data set of {bundle.name} needs the Python package '{error.name}', which is not installed"
        ) from error
    check_classes(data, bundle.classes)
    return data


def held_out_of_bundle(bundle: Bundle, data: DataSet, limit: int = ACCURACY_IMAGES) -> HeldOut:
    """The held-out images of a bundle's data set; DataError if its classes are not the bundle's."""
    from bottlekit.export.held_out import held_out_from_dataset

    preprocessing = from_dict(Preprocessing, bundle.preprocessing, bundle.path)
    return held_out_from_dataset(data, bundle.classes, preprocessing, limit)


def spread(count: int, total: int) -> Sequence[int]:
    """`count` places out of `total`, or all of them, evenly spread."""
    count = min(count, total)
    return [place * total // count for place in range(count)]


def _data_name(bundle: Bundle) -> str | None:
    """The kind of data set in bundle.json, without its place."""
    for field in ("accuracy", "payload_bytes"):
        report = bundle.manifest.get(field) or {}
        if report.get("data") not in (None, "random"):
            return str(report["data"])
    return None
