"""The verb `bottlekit plan`."""

from bottlekit.errors import BottlekitError


def plan() -> None:
    """To be written."""
    raise BottlekitError("plan is not written yet")
