"""The energy of one loaded phase: the meter opened, read beside the protocol, everything it said kept.

phase --Protocol--> Record -----+
meter --Sampler---> PowerTrace -+--energy_from_record--> the phase's `energy` in a profile, raw data included
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from .conditions import ThrottleWatch, conditions
from .energy import energy_from_record, no_energy
from .energy_effort import EnergyEffort
from .energy_protocol import Protocol
from .errors import MeterError
from .meters.choose import meter_from_name
from .meters.meter import Meter
from .meters.refresh import measured_refresh
from .meters.sampler import Sampler
from .phases import Phase
from .power_trace import PowerTrace

# A meter is read twice in a refresh, but not more often than the first nor less often than the second.
_READ_S = (0.01, 0.1)
_REFRESH_SECONDS = 2.0
_NAP_S = 0.25


class PowerRequest(NamedTuple):
    """How energy is measured: by which meter, chosen why, looking where (`Sources`), how long.

    For the meter `none`, `why_chosen` says why there is no other.
    """

    meter: str
    why_chosen: str
    sources: Dict[str, Any]
    effort: EnergyEffort

    def to_dict(self) -> Dict[str, Any]:
        """The request as JSON values."""
        return {
            "meter": self.meter,
            "why_chosen": self.why_chosen,
            "sources": self.sources,
            "effort": dict(self.effort._asdict()),
        }

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> "PowerRequest":
        """What `to_dict` wrote."""
        return cls(values["meter"], values["why_chosen"], values["sources"], EnergyEffort(**values["effort"]))


def sleep_in_naps(seconds: float) -> None:
    """Sleep, in the main thread, so that a signal is heard within a quarter of a second.

    Of two signals in quick succession the kernel may hand both to another thread. Python's handlers run in this one
    only, which then nothing wakes.
    """
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(max(0.0, min(end_s - time.monotonic(), _NAP_S)))


def energy_of_phase(
    phase: Phase,
    request: PowerRequest,
    meter: Optional[Meter] = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = sleep_in_naps,
    on_step: Callable[[str], None] = lambda step: None,
) -> Dict[str, Any]:
    """Measure the energy of a phase: what stands under `energy` in its profile.

    A machine without a meter gives none, and the reason; so does a sensor that stops. A measurement that is
    interrupted gives what was read so far, marked `partial`: whoever calls must end. `on_step` is called with the
    name of each step of the protocol as it begins.
    """
    if request.meter == "none":
        return no_energy("none", "none", request.why_chosen)
    chosen = meter if meter is not None else meter_from_name(request.meter, **request.sources)
    chosen.why_chosen = request.why_chosen
    try:
        with chosen:
            return _with_meter(phase, request.effort, chosen, clock, sleep, on_step)
    except MeterError as error:
        return no_energy(chosen.name, chosen.boundary, str(error), code="meter")


def _with_meter(
    phase: Phase,
    effort: EnergyEffort,
    meter: Meter,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    on_step: Callable[[str], None],
) -> Dict[str, Any]:
    """Measure with an open meter."""
    before = conditions()
    refresh = measured_refresh(meter, min(_REFRESH_SECONDS, effort.idle_s), clock, sleep)
    refresh_s = None if refresh["refresh_ms"] is None else refresh["refresh_ms"] / 1e3
    period_s = min(max((refresh_s or 0.0) / 2, _READ_S[0]), _READ_S[1])
    told = {"sensor": meter.facts(), "measured_refresh": refresh, "read_every_s": period_s}
    watch = ThrottleWatch()
    sampler = Sampler(meter, period_s, refresh_s, clock)

    def throttled() -> List[str]:
        sampler.check()
        return watch.since() + list(meter.throttling())

    protocol = Protocol(phase.run, phase.samples, sampler.trace, effort, clock, sleep, throttled, on_step)
    try:
        with sampler:
            record = protocol.record()
    except (KeyboardInterrupt, SystemExit):
        words = no_energy(meter.name, meter.boundary, "the measurement was interrupted", code="interrupted")
        return dict(words, partial=True, record=None, trace=_kept(sampler.trace()).to_dict(), **told)
    trace = _kept(sampler.trace())
    told["conditions"] = {"before": before, "after": conditions()}
    energy = energy_from_record(trace, record, effort)
    return dict(energy, record=record.to_dict(), trace=trace.to_dict(), **told)


def _kept(trace: PowerTrace) -> PowerTrace:
    """The trace as it goes into a profile: to the microsecond and the microwatt, so that it is not all digits."""
    return trace._replace(times_s=np.round(trace.times_s, 6), values=np.round(trace.values, 3))
