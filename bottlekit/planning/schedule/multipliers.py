"""A bound on the optimum and a price for each bounded resource: Lagrange multipliers by Kelley's cutting planes.

    L(p) = min over schedules of  objective + sum of p_r * (resource_r - bound_r)     p_r >= 0

L never exceeds the optimum; its maximum over p is close to it, and the prices found there tell the label-setting
which labels cannot lead to an optimum. Every evaluation is one shortest path, and so a schedule: the feasible ones
bound the optimum from above. Handler and Zang (1980) do this for one constraint; two need a small linear programme.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from bottlekit.planning.schedule.costs import RESOURCES, Vector
from bottlekit.planning.schedule.paths import Path
from bottlekit.planning.schedule.shortest import ToGo

MOST_ROUNDS = 14


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """The best prices found. `lower`: no schedule within the bounds costs less. `best`: the cheapest such one seen.

    `weights`: of the three resources; `constant` is to be added to a cost under these weights.
    """

    lower: float
    weights: tuple[float, ...]
    constant: float
    to_go: ToGo
    best: Path | None


Solve = Callable[[tuple[float, ...]], tuple[ToGo, Path]]


def relaxation(objective: int, bounds: Sequence[tuple[int, float]], solve: Solve, scale: float) -> Relaxation:
    """Search the prices. `bounds`: (resource, most); `solve(weights)`: a shortest path; `scale`: of the objective.

    `bounds` holds at most two resources, none of which is the objective. Every bound can be kept alone.
    """
    resources = [resource for resource, _ in bounds]
    most = np.array([bound for _, bound in bounds])
    # Prices above this mean that a thousandth of a bound is worth all of the objective.
    highest = 1e3 * scale / np.maximum(most, 1e-6 * max(scale, 1.0))
    cuts: list[tuple[float, Vector]] = []
    best: Path | None = None
    found: Relaxation | None = None
    prices = np.zeros(len(bounds))
    for _ in range(MOST_ROUNDS):
        weights = tuple(
            1.0 if at == objective else float(prices[resources.index(at)]) if at in resources else 0.0
            for at in range(len(RESOURCES))
        )
        to_go, path = solve(weights)
        excess = path.resources[resources] - most
        value = float(path.resources[objective])
        lower = value + float(prices @ excess)
        if found is None or lower > found.lower:
            found = Relaxation(lower, weights, -float(prices @ most), to_go, None)
        if all(over <= within(bound) for over, bound in zip(excess, most, strict=True)) and (
            best is None or value < best.resources[objective]
        ):
            best = path
        cuts.append((value, excess))
        upper, prices = _highest_of_cuts(cuts, highest)
        if upper - found.lower <= 1e-9 * max(abs(upper), 1e-9):
            break
    assert found is not None
    return dataclasses.replace(found, best=best)


def within(most: float) -> float:
    """By how much a bound may be exceeded: sums in floating point are not exact."""
    return 0.0 if most == float("inf") else abs(most) * 1e-9 + 1e-12


def _highest_of_cuts(cuts: Sequence[tuple[float, Vector]], highest: Vector) -> tuple[float, Vector]:
    """max over 0 <= p <= highest of the least of value + p . excess: at a corner where as many planes meet."""
    size = len(highest)
    scaled = [(value, excess * highest) for value, excess in cuts]
    # Planes z = value + q . excess in the unit box, and its sides; every corner is where size + 1 of them meet.
    rows = [np.append(-excess, 1.0) for _, excess in scaled]
    right = [value for value, _ in scaled]
    for axis in range(size):
        side = np.zeros(size + 1)
        side[axis] = 1.0
        rows += [side, side]
        right += [0.0, 1.0]
    matrix, vector = np.array(rows), np.array(right)
    chosen = np.array(list(combinations(range(len(rows)), size + 1)))
    systems = matrix[chosen]
    regular = np.abs(np.linalg.det(systems)) > 1e-12 * np.abs(systems).max(axis=(1, 2))
    corners = np.linalg.solve(systems[regular], vector[chosen[regular]][..., None])[..., 0]
    prices = corners[:, :size]
    inside = ((prices >= -1e-9) & (prices <= 1.0 + 1e-9)).all(axis=1)
    prices = np.clip(prices[inside], 0.0, 1.0)
    heights = np.min([value + prices @ excess for value, excess in scaled], axis=0)
    at = int(np.argmax(heights))
    return float(heights[at]), prices[at] * highest
