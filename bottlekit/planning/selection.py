"""Algorithm 1's selection phase (BottleNet, section 2.3; Butterfly, Algorithm 1) over a profiled fleet.

    profile --candidates_from_profile--> candidates (times and bytes)   what was measured, no network yet
    candidates + link + load ---rank---> choices, best first            every term and where it comes from

    latency_j = TM_j + TU_j + TC_j             energy_j = TM_j * PM + TU_j * PU

    TM  device: head + encode (with the reduction unit and the compressor), times the device's load
    TU  uplink: offloaded bytes / rate
    TC  server: decode + tail (with the decompressor and the restoration unit), times the server's load
    PM  the device's power while it computes, assumed unless it was measured
    PU  the radio's power while it sends

The device's energy only: what the server uses, and what the device idles away while it waits, is not counted, as in
the papers. Mobile-only (the uncompressed network on the device) and cloud-only (the input as JPEG, the uncompressed
network on the server) take part under the same formula; as in the papers, cloud-only's JPEG coding is not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.planning.candidates import SETUPS, Candidate, joined_origin
from bottlekit.planning.energy import (
    TX2_POWER_MW,
    downlink_power_mw,
    energy_mj,
    not_negative,
    positive,
    transfer_ms,
    uplink_power_mw,
)
from bottlekit.planning.limits import allowed_candidates
from bottlekit.specs import LinkSpec, Objective

OBJECTIVES: tuple[Objective, ...] = ("latency", "energy")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A candidate on a link: what it costs, term by term, and the origin of every number."""

    candidate: Candidate
    terms_ms: Mapping[str, float]
    terms_mj: Mapping[str, float]
    origins: Mapping[str, str]

    @property
    def latency_ms(self) -> float:
        """The sum of the times."""
        return sum(self.terms_ms.values())

    @property
    def energy_mj(self) -> float:
        """The sum of the device's energies."""
        return sum(self.terms_mj.values())

    def to_dict(self) -> dict[str, Any]:
        """As a line of plan.json's ranking."""
        candidate = self.candidate
        return {
            "setup": candidate.setup,
            "split": candidate.split,
            "bundle": candidate.bundle,
            "network": candidate.network,
            "accuracy": candidate.accuracy,
            "payload_bytes": candidate.payload_bytes,
            "offloaded_bytes": candidate.offloaded_bytes,
            "device_macs": candidate.device_macs,
            "device_bytes": candidate.device_bytes,
            "terms_ms": dict(self.terms_ms),
            "latency_ms": self.latency_ms,
            "terms_mj": dict(self.terms_mj),
            "energy_mj": self.energy_mj,
            "origins": dict(self.origins),
        }


def rank(
    candidates: Iterable[Candidate],
    link: LinkSpec,
    objective: Objective = "latency",
    *,
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
) -> tuple[Choice, ...]:
    """The candidates that satisfy the bounds, best first: argmin is element 0, whatever the order they came in.

    `device_load`, `server_load`: by what factor the load stretches the profiled times (K_mobile, K_cloud).
    `device_power_mw`: PM of candidates that bring none. `accuracy_floor`: a fraction 0..1. `max_bytes`: bound on
    the offloaded bytes. `downlink_bytes`: size of the answer; 0, as in the papers, leaves its time and energy out.
    A link's round-trip time counts once for whatever uses the network. `max_device_bytes`: bound on the engine that
    the device holds. `energy_weight`: 0..1 instead of an objective; energy counts that much and latency the rest,
    each as a multiple of the least there is. `radio_tail_mj`: what the radio spends after it sent, once.

    Equal costs: the other objective decides, then collaborative before mobile-only before cloud-only, then the
    earlier split. Raises PlanError if nothing satisfies the bounds, UsageError for a number that makes no sense.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    positive(device_load, "--device-load")
    positive(server_load, "--server-load")
    positive(device_power_mw, "--device-power-mw")
    not_negative(downlink_bytes, "--downlink-bytes")
    not_negative(radio_tail_mj, "the energy of the radio's tail")
    if energy_weight is not None and not 0.0 <= energy_weight <= 1.0:
        raise UsageError(f"--energy-weight must be a fraction 0..1, not {energy_weight}")
    allowed = allowed_candidates(tuple(candidates), accuracy_floor, max_bytes, max_device_bytes)
    choices = [
        _choice(
            candidate, link, device_load, server_load, device_power_mw, include_beta, downlink_bytes, radio_tail_mj
        )
        for candidate in allowed
    ]
    least_ms = min(choice.latency_ms for choice in choices)
    least_mj = min(choice.energy_mj for choice in choices)

    def cost(choice: Choice) -> tuple[float, float, int, int, str]:
        costs = (choice.latency_ms, choice.energy_mj)
        first, second = costs if objective == "latency" else costs[::-1]
        if energy_weight is not None:
            multiples = (choice.latency_ms / least_ms, choice.energy_mj / least_mj if least_mj else 1.0)
            first = multiples[0] * (1.0 - energy_weight) + multiples[1] * energy_weight
            second = choice.latency_ms
        candidate = choice.candidate
        return (first, second, SETUPS.index(candidate.setup), candidate.split_index, candidate.label)

    return tuple(sorted(choices, key=cost))


def _choice(
    candidate: Candidate,
    link: LinkSpec,
    device_load: float,
    server_load: float,
    device_power_mw: float,
    include_beta: bool,
    downlink_bytes: float,
    radio_tail_mj: float,
) -> Choice:
    terms_ms: dict[str, float] = {}
    terms_mj: dict[str, float] = {}
    origins: dict[str, str] = {}
    if candidate.device_ms is not None:
        terms_ms["device"] = candidate.device_ms * device_load
        origins["device_ms"] = _scaled(candidate.device_origin, device_load)
        if candidate.device_power_mw is not None:
            terms_mj["device"] = energy_mj(candidate.device_power_mw, terms_ms["device"])
            origins["device_mj"] = origins["device_ms"]
        else:
            terms_mj["device"] = energy_mj(device_power_mw, terms_ms["device"])
            origins["device_mj"] = joined_origin([origins["device_ms"], "modelled"])
    if candidate.offloaded_bytes:
        terms_ms["uplink"] = transfer_ms(candidate.offloaded_bytes, link.uplink_mbps)
        terms_mj["uplink"] = energy_mj(uplink_power_mw(link, include_beta), terms_ms["uplink"])
        origins["uplink_ms"] = origins["uplink_mj"] = "modelled"
        if radio_tail_mj:
            terms_mj["radio_tail"] = radio_tail_mj
            origins["radio_tail_mj"] = "modelled"
        if link.rtt_ms:
            terms_ms["rtt"] = link.rtt_ms
            origins["rtt_ms"] = "modelled"
        if downlink_bytes:
            terms_ms["downlink"] = transfer_ms(downlink_bytes, link.downlink_mbps)
            terms_mj["downlink"] = energy_mj(downlink_power_mw(link, include_beta), terms_ms["downlink"])
            origins["downlink_ms"] = origins["downlink_mj"] = "modelled"
    if candidate.server_ms is not None:
        terms_ms["server"] = candidate.server_ms * server_load
        origins["server_ms"] = _scaled(candidate.server_origin, server_load)
    origins["latency_ms"] = joined_origin(origin for name, origin in origins.items() if name.endswith("_ms"))
    origins["energy_mj"] = joined_origin(origin for name, origin in origins.items() if name.endswith("_mj"))
    return Choice(candidate, terms_ms, terms_mj, origins)


def _scaled(origin: str, load: float) -> str:
    return origin if load == 1.0 else joined_origin([origin, "modelled"])
