"""The wireless networks of the papers, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.specs import LinkSpec

# Uplink rate, alpha and beta: BottleNet, Table 3 (the same as Butterfly, Table III): averages of the U.S., power
# after Huang et al. 2012. Downlink rate and alpha: JointDNN.
LINKS: dict[str, LinkSpec] = {
    link.name: link
    for link in (
        LinkSpec(
            name="3g",
            uplink_mbps=1.1,
            downlink_mbps=2.0275,
            alpha_up_mw_per_mbps=868.98,
            alpha_down_mw_per_mbps=122.12,
            beta_mw=817.88,
        ),
        LinkSpec(
            name="4g",
            uplink_mbps=5.85,
            downlink_mbps=13.76,
            alpha_up_mw_per_mbps=438.39,
            alpha_down_mw_per_mbps=51.97,
            beta_mw=1288.04,
        ),
        LinkSpec(
            name="wifi",
            uplink_mbps=18.88,
            downlink_mbps=54.97,
            alpha_up_mw_per_mbps=283.17,
            alpha_down_mw_per_mbps=137.01,
            beta_mw=132.86,
        ),
    )
}


# 5G radios after Narayanan et al., SIGCOMM 2021 (a whole phone). They have no typical rate: it has to be given. No
# power at rest was published for the low band.
RADIOS: dict[str, dict[str, float]] = {
    "5g-mmwave": {
        "alpha_up_mw_per_mbps": 8.88,
        "alpha_down_mw_per_mbps": 1.73,
        "beta_mw": 5664.0,
        "beta_down_mw": 5237.0,
    },
    "5g-low": {"alpha_up_mw_per_mbps": 32.2, "alpha_down_mw_per_mbps": 11.5},
}

# What a radio spends after its last transfer before it sleeps: seconds times mW (Huang et al. 2012; 4G is LTE).
RADIO_TAILS_MJ: dict[str, float] = {"3g": 8.1 * 804.0, "4g": 11.6 * 1060.0, "wifi": 0.24 * 119.0}

OPTIONS = {
    "uplink_mbps": "--uplink-mbps",
    "downlink_mbps": "--downlink-mbps",
    "alpha_up_mw_per_mbps": "--alpha",
    "beta_mw": "--beta",
    "rtt_ms": "--rtt-ms",
}


def link_from_name(name: str, changes: Mapping[str, float] | None = None) -> LinkSpec:
    """The link called `name`, with `changes` to its fields; UnknownNameError lists those that exist.

    A 5G radio needs a rate among the changes; without a downlink's, that is the uplink's.
    """
    name, changes = name.lower(), dict(changes or {})
    if name in RADIOS:
        return _described(name, {**RADIOS[name], **changes}, f"the radio {name} has no typical rate: it")
    if name not in LINKS:
        hint = "Describe another one with --uplink-mbps, --alpha and --beta."
        raise UnknownNameError("link", name, [*LINKS, *RADIOS], hint)
    if not changes:
        return LINKS[name]
    return dataclasses.replace(LINKS[name], name=f"{name}, changed", **changes)


def link_from_numbers(numbers: Mapping[str, float]) -> LinkSpec:
    """A link of the user's own. Nothing is known of the way back: as fast and as costly as the way there."""
    return _described(
        "custom",
        {"alpha_down_mw_per_mbps": numbers.get("alpha_up_mw_per_mbps", 0.0), **numbers},
        "a link of your own",
    )


def radio_tail_mj(link: LinkSpec) -> float:
    """What the link's radio spends after it sent; UsageError if nobody measured that."""
    name = link.name.removesuffix(", changed")
    if name not in RADIO_TAILS_MJ:
        raise UsageError(
            f"the tail of the radio of the link {link.name} is not known; known are: {', '.join(RADIO_TAILS_MJ)}"
        )
    return RADIO_TAILS_MJ[name]


def _described(name: str, fields: dict[str, float], what: str) -> LinkSpec:
    missing = [
        OPTIONS[field] for field in ("uplink_mbps", "alpha_up_mw_per_mbps", "beta_mw") if field not in fields
    ]
    if missing:
        raise UsageError(f"{what} needs {', '.join(missing)} as well; or name a link to change: --link wifi")
    return LinkSpec(**{"name": name, "downlink_mbps": fields["uplink_mbps"], **fields})  # type: ignore[arg-type]
