"""CIFAR-10 and CIFAR-100 from files the user has downloaded, in either official format.

The binary version is rows of bytes. The Python version is a pickle, and a pickle can run any code when it is
opened; so it is opened with an unpickler that knows arrays, dictionaries and strings, and refuses the rest.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bottlekit.errors import DataError
from bottlekit.training.sources import ArrayImages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PIXELS = 3 * 32 * 32

# data set -> format -> (folder in the archive, training files, test files, file with the class names)
FILES = {
    "cifar10": {
        "binary": (
            "cifar-10-batches-bin",
            [f"data_batch_{number}.bin" for number in range(1, 6)],
            ["test_batch.bin"],
            "batches.meta.txt",
        ),
        "python": (
            "cifar-10-batches-py",
            [f"data_batch_{number}" for number in range(1, 6)],
            ["test_batch"],
            "batches.meta",
        ),
    },
    "cifar100": {
        "binary": ("cifar-100-binary", ["train.bin"], ["test.bin"], "fine_label_names.txt"),
        "python": ("cifar-100-python", ["train"], ["test"], "meta"),
    },
}


def cifar(name: str, root: Path) -> tuple[ArrayImages, ArrayImages, list[str]]:
    """The training images, the test images (32x32) and the class names of "cifar10" or "cifar100".

    `root` is the folder of the unpacked archive, or the folder that holds it. Raises DataError if neither
    format is there or a file is damaged.
    """
    for kind, (folder, train, test, meta) in FILES[name].items():
        for base in (root, root / folder):
            if (base / train[0]).is_file():
                read = _read_binary if kind == "binary" else _read_python
                classes = _names_from_text(base / meta) if kind == "binary" else _names_from_pickle(base / meta)
                parts = [_joined([read(base / file, len(classes)) for file in files]) for files in (train, test)]
                return parts[0], parts[1], classes
    folders = " or ".join(folder for folder, *_ in FILES[name].values())
    raise DataError(f"no {name} at {root}; expected the unpacked archive, a folder {folders}")


def _joined(parts: list[tuple[NDArray[np.uint8], list[int]]]) -> ArrayImages:
    return ArrayImages(
        np.concatenate([images for images, _ in parts]), [label for _, labels in parts for label in labels]
    )


def _images_from_planes(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 3072) with all reds, then greens, then blues -> (n, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _checked(path: Path, labels: list[int], classes: int) -> list[int]:
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise DataError(f"{path} has labels {min(labels)}..{max(labels)}, but there are {classes} classes")
    return labels


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; unpack the archive again") from error


def _read_binary(path: Path, classes: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Rows of label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine) and 3072 pixels."""
    row = PIXELS + (2 if classes == 100 else 1)
    data = np.frombuffer(_bytes(path), dtype=np.uint8)
    if data.size == 0 or data.size % row:
        raise DataError(f"{path} has {data.size} bytes, not a multiple of {row}; unpack the archive again")
    rows = data.reshape(-1, row)
    return _images_from_planes(rows[:, -PIXELS:]), _checked(path, rows[:, -PIXELS - 1].tolist(), classes)


def _names_from_text(path: Path) -> list[str]:
    return [line.strip() for line in _bytes(path).decode("utf-8", "replace").splitlines() if line.strip()]


def _read_python(path: Path, classes: int) -> tuple[NDArray[np.uint8], list[int]]:
    batch = dictionary_from_pickle(path)
    planes, labels = batch.get(b"data"), batch.get(b"fine_labels", batch.get(b"labels"))
    if (
        not isinstance(planes, np.ndarray)
        or planes.dtype != np.uint8
        or planes.ndim != 2
        or planes.shape[1] != PIXELS
        or not isinstance(labels, list)
        or len(labels) != len(planes)
        or not all(isinstance(label, int) for label in labels)
    ):
        raise DataError(f"{path} is no batch of CIFAR images: expected data (n, {PIXELS}) uint8 and n labels")
    return _images_from_planes(planes), _checked(path, labels, classes)


def _names_from_pickle(path: Path) -> list[str]:
    meta = dictionary_from_pickle(path)
    names = meta.get(b"fine_label_names", meta.get(b"label_names"))
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} has no list of class names")
    return [name.decode("utf-8", "replace") for name in names]


def dictionary_from_pickle(path: Path) -> dict[bytes, Any]:
    """A pickled dictionary of arrays, lists, numbers and bytes. Raises DataError for anything else inside."""
    try:
        value = _ArraysOnly(io.BytesIO(_bytes(path)), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{path} is damaged ({error}); unpack the archive again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a dictionary; is it a CIFAR file?")
    return {key.encode() if isinstance(key, str) else key: entry for key, entry in value.items()}


def _encode(text: str, encoding: str) -> bytes:
    """What `_codecs.encode` does for the one codec that pickles of bytes use."""
    if encoding != "latin1":
        raise DataError(f"the pickle asks for the codec {encoding}, which no CIFAR file needs")
    return codecs.encode(text, "latin1")


# A new array's function, found by asking numpy: its module moved between numpy 1 and 2.
_RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Refuses every name that is not needed for an array of numbers."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The object behind a name in the pickle."""
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise DataError(
                f"the pickle asks for {module_name}.{global_name}, which no CIFAR file needs; it was not opened"
            ) from None
