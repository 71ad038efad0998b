"""The verb `bottlekit demo`."""

from bottlekit.errors import BottlekitError


def demo() -> None:
    """To be written."""
    raise BottlekitError("demo is not written yet")
