"""How long bytes take on a link whose rate is known: arithmetic, for the pacer, the model and the pictures.

serial line   a piece is on the line for size / rate, one piece after the other      (the pacer; real radios)
token bucket  what fits into the bucket leaves at once, the rest at the rate          (tc tbf)
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

# Of each packet on a veth: Ethernet 14, IPv4 20, TCP 20 with time stamps 12.
HEADER_BYTES = 66
_ETHERNET_BYTES = 14


class Rate:
    """A rate in Mbit/s that changes in steps: `steps` are (from when in s, Mbit/s), 0 for an outage."""

    def __init__(self, steps: Sequence[tuple[float, float]]) -> None:
        if not steps or any(later[0] <= one[0] for one, later in itertools.pairwise(steps)):
            raise ValueError("a rate needs steps in the order of time")
        if any(not 0 <= mbps < float("inf") for _, mbps in steps) or not steps[-1][1]:
            raise ValueError("rates are 0 or more, and the last one lets bytes through")
        self.steps = [(float(begin_s), float(mbps)) for begin_s, mbps in steps]
        self._begins = [begin_s for begin_s, _ in self.steps]

    def at(self, now_s: float) -> float:
        """The rate in Mbit/s at a time; before the first step, the first one's."""
        return self.steps[self._number(now_s)][1]

    def done_s(self, begin_s: float, size_bytes: float) -> float:
        """When so many bytes have gone that begin to go then, over every change of the rate."""
        left_bits, now_s = size_bytes * 8.0, begin_s
        for number in range(self._number(begin_s), len(self.steps)):
            bits_per_s = self.steps[number][1] * 1e6
            end_s = self._begins[number + 1] if number + 1 < len(self.steps) else math.inf
            if bits_per_s and left_bits <= (end_s - now_s) * bits_per_s:
                return now_s + left_bits / bits_per_s
            if bits_per_s:
                left_bits -= (end_s - now_s) * bits_per_s
            now_s = end_s
        raise AssertionError("the last step has a rate")

    def _number(self, now_s: float) -> int:
        return max(bisect.bisect_right(self._begins, now_s) - 1, 0)


class SerialLine:
    """One direction of a link: pieces go one after the other, each for as long as its bits take."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._free_s = -math.inf

    def due_s(self, came_s: float, size_bytes: int) -> float:
        """When the last bit of a piece arrives that came then; pieces are told in their order."""
        self._free_s = self.rate.done_s(max(self._free_s, came_s), size_bytes)
        return self._free_s


class Tbf(NamedTuple):
    """tc's token bucket filter on a veth: rate, bucket, and the largest IP packet."""

    mbps: float
    burst_bytes: int
    mtu_bytes: int

    @property
    def words(self) -> list[str]:
        """As tc wants it. A queue of 400 ms, and 2 s at rates at which one packet takes long."""
        latency_ms = 400 if self.mbps >= 0.5 else 2000
        rate = f"{round(self.mbps * 1e6)}bit"
        return ["tbf", "rate", rate, "burst", str(self.burst_bytes), "latency", f"{latency_ms}ms"]

    def wire_bytes(self, size_bytes: float) -> float:
        """So many bytes of TCP, and the headers of the packets that they make."""
        most = self.mtu_bytes + _ETHERNET_BYTES - HEADER_BYTES
        return size_bytes + math.ceil(size_bytes / most) * HEADER_BYTES

    def transfer_ms(self, size_bytes: float) -> float:
        """For so many bytes in one go, after a pause that filled the bucket."""
        return max(self.wire_bytes(size_bytes) - self.burst_bytes, 0.0) * 8e-3 / self.mbps


def tbf_for(mbps: float) -> Tbf:
    """A bucket of one packet; small packets, so that little of a payload goes through free.

    At rates where a short packet's tokens would come in faster than the kernel's timer wakes, packets are longer.
    """
    mtu = 256 if mbps < 10.0 else 1500
    return Tbf(mbps, mtu + _ETHERNET_BYTES + 2, mtu)
