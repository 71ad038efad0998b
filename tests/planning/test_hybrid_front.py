from __future__ import annotations

import itertools
import random

from bottlekit.planning.hybrid_energy import Layer, hybrid_energy
from bottlekit.planning.hybrid_front import HybridPoint, front, points_of_network


def point(accuracy: float, energy: float, size: float, early: float) -> HybridPoint:
    return HybridPoint("a", 0.0, accuracy, early, energy, 1 / energy, size)


def dominates(one: HybridPoint, other: HybridPoint) -> bool:
    pairs = [
        (one.accuracy, other.accuracy),
        (one.early_share, other.early_share),
        (-one.energy_mj, -other.energy_mj),
        (-one.payload_bytes, -other.payload_bytes),
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def test_the_front_is_what_nobody_dominates() -> None:
    generator = random.Random(1)
    values = [0.1, 0.2, 0.3, 0.4]
    points = [point(*(generator.choice(values) for _ in range(4))) for _ in range(200)]
    found = front(points)
    different = set(points)
    assert set(found) == {one for one in different if not any(dominates(other, one) for other in different)}
    assert len(found) == len(set(found))
    assert not any(dominates(one, other) for one, other in itertools.permutations(found, 2))
    assert [one.energy_mj for one in found] == sorted(one.energy_mj for one in found)


def test_a_networks_points_follow_its_curve() -> None:
    layers = [Layer("a", "edge", 1000, 4), Layer("b", "cloud", 1000, 32)]
    curve = [
        {"threshold": 0.0, "early_share": 0.0, "accuracy": 0.9},
        {"threshold": 1.0, "early_share": 0.75, "accuracy": 0.8},
    ]
    first, second = points_of_network("n", layers, curve, payload_bytes=200.0)
    assert (first.payload_bytes, second.payload_bytes) == (200.0, 50.0)
    assert second.energy_mj == hybrid_energy(layers, 0.75).mean_mj
    assert (second.network, second.threshold, second.accuracy) == ("n", 1.0, 0.8)


def test_no_points_have_no_front() -> None:
    assert front([]) == []
