"""The verb `bottlekit bench`."""

from bottlekit.errors import BottlekitError


def bench() -> None:
    """To be written."""
    raise BottlekitError("bench is not written yet")
