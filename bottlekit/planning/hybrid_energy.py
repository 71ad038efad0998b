"""The modelled energy of a network with low-bit layers, an early exit and a cloud: its work by precision.

    energy of a multiply-accumulate    4.6 pJ * bits / 32   fp32 multiply 3.7 pJ + add 0.9 pJ, 45 nm (Horowitz 2014)
    memory traffic (an option)         bits moved * pJ per bit

    an image costs   device: edge + exit        and, if it does not leave early, + cloud
    compared with    the full-precision network: every multiply-accumulate of edge and cloud at 32 bits

This is how Conditionally Deep Hybrid Neural Networks counts: its two settings come out as 5.35 and 4.84 times less.
It says nothing about a processor that has no such arithmetic: origin "modelled", for comparing networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bottlekit.errors import UsageError

PJ_PER_FP32_MAC = 4.6
FULL_PRECISION_BITS = 32
# Reading 32 bits takes 640 pJ from DRAM and 5 pJ from 8 KiB of SRAM (45 nm; Han et al. 2016, after Horowitz).
DRAM_PJ_PER_BIT = 640 / 32
SRAM_PJ_PER_BIT = 5 / 32
PLACES = ("edge", "exit", "cloud")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One weighted layer, for one image: its place, multiply-accumulates, bits of weights and input, and how many
    weights, inputs and outputs it has."""

    name: str
    place: str
    macs: int
    bits: int
    weights: int = 0
    inputs: int = 0
    outputs: int = 0

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise UsageError(f"the layer {self.name} is at {self.place!r}, not at {', '.join(PLACES)}")
        if not 1 <= self.bits <= FULL_PRECISION_BITS:
            raise UsageError(f"the layer {self.name} has {self.bits} bits, not 1 to {FULL_PRECISION_BITS}")
        if min(self.macs, self.weights, self.inputs, self.outputs) < 0:
            raise UsageError(f"the layer {self.name} has counts below 0")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What moving data costs: every weight once from `weights_pj_per_bit` memory, inputs (in the layer's bits) and
    outputs (in 32 bits, as sums leave the layer) once each from `values_pj_per_bit` memory. A batch of one."""

    weights_pj_per_bit: float = DRAM_PJ_PER_BIT
    values_pj_per_bit: float = SRAM_PJ_PER_BIT


@dataclasses.dataclass(frozen=True)
class HybridEnergy:
    """Modelled energies in mJ for one image, and `ratio`: how many times less than full precision.

    `edge_mj` the device's part with its exit, always spent; `cloud_mj` what an image that stays adds;
    `mean_mj` the mean over all images at `early_share`; `full_precision_mj` the same network at 32 bits without an
    exit. `device_ratio` compares the device alone: what it spends now with what the whole network would cost it.
    """

    edge_mj: float
    cloud_mj: float
    full_precision_mj: float
    early_share: float

    @property
    def mean_mj(self) -> float:
        """The mean over all images, device and cloud together."""
        return self.edge_mj + (1.0 - self.early_share) * self.cloud_mj

    @property
    def ratio(self) -> float:
        """E_fp32 / (E_edge + (1 - early share) * E_cloud)."""
        return self.full_precision_mj / self.mean_mj

    @property
    def device_ratio(self) -> float:
        """E_fp32 / E_edge: without what the cloud spends."""
        return self.full_precision_mj / self.edge_mj

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the origin."""
        return {
            **dataclasses.asdict(self),
            "mean_mj": self.mean_mj,
            "ratio": self.ratio,
            "device_ratio": self.device_ratio,
            "origin": "modelled",
        }


def layers_from_records(records: Iterable[Mapping[str, Any]]) -> list[Layer]:
    """Layers from their JSON form, as bundles and checkpoints have them; UsageError for one that is none."""
    try:
        return [Layer(**record) for record in records]
    except TypeError as error:
        raise UsageError(f"this is no list of layers with their work: {error}") from error


def mac_pj(bits: int) -> float:
    """The energy in pJ of one multiply-accumulate of so many bits."""
    return PJ_PER_FP32_MAC * bits / FULL_PRECISION_BITS


def layer_pj(layer: Layer, bits: int, traffic: Traffic | None = None) -> float:
    """The energy in pJ of one layer computed in `bits`, for one image."""
    energy = layer.macs * mac_pj(bits)
    if traffic is not None:
        energy += layer.weights * bits * traffic.weights_pj_per_bit
        moved = layer.inputs * bits + layer.outputs * FULL_PRECISION_BITS
        energy += moved * traffic.values_pj_per_bit
    return energy


def hybrid_energy(
    layers: Iterable[Layer], early_share: float, traffic: Traffic | None = None, with_exit: bool = True
) -> HybridEnergy:
    """The modelled energies when a fraction `early_share` of the images leaves early.

    `with_exit` False leaves the exit's own work out. Raises UsageError for a share outside 0..1, or no layers.
    """
    if not 0.0 <= early_share <= 1.0:
        raise UsageError(f"the share that leaves early must be 0 to 1, not {early_share}")
    listed = list(layers)
    spent = dict.fromkeys(PLACES, 0.0)
    for layer in listed:
        spent[layer.place] += layer_pj(layer, layer.bits, traffic)
    full_pj = sum(layer_pj(layer, FULL_PRECISION_BITS, traffic) for layer in listed if layer.place != "exit")
    if full_pj <= 0.0:
        raise UsageError("a network without multiply-accumulates has no energy to compare")
    return HybridEnergy(
        edge_mj=(spent["edge"] + (spent["exit"] if with_exit else 0.0)) * 1e-9,
        cloud_mj=spent["cloud"] * 1e-9,
        full_precision_mj=full_pj * 1e-9,
        early_share=early_share,
    )
