"""What a trace of answers says: totals against the best choice of every stretch, and what its breaks did.

All times in s since the trace began; answers are what `device.py` prints.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MOBILE_ONLY = "mobile-only"
# How long before the end of a break an image may be asked that is answered by the server after all.
PATIENCE_S = 0.5

Answers = Sequence[Mapping[str, Any]]


class Break(NamedTuple):
    """The server could not be reached from `begin_s` to `end_s`; `kind` is "outage", "cut" or "stall"."""

    kind: str
    begin_s: float
    end_s: float


def oracle_ms(answers: Answers, fixed: Mapping[str, Answers], begins_s: Sequence[float]) -> tuple[float, list[str]]:
    """The total latency of these images, had each been answered by what was quickest in its stretch of the trace.

    `fixed` are the runs held to one option; a stretch lasts from one of `begins_s` to the next, and an option's
    latency there is its median. An option without an answer in a stretch was waiting, and is no choice. Returns the
    total in ms and the choice of each stretch.
    """
    medians = {name: _medians_ms(run, begins_s) for name, run in fixed.items()}
    choices, total_ms = [], 0.0
    stretches = [_stretch(answer["at_s"], begins_s) for answer in answers]
    for number in range(len(begins_s)):
        possible = {name: found[number] for name, found in medians.items() if number in found}
        choice = min(possible, key=lambda name: possible[name])
        choices.append(choice)
        total_ms += stretches.count(number) * possible[choice]
    return total_ms, choices


def total_ms(answers: Answers) -> float:
    """All latencies together."""
    return float(sum(answer["latency_ms"] for answer in answers))


def through_breaks(answers: Answers, breaks: Sequence[Break]) -> list[dict[str, Any]]:
    """For each break: how many images were asked in it, how many were not answered here, and when it came back.

    `back_s` is how long after the break the first image was answered by the server again, None if none was before
    the next break.
    """
    found = []
    for number, one in enumerate(breaks):
        until_s = breaks[number + 1].begin_s if number + 1 < len(breaks) else float("inf")
        inside = [answer for answer in answers if one.begin_s <= answer["at_s"] < one.end_s - PATIENCE_S]
        back = [
            answer["at_s"] - one.end_s
            for answer in answers
            if one.end_s - PATIENCE_S <= answer["at_s"] < until_s and answer["split"] not in (MOBILE_ONLY, None)
        ]
        found.append(
            {
                **one._asdict(),
                "images": len(inside),
                "not_answered_here": sum(answer["split"] != MOBILE_ONLY for answer in inside),
                "lost": sum(answer["lost"] is not None for answer in inside),
                "longest_ms": max((answer["latency_ms"] for answer in inside), default=None),
                "back_s": round(max(back[0], 0.0), 3) if back else None,
            }
        )
    return found


def _stretch(at_s: float, begins_s: Sequence[float]) -> int:
    return max(bisect.bisect_right(begins_s, at_s) - 1, 0)


def _medians_ms(answers: Answers, begins_s: Sequence[float]) -> dict[int, float]:
    by_stretch: dict[int, list[float]] = {}
    for answer in answers:
        by_stretch.setdefault(_stretch(answer["at_s"], begins_s), []).append(answer["latency_ms"])
    return {number: statistics.median(taken) for number, taken in by_stretch.items()}
