"""The wireless networks of the papers, by name."""

from __future__ import annotations

from bottlekit.errors import UnknownNameError
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


def link_from_name(name: str) -> LinkSpec:
    """The link called `name`; UnknownNameError lists those that exist."""
    try:
        return LINKS[name.lower()]
    except KeyError:
        hint = "Describe another one with --uplink-mbps, --alpha and --beta."
        raise UnknownNameError("link", name, LINKS, hint) from None
