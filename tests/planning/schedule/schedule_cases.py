"""Random schedule problems, the same for the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np

from bottlekit.planning.links import LINKS
from bottlekit.planning.schedule import (
    BackwardTimes,
    Bounds,
    ScheduleProblem,
    chain_tensors,
    schedule_from_problem,
    summed_groups,
    training_problem,
    with_skips,
)
from bottlekit.planning.schedule.problem import Table

KINDS = (
    (),
    ("energy_mj",),
    ("cloud_ms",),
    ("latency_ms",),
    ("energy_mj", "cloud_ms"),
    ("energy_mj", "latency_ms"),
    ("cloud_ms", "latency_ms"),
    ("energy_mj", "cloud_ms", "latency_ms"),
)


def random_groups(generator: np.random.Generator, per_layer: Table) -> Table:
    """Groups that take up to a third less than the sum of their layers, and now and then more."""
    count = len(per_layer)
    factors = generator.uniform(0.65, 1.05, (count, count))
    np.fill_diagonal(factors, 1.0)
    return summed_groups(list(per_layer)) * factors


def random_problem(seed: int, training: bool = False, skips: bool = False, most_layers: int = 7) -> ScheduleProblem:
    """A network of a few layers on a mobile that is slower than the cloud, with features that grow and shrink."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, most_layers + 1))
    link = LINKS[str(generator.choice(["3g", "4g", "wifi"]))]
    link = dataclasses.replace(link, rtt_ms=float(generator.choice([0.0, 3.0])))
    sizes = np.exp(generator.uniform(np.log(200.0), np.log(60_000.0), count + 1))
    tensors = chain_tensors(list(sizes), list(sizes * generator.uniform(0.5, 1.0)))
    if skips:
        sources = generator.integers(0, max(count - 1, 1), 3)
        tensors = with_skips(tensors, [(int(one), int(generator.integers(one, count + 1))) for one in sources])
    mobile_ms = random_groups(generator, generator.uniform(1.0, 30.0, count))
    problem = ScheduleProblem(
        names=tuple(f"layer {number}" for number in range(count)),
        mobile_ms=mobile_ms,
        mobile_mj=mobile_ms * generator.uniform(0.8, 2.0, (count, count)),
        cloud_ms=random_groups(generator, generator.uniform(0.1, 6.0, count)),
        tensors=tensors,
        link=link,
        objective="latency" if generator.random() < 0.5 else "energy",
        include_beta=bool(generator.random() < 0.5),
        whole_runs=bool(seed % 4 == 1),
        fixed_boundaries=frozenset({1}) if generator.random() < 0.2 else frozenset(),
    )
    if generator.random() < 0.15:
        # One machine cannot run one of the layers, in whatever group.
        layer = int(generator.integers(count))
        name = "cloud_ms" if generator.random() < 0.5 else "mobile_ms"
        table = getattr(problem, name).copy()
        table[: layer + 1, layer:] = np.inf
        problem = dataclasses.replace(problem, **{name: table})
    if training:
        backward = BackwardTimes(
            mobile_ms=random_groups(generator, generator.uniform(2.0, 60.0, count)),
            mobile_mj=random_groups(generator, generator.uniform(2.0, 90.0, count)),
            cloud_ms=random_groups(generator, generator.uniform(0.2, 12.0, count)),
            weight_bytes=list(np.exp(generator.uniform(np.log(100.0), np.log(40_000.0), count))),
        )
        problem = training_problem(problem, backward)
    return problem


def bounded(problem: ScheduleProblem, kind: tuple[str, ...], seed: int) -> ScheduleProblem:
    """The problem with bounds of this kind, somewhere between the least and what no bound would give."""
    generator = np.random.default_rng([seed, 1])
    free = [
        schedule_from_problem(dataclasses.replace(problem, objective=objective))
        for objective in ("latency", "energy")
    ]
    values = {}
    for name in kind:
        low = min(getattr(one, name) for one in free) if name != "cloud_ms" else 0.0
        high = max(getattr(one, name) for one in free)
        values[name] = float(low * 0.9 + (high * 1.2 - low * 0.9) * generator.uniform(0.0, 1.0) ** 0.5)
    return dataclasses.replace(problem, bounds=Bounds(**values))
