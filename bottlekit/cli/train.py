"""The verb `bottlekit train`."""

from bottlekit.errors import BottlekitError


def train() -> None:
    """To be written."""
    raise BottlekitError("train is not written yet")
