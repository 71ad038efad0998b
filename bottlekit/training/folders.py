"""Images in folders, one folder a class: your own data set, and miniImageNet in the papers' protocol."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bottlekit.errors import DataError
from bottlekit.training.sources import FileImages

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})
LAYOUT = "train/<class>/*.jpg and val/<class>/*.jpg"

MINIIMAGENET_CLASSES = 100
MINIIMAGENET_PER_CLASS = 600
MINIIMAGENET_TRAIN_FRACTION = 0.85


def image_folder(root: Path) -> tuple[FileImages, FileImages, list[str]]:
    """The training images, the held-out images and the class names of `root`/train and `root`/val.

    Raises DataError, saying what was expected and what was found, if the layout is another one.
    """
    _check_folder(root, LAYOUT)
    found = sorted(entry.name for entry in root.iterdir())
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(f"{root} has no folder '{part}'; expected {LAYOUT}, found {_listing(found)}")
    train, val = classes_of(root / "train"), classes_of(root / "val")
    for part, files in (("train", train), ("val", val)):
        if not files:
            names = sorted(entry.name for entry in (root / part).iterdir())
            raise DataError(f"{root / part} has no class folders; expected {LAYOUT}, found {_listing(names)}")
    if list(train) != list(val):
        raise DataError(
            f"{root}: train and val have different classes; only in train: "
            f"{_listing(sorted(set(train) - set(val)))}; only in val: {_listing(sorted(set(val) - set(train)))}"
        )
    if len(train) < 2:
        raise DataError(
            f"{root / 'train'} has the one class {_listing(list(train))}; a classifier needs at least 2"
        )
    return _images(train), _images(val), list(train)


def miniimagenet(
    root: Path, classes: int = MINIIMAGENET_CLASSES, per_class: int = MINIIMAGENET_PER_CLASS
) -> tuple[FileImages, FileImages, list[str]]:
    """100 classes of 600 images, 85 % of each class for training (BottleNet, section 3.1).

    `root` holds one folder a class. The copies made for few-shot learning put 64, 16 and 20 of the classes
    into train/, val/ and test/; those are classes, not images, so all three are joined before splitting.
    Raises DataError if these are not `classes` classes of `per_class` images.
    """
    expected = f"{classes} class folders of {per_class} images each"
    _check_folder(root, expected)
    entries = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    few_shot = set(entries) == {"train", "val", "test"}
    files: dict[str, list[Path]] = {}
    for folder in [root / name for name in entries] if few_shot else [root]:
        for name, paths in classes_of(folder).items():
            if name in files:
                raise DataError(f"{root}: the class {name} is in two of train, val and test; expected {expected}")
            files[name] = paths
    files = dict(sorted(files.items()))
    if len(files) != classes:
        raise DataError(f"{root} has {len(files)} class folders with images; expected {expected}")
    for name, paths in files.items():
        if len(paths) != per_class:
            raise DataError(f"{root}: the class {name} has {len(paths)} images; expected {expected}")
    train, val = split_by_class(files, MINIIMAGENET_TRAIN_FRACTION)
    return _images(train), _images(val), list(files)


def split_by_class(
    files: dict[str, list[Path]], train_fraction: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The first `train_fraction` of every class, and the rest, in the order of the hash of class and file name.

    The order depends on names alone: neither a seed nor the machine moves an image to the other part.
    """
    train, val = {}, {}
    for name, paths in files.items():
        shuffled = sorted(
            paths, key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
        )
        count = round(len(paths) * train_fraction)
        train[name], val[name] = sorted(shuffled[:count]), sorted(shuffled[count:])
    return train, val


def classes_of(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class folder that has any, both in order of name."""
    classes = {}
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            continue
        paths = sorted(path for path in entry.iterdir() if path.suffix.lower() in SUFFIXES)
        if paths:
            classes[entry.name] = paths
    return classes


def _images(files: dict[str, list[Path]]) -> FileImages:
    paths = [path for paths in files.values() for path in paths]
    labels = [label for label, paths in enumerate(files.values()) for _ in paths]
    return FileImages(paths, labels)


def _check_folder(root: Path, expected: str) -> None:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; expected a folder with {expected}")


def _listing(names: list[str]) -> str:
    """At most five names, and how many more there are."""
    shown = ", ".join(names[:5]) or "nothing"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
