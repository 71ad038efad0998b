"""The verb `bottlekit serve`."""

from bottlekit.errors import BottlekitError


def serve() -> None:
    """To be written."""
    raise BottlekitError("serve is not written yet")
