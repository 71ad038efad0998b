"""`--data fractals`: pictures of iterated function systems, as many as wanted, without a download.

    "fractals:100x600:7" --fractals_from_text--> 100 classes of 600 images, seed 7
        --images_of_class, on every processor--> ~/.cache/bottlekit/fractals/100x600-seed7-224-v1.npy   whole or not
        --memory map--> images, read from the file as they are asked for

Of twenty consecutive images of a class three are held out, by their number alone: an image is never in training
here and held out there, whatever the number of classes and images.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from bottlekit.device.files import whole_file
from bottlekit.errors import UsageError
from bottlekit.training.ifs import images_of_class, system_of_class

# Of what is drawn: raise it with every change of ifs.py that changes a pixel.
VERSION = 1
HELD_OUT = (6, 13, 19)
_FEWEST_IMAGES = HELD_OUT[0] + 1
_MOST_CLASSES = 10000
_FORM = re.compile(r"(\d{1,6})x(\d{1,6})(?::(\d{1,9}))?")
_PIXELS_AT_ONCE = 1 << 18


@dataclasses.dataclass(frozen=True)
class Fractals:
    """`classes` systems drawn by `seed`, `per_class` images of each."""

    classes: int = 20
    per_class: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= _MOST_CLASSES:
            raise UsageError(f"fractals have 2 to {_MOST_CLASSES} classes, not {self.classes}")
        if self.per_class < _FEWEST_IMAGES:
            raise UsageError(
                f"fractals have at least {_FEWEST_IMAGES} images a class, so that one is held out, "
                f"not {self.per_class}"
            )

    def __str__(self) -> str:
        return f"{self.classes}x{self.per_class}:{self.seed}"

    @property
    def names(self) -> list[str]:
        """The classes' names; the same name is the same system."""
        return [f"ifs-{self.seed}-{number:04}" for number in range(self.classes)]


class FractalImages:
    """Some of the gray images (n, size, size) uint8 of a file, read as they are asked for."""

    def __init__(self, images: NDArray[np.uint8], places: list[int], labels: list[int]) -> None:
        self.images = images
        self.places = places
        self.labels = labels

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image at `index`, (size, size, 3)."""
        return np.repeat(np.asarray(self.images[self.places[index]])[..., None], 3, axis=2)


def fractals_from_text(text: str) -> Fractals:
    """What "", "CLASSESxIMAGES" or "CLASSESxIMAGES:SEED" asks for; UsageError for anything else."""
    if not text:
        return Fractals()
    form = _FORM.fullmatch(text)
    if form is None:
        raise UsageError(f"fractals take CLASSESxIMAGES or CLASSESxIMAGES:SEED, 100x600:0 say, not '{text}'")
    return Fractals(int(form[1]), int(form[2]), int(form[3] or 0))


def fractals(wanted: Fractals, size: int, quiet: bool = False) -> tuple[FractalImages, FractalImages]:
    """The training and the held-out images, `size` pixels wide and high, drawn now unless they were before.

    Raises UsageError where the user's cache folder cannot be written to.
    """
    path = cache_path(wanted, size)
    images = _kept(path, wanted, size)
    if images is None:
        _draw(path, wanted, size, quiet)
        images = np.load(path, mmap_mode="r")
    parts = []
    for held_out in (False, True):
        numbers = [number for number in range(wanted.per_class) if (number % 20 in HELD_OUT) is held_out]
        places = [label * wanted.per_class + number for label in range(wanted.classes) for number in numbers]
        parts.append(FractalImages(images, places, [place // wanted.per_class for place in places]))
    return parts[0], parts[1]


def cache_path(wanted: Fractals, size: int) -> Path:
    """Where the images are kept: in $XDG_CACHE_HOME/bottlekit/fractals, or ~/.cache/bottlekit/fractals."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"{wanted.classes}x{wanted.per_class}-seed{wanted.seed}-{size}-v{VERSION}.npy"
    return cache / "bottlekit" / "fractals" / name


def _kept(path: Path, wanted: Fractals, size: int) -> NDArray[np.uint8] | None:
    """The images in a file; None where there is none, or not a whole one."""
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = images.dtype == np.uint8 and images.shape == (wanted.classes * wanted.per_class, size, size)
    return images if fits else None


def _draw(path: Path, wanted: Fractals, size: int, quiet: bool) -> None:
    """Write the file, a part of a class after the other, each drawn by a thread: numpy computes outside Python."""
    at_once = max(1, _PIXELS_AT_ONCE // (size * size))
    parts = [
        (number, first, min(at_once, wanted.per_class - first))
        for number in range(wanted.classes)
        for first in range(0, wanted.per_class, at_once)
    ]
    console = Console(stderr=True, quiet=quiet, highlight=False)
    shape = (wanted.classes * wanted.per_class, size, size)
    if not console.is_terminal:
        console.print(f"drawing {shape[0]} fractals of {size} x {size} pixels")
    with whole_file(str(path)) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        drawn = _in_order(wanted, parts, size)
        quietly = quiet or not console.is_terminal
        for images in track(drawn, "drawing fractals", total=len(parts), console=console, disable=quietly):
            file.write(images.tobytes())


def _in_order(wanted: Fractals, parts: list[tuple[int, int, int]], size: int) -> Iterator[NDArray[np.uint8]]:
    """The images of all parts, at most a few of them ahead; when the reader stops, so do the threads."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    systems: dict[int, NDArray[np.float64]] = {}

    def start(part: tuple[int, int, int]) -> Future[NDArray[np.uint8]]:
        number, first, count = part
        if number not in systems:
            systems[number] = system_of_class(wanted.seed, number)
        return pool.submit(images_of_class, wanted.seed, number, systems[number], first, count, size)

    with ThreadPoolExecutor(processors) as pool:
        ahead: list[Future[NDArray[np.uint8]]] = []
        try:
            for part in parts:
                ahead.append(start(part))
                if len(ahead) > 2 * processors:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()
