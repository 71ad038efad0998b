"""Reading the files in which Linux shows its sensors: a number or a word each, below a root that tests supply."""

import glob
import os
from typing import List, Optional

from ..errors import ReadingError


def below(root: str, pattern: str) -> List[str]:
    """The paths below `root` that a pattern like sys/class/hwmon/hwmon* names, in the order of their numbers."""
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted(found, key=lambda path: (len(path), path))


def text(path: str) -> str:
    """A file's text without its line end; OSError where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        # Drivers fail while the file is read, and then the error does not name it.
        error.filename = error.filename or path
        raise


def number(path: str) -> float:
    """A file's number; OSError where it cannot be read, ReadingError where it holds none."""
    words = text(path)
    try:
        return float(words)
    except ValueError:
        raise ReadingError("{} holds {!r}, not a number; look at the sensor's driver".format(path, words[:40]))


def text_or_none(path: str) -> Optional[str]:
    """A file's text, or None where it cannot be read."""
    try:
        return text(path)
    except OSError:
        return None


def number_or_none(path: str) -> Optional[float]:
    """A file's number, or None where there is none."""
    try:
        return number(path)
    except (OSError, ReadingError):
        return None
