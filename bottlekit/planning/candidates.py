"""The ways to run one inference, from a profile: one collaborative per bundle, mobile-only, cloud-only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from bottlekit.errors import ReportError
from bottlekit.planning.energy import not_negative, positive
from bottlekit.planning.profile import ProfiledBundle, bundles_from_profile

Setup = Literal["mobile-only", "cloud-only", "collaborative"]
Network = Literal["split", "baseline", "full"]
SETUPS: tuple[Setup, ...] = ("collaborative", "mobile-only", "cloud-only")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run one inference, before the network is known.

    `network` is what runs: the split one, the uncompressed baseline, or the bottlenecked network in one piece.
    `split` and `bundle` are None but for collaborative. `offloaded_bytes` is what the radio sends: the payload and,
    where known, its framing; 0 for mobile-only. `device_ms` and `server_ms` hold at no load, None where nothing
    runs there. `device_power_mw` is what the device was measured to draw meanwhile; None: to be assumed.
    `device_macs`: multiply-accumulates on the device; `device_bytes`: the engine it holds; None: not known.
    """

    setup: Setup
    split: str | None
    split_index: int
    bundle: str | None
    network: Network
    accuracy: float | None
    payload_bytes: float
    offloaded_bytes: float
    device_ms: float | None
    server_ms: float | None
    device_power_mw: float | None = None
    device_origin: str = "measured"
    server_origin: str = "measured"
    device_macs: float | None = None
    device_bytes: float | None = None

    def __post_init__(self) -> None:
        for name in ("device_ms", "server_ms", "device_power_mw"):
            value = getattr(self, name)
            if value is not None:
                positive(value, f"the {name} of {self.label}")
        for name in ("payload_bytes", "offloaded_bytes", "device_macs", "device_bytes"):
            value = getattr(self, name)
            if value is not None:
                not_negative(value, f"the {name} of {self.label}")

    @property
    def label(self) -> str:
        """How people call it: the bundle's name, or the setup."""
        return self.bundle or self.setup


def candidates_from_profile(
    profile: Mapping[str, Any],
    server_profile: Mapping[str, Any] | None = None,
    where: str = "the profile",
    server_where: str = "the server's profile",
) -> tuple[Candidate, ...]:
    """One collaborative candidate per bundle, mobile-only and cloud-only where the profiles allow them.

    Times are medians. Device times are `profile`'s; server times `server_profile`'s or, without one, `profile`'s.
    ReportError names what a profile lacks.
    """
    on_device = bundles_from_profile(profile, where)
    on_server = on_device if server_profile is None else _matching(on_device, server_profile, where, server_where)
    candidates = [_collaborative(device, server) for device, server in zip(on_device, on_server, strict=True)]

    # All bundles of a fleet carry the same uncompressed network: the first that was measured speaks for it.
    whole: tuple[Network, ...] = ("baseline", "full")
    for network in whole:
        measured = [bundle for bundle in on_device if network in bundle.phases]
        if measured:
            candidates.append(_mobile_only(measured[0], network))
            break
    sending = [
        (device, server)
        for device, server in zip(on_device, on_server, strict=True)
        if "baseline" in server.phases and device.input_jpeg_bytes is not None
    ]
    if sending:
        candidates.append(_cloud_only(*sending[0]))
    return tuple(candidates)


def joined_origin(origins: Iterable[str]) -> str:
    """The origin of a number made of several: each word once, "measured+modelled"."""
    words = {word for origin in origins for word in origin.split("+")}
    return "+".join(word for word in ("measured", "modelled", "emulated") if word in words)


def _matching(
    on_device: Sequence[ProfiledBundle], server_profile: Mapping[str, Any], where: str, server_where: str
) -> tuple[ProfiledBundle, ...]:
    """The server's measurements of the same bundles, in the same order."""
    by_name = {bundle.name: bundle for bundle in bundles_from_profile(server_profile, server_where)}
    for bundle in on_device:
        if bundle.name not in by_name:
            raise ReportError(
                f"{server_where} does not have the bundle {bundle.name} of {where}; it has: "
                f"{', '.join(by_name)}. Run `bottlekit bench` on the server with the same fleet"
            )
        if by_name[bundle.name].sha256 != bundle.sha256:
            raise ReportError(
                f"{where} and {server_where} measured two different bundles called {bundle.name}; "
                "bench the same export on both machines"
            )
    return tuple(by_name[bundle.name] for bundle in on_device)


def _collaborative(device: ProfiledBundle, server: ProfiledBundle) -> Candidate:
    head, encode = device.phases["head"], device.phases["encode"]
    decode, tail = server.phases["decode"], server.phases["tail"]
    return Candidate(
        setup="collaborative",
        split=device.split,
        split_index=device.split_index,
        bundle=device.name,
        network="split",
        accuracy=device.accuracy,
        payload_bytes=device.payload_bytes,
        offloaded_bytes=device.payload_bytes + (device.framing_bytes or 0.0),
        device_ms=head.ms + encode.ms,
        server_ms=decode.ms + tail.ms,
        device_origin=joined_origin([head.origin, encode.origin]),
        server_origin=joined_origin([decode.origin, tail.origin]),
        device_macs=None if device.macs is None else device.macs.get("head"),
        device_bytes=head.engine_bytes,
    )


def _mobile_only(bundle: ProfiledBundle, network: Network) -> Candidate:
    """The whole network on the device; without a baseline the bottlenecked one, whose accuracy nobody measured."""
    return Candidate(
        setup="mobile-only",
        split=None,
        split_index=0,
        bundle=None,
        network=network,
        accuracy=bundle.baseline_accuracy if network == "baseline" else None,
        payload_bytes=0.0,
        offloaded_bytes=0.0,
        device_ms=bundle.phases[network].ms,
        server_ms=None,
        device_origin=bundle.phases[network].origin,
        device_macs=_macs_of(bundle, network),
        device_bytes=bundle.phases[network].engine_bytes,
    )


def _macs_of(bundle: ProfiledBundle, network: Network) -> float | None:
    """Of the uncompressed network; of the bottlenecked one, those of its halves."""
    macs = bundle.macs or {}
    if network == "baseline":
        return macs.get("baseline")
    return macs["head"] + macs["tail"] if "head" in macs and "tail" in macs else None


def _cloud_only(device: ProfiledBundle, server: ProfiledBundle) -> Candidate:
    jpeg_bytes = device.input_jpeg_bytes or 0.0
    return Candidate(
        setup="cloud-only",
        split=None,
        split_index=0,
        bundle=None,
        network="baseline",
        accuracy=device.input_jpeg_accuracy,
        payload_bytes=jpeg_bytes,
        offloaded_bytes=jpeg_bytes + (device.framing_bytes or 0.0),
        device_ms=None,
        server_ms=server.phases["baseline"].ms,
        server_origin=server.phases["baseline"].origin,
        device_macs=0.0,
        device_bytes=0.0,
    )
