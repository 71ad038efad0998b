"""A bound on the optimum and a price for each bounded resource: Lagrange multipliers by Kelley's cutting planes.

    L(p) = min over schedules of  objective + sum of p_r * (resource_r - bound_r)     p_r >= 0

L never exceeds the optimum; its maximum over p is close to it, and the prices found there tell the label-setting
which labels cannot lead to an optimum. Every evaluation is one shortest path, and so a schedule: the feasible ones
bound the optimum from above. Handler and Zang (1980) do this for one constraint; two need a small linear programme.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from bottlekit.planning.schedule.costs import Vector
from bottlekit.planning.schedule.paths import Path
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.shortest import ToGo

MOST_ROUNDS = 14
# Of the best prices, whose ways to the end complete labels; those of the others are hardly ever better.
MOST_COMPLETIONS = 4


@dataclasses.dataclass(frozen=True)
class Price:
    """Prices for the bounds: under `weights`, and with `constant`, no schedule within the bounds costs less.

    `to_go`: the least such cost from each state.
    """

    weights: tuple[float, ...]
    constant: float
    to_go: ToGo


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """`lower`: no schedule within the bounds costs less. `best`: the cheapest such one seen. `prices`: best first.

    `completions` (few, states, 3): what the ways to the end cost that the best prices know. Nothing here looks at a
    bound of the objective itself.
    """

    lower: float
    best: Path | None
    prices: tuple[Price, ...]
    completions: Table


Solve = Callable[[tuple[float, ...]], tuple[ToGo, Path]]


def relaxation(
    objective: Sequence[float],
    bounds: Mapping[int, float],
    solve: Solve,
    completed: Callable[[ToGo], Table],
    known: Sequence[Path],
) -> Relaxation:
    """Search the prices.

    `objective`: the weights of the resources in it; `bounds[resource]`: the most, of one or two resources that can
    be kept one by one; `solve(weights)`: a shortest path; `completed`: the resources of every way to the end that
    it found; `known`: schedules that are known already.
    """
    weights, resources, most = np.array(objective), list(bounds), np.array(list(bounds.values()))
    scale = max(1e-9, *(float(path.resources @ weights) for path in known))
    # Prices above this mean that a thousandth of a bound is worth all of the objective.
    highest = 1e3 * scale / np.maximum(most, 1e-6 * max(scale, 1.0))
    cuts: list[tuple[float, Vector]] = []
    best: Path | None = None
    rounds: list[tuple[float, tuple[float, ...], float, ToGo]] = []

    def learn(path: Path) -> tuple[float, Vector]:
        nonlocal best
        value, excess = float(path.resources @ weights), path.resources[resources] - most
        if all(over <= within(bound) for over, bound in zip(excess, most, strict=True)) and (
            best is None or value < best.resources @ weights
        ):
            best = path
        cuts.append((value, excess))
        return value, excess

    for path in known:
        learn(path)
    while len(rounds) < MOST_ROUNDS:
        upper, prices = _highest_of_cuts(cuts, highest)
        if rounds and upper - max(one[0] for one in rounds) <= 1e-7 * max(abs(upper), 1e-9):
            break
        priced = weights.copy()
        priced[resources] += prices
        to_go, path = solve(tuple(priced.tolist()))
        value, excess = learn(path)
        rounds.append((value + float(prices @ excess), tuple(priced.tolist()), -float(prices @ most), to_go))
    rounds.sort(key=lambda one: -one[0])
    ranked = tuple(Price(priced, constant, to_go) for _, priced, constant, to_go in rounds)
    completions = np.stack([completed(price.to_go) for price in ranked[:MOST_COMPLETIONS]])
    return Relaxation(rounds[0][0], best, ranked, completions)


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
