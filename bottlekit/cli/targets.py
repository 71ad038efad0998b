"""The verb `bottlekit targets`."""

from bottlekit.errors import BottlekitError


def targets() -> None:
    """To be written."""
    raise BottlekitError("targets is not written yet")
