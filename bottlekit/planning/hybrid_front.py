"""The hybrid networks worth choosing from: nobody else is better in one thing and worse in none.

    candidates (a network with its curve) --every threshold--> points --Pareto--> front

Four things count: accuracy and the share that leaves early, the more the better; modelled energy and mean bytes an
image, the less the better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bottlekit.planning.hybrid_energy import HybridEnergy, Layer, hybrid_energy


@dataclasses.dataclass(frozen=True)
class HybridPoint:
    """A network at one threshold: fractions 0..1, modelled mJ an image, how many times less than full precision,
    mean payload bytes an image over all images."""

    network: str
    threshold: float
    accuracy: float
    early_share: float
    energy_mj: float
    energy_ratio: float
    payload_bytes: float


def points_of_network(
    name: str, layers: Sequence[Layer], curve: Iterable[Mapping[str, Any]], payload_bytes: float
) -> list[HybridPoint]:
    """A point for each threshold of a network's curve; `payload_bytes` is what sending one image takes."""
    points = []
    for place in curve:
        energy: HybridEnergy = hybrid_energy(layers, place["early_share"])
        points.append(
            HybridPoint(
                network=name,
                threshold=place["threshold"],
                accuracy=place["accuracy"],
                early_share=place["early_share"],
                energy_mj=energy.mean_mj,
                energy_ratio=energy.ratio,
                payload_bytes=(1.0 - place["early_share"]) * payload_bytes,
            )
        )
    return points


def front(points: Sequence[HybridPoint]) -> list[HybridPoint]:
    """The points that no other dominates, the cheapest in energy first; of equals, the first."""
    kept: list[HybridPoint] = []
    for point in sorted(
        points, key=lambda one: (one.energy_mj, -one.accuracy, one.payload_bytes, -one.early_share)
    ):
        if not any(_at_least_as_good(other, point) for other in kept):
            kept.append(point)
    return kept


def _at_least_as_good(one: HybridPoint, other: HybridPoint) -> bool:
    return (
        one.energy_mj <= other.energy_mj
        and one.accuracy >= other.accuracy
        and one.payload_bytes <= other.payload_bytes
        and one.early_share >= other.early_share
    )
