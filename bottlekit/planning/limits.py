"""Bounds on candidates: what is too inaccurate, too large to send, or too large for the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from bottlekit.errors import PlanError, UsageError
from bottlekit.planning.candidates import Candidate
from bottlekit.planning.energy import not_negative


def allowed_candidates(
    candidates: Sequence[Candidate],
    accuracy_floor: float | None,
    max_bytes: float | None,
    max_device_bytes: float | None,
) -> Sequence[Candidate]:
    """Those that are accurate enough, offload little enough and fit into the device.

    Raises PlanError if none does, naming the one that comes closest; UsageError for a bound that makes no sense.
    """
    if not candidates:
        raise PlanError("there is no candidate to choose from; bench a bundle first")
    if accuracy_floor is not None:
        if not (isfinite(accuracy_floor) and 0.0 <= accuracy_floor <= 1.0):
            raise UsageError(f"--accuracy-floor must be a fraction 0..1, not {accuracy_floor}")
        known = [candidate for candidate in candidates if candidate.accuracy is not None]
        if not known:
            raise PlanError(
                f"--accuracy-floor {accuracy_floor:g} cannot be checked: no candidate's accuracy is known; "
                "export again with held-out data"
            )
        best = max(known, key=lambda candidate: (candidate.accuracy or 0.0, candidate.label))
        candidates = [candidate for candidate in known if (candidate.accuracy or 0.0) >= accuracy_floor]
        if not candidates:
            raise PlanError(
                f"no candidate reaches --accuracy-floor {accuracy_floor:g}: the best is {best.label} with "
                f"{best.accuracy:.4f}, {accuracy_floor - (best.accuracy or 0.0):.4f} short"
            )
    if max_bytes is not None:
        not_negative(max_bytes, "--max-bytes")
        least = min(candidates, key=lambda candidate: (candidate.offloaded_bytes, candidate.label))
        floor = "" if accuracy_floor is None else f" at --accuracy-floor {accuracy_floor:g}"
        candidates = [candidate for candidate in candidates if candidate.offloaded_bytes <= max_bytes]
        if not candidates:
            raise PlanError(
                f"no candidate offloads at most --max-bytes {max_bytes:g}{floor}: the least is {least.label} with "
                f"{least.offloaded_bytes:.0f} bytes, {least.offloaded_bytes - max_bytes:.0f} too many"
            )
    if max_device_bytes is not None:
        candidates = _that_fit(candidates, not_negative(max_device_bytes, "--max-device-mib"))
    return candidates


def _that_fit(candidates: Sequence[Candidate], max_device_bytes: float) -> Sequence[Candidate]:
    unknown = [candidate.label for candidate in candidates if candidate.device_bytes is None]
    if unknown:
        raise PlanError(
            f"--max-device-mib cannot be checked for {', '.join(unknown)}: the profile does not say how large its "
            "engines are; run `bottlekit bench` again"
        )
    fitting = [candidate for candidate in candidates if (candidate.device_bytes or 0.0) <= max_device_bytes]
    if not fitting:
        least = min(candidates, key=lambda candidate: (candidate.device_bytes or 0.0, candidate.label))
        mib = 2.0**20
        raise PlanError(
            f"no candidate fits into --max-device-mib {max_device_bytes / mib:g}: the smallest is {least.label} "
            f"with {(least.device_bytes or 0.0) / mib:.2f} MiB"
        )
    return fitting
