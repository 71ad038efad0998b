"""The verb `bottlekit models`."""

from bottlekit.errors import BottlekitError


def models() -> None:
    """To be written."""
    raise BottlekitError("models is not written yet")
