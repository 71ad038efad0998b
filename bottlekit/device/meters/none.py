"""No meter: energy is not measured, and the reason why is kept."""

from typing import Any, Dict, Tuple

from .meter import Meter


class NoMeter(Meter):
    """Measures nothing: no rails, no values. `reason` says why there is nothing better."""

    name = "none"
    boundary = "none"

    def __init__(self, reason: str = "energy was not asked for") -> None:
        super().__init__()
        self.reason = reason

    def _values(self) -> Tuple[float, ...]:
        return ()

    def _facts(self) -> Dict[str, Any]:
        return {"reason": self.reason}
