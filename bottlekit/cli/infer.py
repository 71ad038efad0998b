"""The verb `bottlekit infer`."""

from bottlekit.errors import BottlekitError


def infer() -> None:
    """To be written."""
    raise BottlekitError("infer is not written yet")
