"""The verb `bottlekit export`."""

from bottlekit.errors import BottlekitError


def export() -> None:
    """To be written."""
    raise BottlekitError("export is not written yet")
