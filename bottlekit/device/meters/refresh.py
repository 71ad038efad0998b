"""How often a sensor really has something new: measured, because drivers change it by themselves."""

import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from .meter import Meter

# Fewer intervals than this have no median worth the name. Two seconds give as many of a Jetson's slow mode, 422 ms.
_LEAST_INTERVALS = 3
# Where two seconds are too few, as with jtop, it goes on for at most so many times as long.
_MOST_TIMES = 4.0
_POLL_S = 0.0002


def measured_refresh(
    meter: Meter,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Dict[str, Any]:
    """Read an open meter as fast as it goes for `seconds`, and see how often its first rail changes.

    ::

        refresh_ms   the median interval between two changes; None if there were too few
        why_not      why refresh_ms is None, or None
        changes      how many changes there were
        distinct     how many different values
        readings     how many readings were taken
        poll_ms      the median interval between two readings: a refresh close to it may really be shorter
        seconds      how long it took

    A change that is smaller than the sensor's step is not seen, so an idle machine's refresh comes out too long,
    never too short. Where the meter tells when a reading was taken (`stamp_s`), those times count instead. As long
    as there are too few changes it goes on, up to four times as long.
    """
    started_s = clock()
    taken_s: List[float] = []
    changed_s: List[float] = []
    values: List[float] = []
    before: Optional[float] = None
    while True:
        value = meter.read()[0]
        now_s = clock()
        taken_s.append(now_s)
        values.append(value)
        mark = value if meter.stamp_s is None else meter.stamp_s
        if meter.stamp_s is not None:
            if mark != before:
                changed_s.append(meter.stamp_s)
        # The first value has been there for who knows how long.
        elif before is not None and mark != before:
            changed_s.append(now_s)
        before = mark
        passed_s = now_s - started_s
        if passed_s >= seconds and (len(changed_s) > _LEAST_INTERVALS or passed_s >= _MOST_TIMES * seconds):
            break
        sleep(_POLL_S)
    intervals_s = np.diff(changed_s)
    enough = intervals_s.size >= _LEAST_INTERVALS
    return {
        "refresh_ms": float(np.median(intervals_s)) * 1e3 if enough else None,
        "why_not": None if enough else _too_few(meter, len(changed_s), taken_s[-1] - started_s),
        "changes": len(changed_s),
        "distinct": len(set(values)),
        "readings": len(values),
        "poll_ms": float(np.median(np.diff(taken_s))) * 1e3 if len(taken_s) > 1 else None,
        "seconds": taken_s[-1] - started_s,
    }


def _too_few(meter: Meter, changes: int, seconds: float) -> str:
    return "{} of the meter {} changed {} times in {:.1f} s, too few to tell; give it longer, or a load".format(
        meter.rails[0], meter.name, changes, seconds
    )
