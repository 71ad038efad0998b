"""What a transfer and a computation cost: time in ms, energy in mJ.

    time of a transfer    T = bytes * 8 / rate                          (Butterfly, Algorithm 1: TU = F / NB)
    power of the radio    P = alpha * rate + beta                       (Huang et al. 2012; BottleNet, section 3.1)
    energy                E = P * T                                     (Butterfly, Algorithm 1: TM * PM, TU * PU)

Butterfly and JointDNN print communication energies that only follow with beta = 0, BottleNet's Table 4 follows with
beta: so beta is a switch, and whoever prints an energy says which was used.
"""

from __future__ import annotations

from math import isfinite

from bottlekit.errors import UsageError
from bottlekit.specs import LinkSpec

# BottleNet, Table 5 (and Butterfly, Table V), mobile-only on the Jetson TX2: 20.5 mJ in 15.7 ms, which is 1306 mW.
TX2_MOBILE_ONLY_MJ = 20.5
TX2_MOBILE_ONLY_MS = 15.7
TX2_POWER_MW = TX2_MOBILE_ONLY_MJ / TX2_MOBILE_ONLY_MS * 1000.0


def positive(value: float, what: str) -> float:
    """`value` if it is a finite number above zero; UsageError naming `what` otherwise."""
    if not (isfinite(value) and value > 0):
        raise UsageError(f"{what} must be a positive number, not {value}")
    return float(value)


def not_negative(value: float, what: str) -> float:
    """`value` if it is a finite number of at least zero; UsageError naming `what` otherwise."""
    if not (isfinite(value) and value >= 0):
        raise UsageError(f"{what} must be 0 or more, not {value}")
    return float(value)


def transfer_ms(size_bytes: float, rate_mbps: float) -> float:
    """The time in ms that `size_bytes` take at `rate_mbps` (Mbit/s, 1 M = 10^6). Nothing takes no time."""
    size_bytes = not_negative(size_bytes, "the size of a transfer in bytes")
    return size_bytes * 8.0 / (positive(rate_mbps, "a rate in Mbit/s") * 1000.0)


def uplink_power_mw(link: LinkSpec, include_beta: bool = True) -> float:
    """The radio's power in mW while it sends at the link's uplink rate."""
    return link.alpha_up_mw_per_mbps * link.uplink_mbps + (link.beta_mw if include_beta else 0.0)


def downlink_power_mw(link: LinkSpec, include_beta: bool = True) -> float:
    """The radio's power in mW while it receives at the link's downlink rate (JointDNN)."""
    beta_mw = link.beta_mw if link.beta_down_mw is None else link.beta_down_mw
    return link.alpha_down_mw_per_mbps * link.downlink_mbps + (beta_mw if include_beta else 0.0)


def energy_mj(power_mw: float, time_ms: float) -> float:
    """The energy in mJ of `power_mw` for `time_ms`."""
    return not_negative(power_mw, "a power in mW") * not_negative(time_ms, "a time in ms") / 1000.0
