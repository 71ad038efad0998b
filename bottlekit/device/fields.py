"""Reading JSON objects that somebody else wrote: each field is there and is what it must be, or a BundleError."""

import re
from typing import Any, Dict, List, Optional

from .errors import BundleError

# Names become parts of file names: no separators, nothing hidden, nothing a shell would take apart.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Fields:
    """A JSON object of a file, read field by field.

    Args:
        values: the parsed object.
        where: the file, for the errors.
        prefix: what the object is called in that file ("" for the whole of it).
    """

    def __init__(self, values: Any, where: str, prefix: str = "") -> None:
        if not isinstance(values, dict):
            raise BundleError("{}: {} must be an object, not {}".format(where, prefix or "it", _shown(values)))
        self.values: Dict[str, Any] = values
        self.where = where
        self.prefix = prefix

    def any(self, name: str) -> Any:
        """The field, whatever it is."""
        if name not in self.values:
            raise BundleError(
                "{} lacks {}; it was damaged or written by something else".format(self.where, self._called(name))
            )
        return self.values[name]

    def object(self, name: str) -> "Fields":
        """A field that is an object."""
        return Fields(self.any(name), self.where, self._called(name))

    def text(self, name: str) -> str:
        """A field that is a string."""
        value = self.any(name)
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def safe_name(self, name: str) -> str:
        """A field that can be part of a file name: letters, digits, '.', '_', '+' and '-'."""
        value = self.text(name)
        if not _SAFE_NAME.match(value):
            raise self.error(name, "a name of letters, digits, '.', '_', '+' and '-'")
        return value

    def sha256(self, name: str) -> str:
        """A field that is a SHA-256 in hex."""
        value = self.text(name)
        if not _SHA256.match(value):
            raise self.error(name, "a SHA-256 of 64 lower-case hex digits")
        return value

    def flag(self, name: str) -> bool:
        """A field that is true or false."""
        value = self.any(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """A field that is an integer, low..high."""
        value = self.any(name)
        if not _is_integer(value) or not low <= value <= high:
            raise self.error(name, "an integer from {} to {}".format(low, high))
        return int(value)

    def number(self, name: str, low: float, high: float) -> float:
        """A field that is a finite number, low..high."""
        value = self.any(name)
        if not _is_number(value) or not low <= value <= high:
            raise self.error(name, "a number from {:g} to {:g}".format(low, high))
        return float(value)

    def number_or_none(self, name: str, low: float, high: float) -> Optional[float]:
        """A field that is null or a finite number, low..high."""
        return None if self.any(name) is None else self.number(name, low, high)

    def integers(self, name: str, count: int, low: int, high: int) -> List[int]:
        """A field that is a list of `count` integers, each low..high."""
        value = self.any(name)
        fits = isinstance(value, list) and len(value) == count
        if not fits or not all(_is_integer(item) and low <= item <= high for item in value):
            raise self.error(name, "a list of {} integers from {} to {}".format(count, low, high))
        return list(value)

    def numbers(self, name: str, count: int, low: float, high: float) -> List[float]:
        """A field that is a list of `count` finite numbers, each low..high."""
        value = self.any(name)
        fits = isinstance(value, list) and len(value) == count
        if not fits or not all(_is_number(item) and low <= item <= high for item in value):
            raise self.error(name, "a list of {} numbers from {:g} to {:g}".format(count, low, high))
        return [float(item) for item in value]

    def texts(self, name: str) -> List[str]:
        """A field that is a list of strings."""
        value = self.any(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "a list of strings")
        return list(value)

    def error(self, name: str, expected: str) -> BundleError:
        """The error for a field that is not `expected`."""
        return BundleError(
            "{}: {} must be {}, not {}".format(self.where, self._called(name), expected, _shown(self.values[name]))
        )

    def _called(self, name: str) -> str:
        return "{}.{}".format(self.prefix, name) if self.prefix else name


def is_safe_name(name: str) -> bool:
    """Whether a name can be part of a file name without leaving its folder."""
    return bool(_SAFE_NAME.match(name))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _shown(value: Any) -> str:
    """A value for an error message: short, in one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
