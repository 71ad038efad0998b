"""The verb `bottlekit build`."""

from bottlekit.errors import BottlekitError


def build() -> None:
    """To be written."""
    raise BottlekitError("build is not written yet")
