"""From a profile to plan.json: Algorithm 1's selection, with what it assumed written down beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bottlekit.planning.candidates import candidates_from_profile
from bottlekit.planning.energy import TX2_POWER_MW, uplink_power_mw
from bottlekit.planning.pareto import known_criteria, pareto_front
from bottlekit.planning.selection import rank
from bottlekit.specs import LinkSpec, Objective, to_dict

PLAN_FORMAT = "bottlekit-plan"
PLAN_VERSION = 1


def plan_from_profile(
    profile: Mapping[str, Any],
    link: LinkSpec,
    objective: Objective = "latency",
    *,
    profile_sha256: str | None = None,
    server_profile: Mapping[str, Any] | None = None,
    server_profile_sha256: str | None = None,
    where: str = "the profile",
    server_where: str = "the server's profile",
    device_load: float = 1.0,
    server_load: float = 1.0,
    device_power_mw: float = TX2_POWER_MW,
    include_beta: bool = True,
    accuracy_floor: float | None = None,
    max_bytes: float | None = None,
    max_device_bytes: float | None = None,
    downlink_bytes: float = 0.0,
    energy_weight: float | None = None,
    radio_tail_mj: float = 0.0,
    only_pareto: bool = False,
) -> dict[str, Any]:
    """The plan for one link, as plan.json holds it: `ranking` is best first, `only_pareto` of it the Pareto front.

    The parameters are those of `rank`; `where` and `server_where` name the profiles in errors. Raises ReportError
    for a profile that cannot be used, PlanError if nothing satisfies the bounds, UsageError for impossible numbers.
    """
    candidates = candidates_from_profile(profile, server_profile, where, server_where)
    choices = rank(
        candidates,
        link,
        objective,
        device_load=device_load,
        server_load=server_load,
        device_power_mw=device_power_mw,
        include_beta=include_beta,
        accuracy_floor=accuracy_floor,
        max_bytes=max_bytes,
        max_device_bytes=max_device_bytes,
        downlink_bytes=downlink_bytes,
        energy_weight=energy_weight,
        radio_tail_mj=radio_tail_mj,
    )
    front = pareto_front(choices)
    criteria = known_criteria(choices)
    if only_pareto:
        choices = front
    chosen = {choice.candidate.label for choice in choices}
    framed = all(
        candidate.offloaded_bytes > candidate.payload_bytes for candidate in candidates if candidate.payload_bytes
    )
    return {
        "format": PLAN_FORMAT,
        "version": PLAN_VERSION,
        "profile_sha256": profile_sha256,
        "server_profile_sha256": server_profile_sha256,
        "link": to_dict(link),
        "objective": objective if energy_weight is None else "weighted",
        "emulated": any("emulated" in one.device_origin + one.server_origin for one in candidates),
        "assumptions": {
            "time_statistic": "p50_ms",
            "bytes_statistic": "mean",
            "server_times": "the device's profile" if server_profile is None else "the server's profile",
            "device_emulation": profile.get("emulation"),
            "server_emulation": (profile if server_profile is None else server_profile).get("emulation"),
            "device_load": device_load,
            "server_load": server_load,
            "device_power_mw": device_power_mw,
            "device_power_origin": "modelled",
            "include_beta": include_beta,
            "uplink_power_mw": uplink_power_mw(link, include_beta),
            "framing": "counted" if framed else "not counted",
            "input_jpeg_coding": "not counted",
            "downlink_bytes": downlink_bytes,
            "accuracy_floor": accuracy_floor,
            "max_bytes": max_bytes,
            "max_device_bytes": max_device_bytes,
            "energy_weight": energy_weight,
            "radio_tail_mj": radio_tail_mj,
        },
        "ranking": [{**choice.to_dict(), "pareto": choice in front} for choice in choices],
        "pareto_criteria": list(criteria),
        "excluded": sorted(candidate.label for candidate in candidates if candidate.label not in chosen),
    }
