"""How long a schedule takes to plan, against the number of layers, networkx and the paper's integer programme.

    unbounded    any number of switches, no bound: one shortest path
    battery      latency within a battery bound
    load         latency within a cloud-load bound
    service      energy within a latency bound
    two          latency within a battery and a cloud-load bound
    three        the same, and no schedule may take much longer than the one that this gives
    impossible   latency and cloud load that exclude each other: what is the least of each?
    networkx     unbounded, as a shortest path through a graph with an arc for each group; with building it
    milp         unbounded, JointDNN's integer linear programme in scipy's HiGHS

Each of the first seven for a chain, and with residual connections around every two layers. The networks are random:
times as of a mobile and a cloud ten times as fast, each of the n^2 groups up to a tenth faster than its layers,
features from 0.2 to 300 kB, 4G. A bound lies between what the other objective and no bound give. Before anything is
timed, planners that answer the same question must give the same optimum. Times are the process's own (CPU time):
planners compute, and what else the machine does is not theirs.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import networkx
import numpy as np
from record import record

from bottlekit.errors import InfeasibleError
from bottlekit.planning.links import LINKS
from bottlekit.planning.planners import cloud_only, mobile_only
from bottlekit.planning.schedule import (
    Bounds,
    Schedule,
    ScheduleProblem,
    chain_tensors,
    schedule_from_problem,
    summed_groups,
    with_skips,
)
from bottlekit.specs import Objective

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/planning/schedule"))

from schedule_milp import optimum

CLAIM = "a schedule of 1,000 layers is planned in under 1 s with any number of bounds"
CLAIMED_LAYERS, CLAIMED_MS = 1_000, 1_000.0
SIZES = (20, 50, 100, 200, 500, 1_000, 2_000)
LARGEST_FOR_NETWORKX = 500
LARGEST_FOR_MILP = 50


def network(count: int, seed: int) -> ScheduleProblem:
    """A random chain of so many layers."""
    generator = np.random.default_rng([count, seed])
    faster = generator.uniform(0.9, 1.0, (2, count, count))
    mobile_ms = summed_groups(list(generator.uniform(0.1, 2.0, count))) * faster[0]
    return ScheduleProblem(
        names=tuple(str(layer) for layer in range(count)),
        mobile_ms=mobile_ms,
        mobile_mj=mobile_ms * 1.306,
        cloud_ms=summed_groups(list(generator.uniform(0.01, 0.2, count))) * faster[1],
        tensors=chain_tensors(list(np.exp(generator.uniform(np.log(2e2), np.log(3e5), count + 1)))),
        link=LINKS["4g"],
    )


def by_networkx(problem: ScheduleProblem) -> float:
    """The least latency of a chain, as a shortest path in networkx."""
    link, count = problem.link, problem.count
    up = [tensor.upload_bytes * 8e-3 / link.uplink_mbps for tensor in problem.tensors]
    down = [tensor.download_bytes * 8e-3 / link.downlink_mbps for tensor in problem.tensors]
    graph = networkx.DiGraph()
    tables = (problem.mobile_ms.tolist(), problem.cloud_ms.tolist())
    for machine in (0, 1):
        for first in range(count):
            row = tables[machine][first]
            graph.add_weighted_edges_from(
                ((first, machine, "begin"), (last + 1, machine, "end"), row[last]) for last in range(first, count)
            )
    for boundary in range(count + 1):
        for machine in (0, 1):
            other = (down, up)[machine][boundary]
            graph.add_edge((boundary, machine, "end"), (boundary, machine, "begin"), weight=0.0)
            graph.add_edge((boundary, 1 - machine, "end"), (boundary, machine, "begin"), weight=other)
    length: float = networkx.dijkstra_path_length(graph, (0, 0, "end"), (count, 0, "begin"))
    return length


def questions(plain: ScheduleProblem) -> dict[str, ScheduleProblem]:
    """What is asked about one network."""

    def solved(objective: Objective, **most: float) -> Schedule:
        return schedule_from_problem(dataclasses.replace(plain, objective=objective, bounds=Bounds(**most)))

    def asked(objective: Objective, **most: float) -> ScheduleProblem:
        bounds = Bounds(**{name: value * (1 + 1e-9) for name, value in most.items()})
        return dataclasses.replace(plain, objective=objective, bounds=bounds)

    free, thrifty = solved("latency"), solved("energy")
    # Half of the cloud's time has to go; of the battery's room, half is left.
    half = free.cloud_ms / 2.0
    quick, frugal = solved("latency", cloud_ms=half), solved("energy", cloud_ms=half)
    battery = (frugal.energy_mj + quick.energy_mj) / 2.0
    both = solved("latency", cloud_ms=half, energy_mj=battery * (1 + 1e-9))
    return {
        "unbounded": plain,
        "battery": asked("latency", energy_mj=(free.energy_mj + thrifty.energy_mj) / 2.0),
        "load": asked("latency", cloud_ms=half),
        "service": asked("energy", latency_ms=free.latency_ms * 1.02),
        "two": asked("latency", cloud_ms=half, energy_mj=battery),
        "three": asked("energy", cloud_ms=half, energy_mj=battery, latency_ms=both.latency_ms * 1.02),
        "impossible": asked("latency", cloud_ms=half, latency_ms=quick.latency_ms * 0.98),
    }


def problems(count: int, seed: int) -> dict[str, ScheduleProblem]:
    """What is planned for one size."""
    plain = network(count, seed)
    skips = [(layer, layer + 2) for layer in range(1, count - 3, 3)]
    residual = dataclasses.replace(plain, tensors=with_skips(plain.tensors, skips))
    free = schedule_from_problem(plain)
    assert free.latency_ms <= min(mobile_only(plain).latency_ms, cloud_only(plain).latency_ms)
    return {
        **questions(plain),
        **{f"{name}, residual": problem for name, problem in questions(residual).items()},
    }


def planned(problem: ScheduleProblem) -> Schedule | None:
    """The schedule; None where the bounds exclude each other."""
    try:
        return schedule_from_problem(problem)
    except InfeasibleError:
        return None


def timed(planner: Callable[[], object], samples_ms: list[float]) -> None:
    """One run, its time in ms behind the others."""
    started = time.process_time()
    planner()
    samples_ms.append((time.process_time() - started) * 1e3)


def measure(count: int, seed: int, rounds: int, samples: dict[str, dict[str, list[float]]]) -> None:
    """Compare the planners on one network, and add the time of each to its samples by number of layers."""
    asked = problems(count, seed)
    planners: dict[str, Callable[[], object]] = {name: partial(planned, problem) for name, problem in asked.items()}
    impossible = {name for name, problem in asked.items() if planned(problem) is None}
    assert impossible == {"impossible", "impossible, residual"}, impossible
    plain = asked["unbounded"]
    best: Schedule = schedule_from_problem(plain)
    if count <= LARGEST_FOR_NETWORKX:
        assert abs(by_networkx(plain) / best.latency_ms - 1.0) < 1e-9
        planners["networkx"] = partial(by_networkx, plain)
    if count <= LARGEST_FOR_MILP:
        assert abs((optimum(plain) or 0.0) / best.latency_ms - 1.0) < 1e-6
        planners["milp"] = partial(optimum, plain)
    for _ in range(rounds):
        for name, planner in planners.items():
            timed(planner, samples.setdefault(name, {}).setdefault(str(count), []))


def main() -> None:
    """Compare, measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="how often each is timed, in turns")
    parser.add_argument("--seeds", type=int, default=5, help="so many random networks of each size")
    parser.add_argument("--most-layers", type=int, default=SIZES[-1])
    options = parser.parse_args()

    samples: dict[str, dict[str, list[float]]] = {}
    for count in (size for size in SIZES if size <= options.most_layers):
        for seed in range(options.seeds):
            measure(count, seed, options.rounds, samples)
        taken = {name: sizes[str(count)] for name, sizes in samples.items() if str(count) in sizes}
        words = (f"{name} {statistics.median(ms):.1f} ({max(ms):.1f})" for name, ms in taken.items())
        print(f"{count:5} layers, median (worst) in ms: {', '.join(words)}", flush=True)

    medians_ms = {
        name: {size: statistics.median(taken) for size, taken in sizes.items()} for name, sizes in samples.items()
    }
    growth = {}
    for name, sizes in medians_ms.items():
        large = [(float(size), ms) for size, ms in sizes.items() if float(size) >= 100.0]
        if len(large) > 1:
            logs = np.log(np.array(large))
            growth[name] = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    print("exponent of n, from 100 layers on: " + ", ".join(f"{name} {at:.2f}" for name, at in growth.items()))
    claimed = {name: sizes[str(CLAIMED_LAYERS)] for name, sizes in samples.items() if str(CLAIMED_LAYERS) in sizes}
    missed = {name: max(ms) for name, ms in claimed.items() if max(ms) >= CLAIMED_MS}
    print(f"{CLAIMED_LAYERS} layers above {CLAIMED_MS:g} ms: {missed or 'none'}")
    figures = {"medians_ms": medians_ms, "missed_ms": missed, "growth_exponent": growth, "samples_ms": samples}
    print(f"recorded in {record(CLAIM, figures)}")


if __name__ == "__main__":
    main()
