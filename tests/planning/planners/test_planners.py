import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.errors import BottlekitError, PlanError, UnknownNameError, UsageError
from bottlekit.planning.links import LINKS
from bottlekit.planning.planners import PLANNERS, LayerRegression, LayerShape, min_cut, single_cut
from bottlekit.planning.planners.max_flow import Network
from bottlekit.planning.schedule import (
    Bounds,
    Schedule,
    ScheduleProblem,
    Tensor,
    chain_tensors,
    schedule_from_problem,
    summed_groups,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "schedule"))

from schedule_cases import KINDS, bounded, random_problem


def planned(name: str, problem: ScheduleProblem) -> Schedule | None:
    try:
        return PLANNERS[name](problem)
    except PlanError:
        return None


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_no_planner_beats_the_engine(seed: int, training: bool) -> None:
    problem = random_problem(seed, training=training, skips=seed % 2 == 0)
    problem = bounded(problem, KINDS[seed % len(KINDS)], seed)
    best = planned("jointdnn", problem)
    for name in PLANNERS:
        schedule = planned(name, problem)
        if schedule is None:
            continue
        assert best is not None, f"{name} keeps bounds that jointdnn does not"
        assert schedule.cost(problem.objective) >= best.cost(problem.objective) * (1 - 1e-9)
        for bound in KINDS[seed % len(KINDS)]:
            assert getattr(schedule, bound) <= getattr(problem.bounds, bound) * (1 + 1e-8)


@pytest.mark.parametrize("seed", range(60))
def test_planners_that_see_more_are_never_worse(seed: int) -> None:
    problem = bounded(random_problem(seed, skips=seed % 3 == 0), KINDS[seed % len(KINDS)], seed)
    costs = [
        float("inf") if (schedule := planned(name, problem)) is None else schedule.cost(problem.objective)
        for name in ("jointdnn", "exhaustive", "single-cut", "mobile-only", "cloud-only")
    ]
    assert costs[0] <= costs[1] * (1 + 1e-9)
    assert costs[1] <= costs[2] * (1 + 1e-9)
    assert costs[2] <= min(costs[3:]) * (1 + 1e-9)


def additive(seed: int, one_way: bool) -> ScheduleProblem:
    """Layers that add up, no round trip; `one_way`: the way back costs as much as a network can."""
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 9))
    mobile = summed_groups(list(generator.uniform(1.0, 30.0, count)))
    down = 1e9 if one_way else 10.0
    tensors = [
        Tensor(f"t{at}", at, (at,), float(np.exp(generator.uniform(4.0, 10.0))), down) for at in range(count)
    ]
    readers = int(generator.integers(1, count))
    first = tensors[0]
    tensors[0] = dataclasses.replace(first, readers=tuple(sorted({*first.readers, readers})))
    return ScheduleProblem(
        names=tuple(map(str, range(count))),
        mobile_ms=mobile,
        mobile_mj=mobile * 1.5,
        cloud_ms=summed_groups(list(generator.uniform(0.1, 6.0, count))),
        tensors=(*tensors, Tensor("result", count, (count,), 40.0, 40.0)),
        link=LINKS["4g"],
        objective="latency" if seed % 2 else "energy",
    )


@pytest.mark.parametrize("seed", range(60))
def test_without_a_way_back_a_minimum_cut_is_the_optimum(seed: int) -> None:
    problem = additive(seed, one_way=True)
    assert min_cut(problem).cost(problem.objective) == pytest.approx(
        schedule_from_problem(problem).cost(problem.objective), rel=1e-9
    )


@pytest.mark.parametrize("seed", range(40))
def test_in_a_chain_that_adds_up_the_best_cut_is_a_minimum_cut(seed: int) -> None:
    problem = additive(seed, one_way=True)
    chain = [dataclasses.replace(tensor, readers=(tensor.source,)) for tensor in problem.tensors]
    problem = dataclasses.replace(problem, tensors=tuple(chain))
    assert min_cut(problem).cost(problem.objective) == pytest.approx(single_cut(problem).cost(problem.objective))


def test_a_minimum_cut_can_run_through_branches() -> None:
    # Two branches: the first is cheap on the mobile and large, the second heavy and small.
    tensors = (
        Tensor("input", 0, (0, 1), 2_000.0, 2_000.0),
        Tensor("large", 1, (2,), 90_000.0, 90_000.0),
        Tensor("small", 2, (2,), 100.0, 100.0),
        Tensor("result", 3, (3,), 40.0, 40.0),
    )
    mobile = summed_groups([1.0, 90.0, 1.0])
    problem = ScheduleProblem(
        ("light", "heavy", "join"), mobile, mobile, summed_groups([0.5, 1.0, 0.5]), tensors, LINKS["4g"]
    )
    assert schedule_from_problem(problem).latency_ms <= min_cut(problem).latency_ms


@pytest.mark.parametrize("seed", range(40))
def test_a_minimum_cut_is_minimal(seed: int) -> None:
    generator = np.random.default_rng(seed)
    nodes = 6
    arcs = [
        (tail, head, float(generator.integers(0, 9)))
        for tail, head in itertools.permutations(range(nodes), 2)
        if generator.random() < 0.5
    ]
    network = Network(nodes)
    for tail, head, capacity in arcs:
        network.add(tail, head, capacity)

    def cut(side: set[int]) -> float:
        return sum(capacity for tail, head, capacity in arcs if tail in side and head not in side)

    found = network.source_side(0, nodes - 1)
    sides = [
        {0, *chosen} for size in range(nodes - 1) for chosen in itertools.combinations(range(1, nodes - 1), size)
    ]
    assert 0 in found
    assert nodes - 1 not in found
    assert cut(found) == min(cut(side) for side in sides)


def test_an_infinite_flow_is_refused() -> None:
    network = Network(3)
    network.add(0, 1, float("inf"))
    network.add(1, 2, float("inf"))
    with pytest.raises(OverflowError):
        network.source_side(0, 2)


def example(count: int = 4, **more: object) -> ScheduleProblem:
    values: dict[str, object] = {
        "names": tuple(f"layer {number}" for number in range(count)),
        "mobile_ms": summed_groups([4.0] * count),
        "mobile_mj": summed_groups([5.0] * count),
        "cloud_ms": summed_groups([1.0] * count),
        "tensors": chain_tensors([5_000.0] * (count + 1)),
        "link": LINKS["4g"],
    }
    return ScheduleProblem(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mobile-only", "cloud-only", "min-cut"])
def test_a_planner_without_choice_says_which_bound_it_breaks(name: str) -> None:
    schedule = PLANNERS[name](example())
    bounds = Bounds(latency_ms=schedule.latency_ms - 1.0)
    with pytest.raises(PlanError, match=f"{name} has no schedule: --max-latency-ms .* 1 too much.*jointdnn"):
        PLANNERS[name](example(bounds=bounds))


@pytest.mark.parametrize("name", ["single-cut", "exhaustive"])
def test_a_planner_that_finds_nothing_says_so(name: str) -> None:
    with pytest.raises(PlanError, match=f"{name} has no schedule: no .* keeps the bounds"):
        PLANNERS[name](example(bounds=Bounds(latency_ms=0.5)))


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_no_planner_places_a_layer_where_it_cannot_run(name: str) -> None:
    cloud = summed_groups([1.0] * 4)
    cloud[:3, 2:] = np.inf
    problem = example(cloud_ms=cloud, mobile_ms=summed_groups([40.0] * 4))
    if name == "cloud-only":
        with pytest.raises(PlanError, match=r"the cloud cannot run the layers layer 0\.\.layer 3"):
            PLANNERS[name](problem)
    else:
        schedule = PLANNERS[name](problem)
        assert next(one for one, first, last in schedule.runs if first <= 2 <= last) == "mobile"
        assert np.isfinite(schedule.latency_ms)


def test_no_planner_switches_where_none_may() -> None:
    problem = example(fixed_boundaries=frozenset({1, 2, 3}), objective="energy")
    for name, planner in PLANNERS.items():
        assert len(planner(problem).runs) == 1, name
    nowhere = example(fixed_boundaries=frozenset(range(5)), objective="energy")
    for name in ("single-cut", "min-cut", "exhaustive", "jointdnn"):
        assert PLANNERS[name](nowhere).runs == (("mobile", 0, 3),), name


def test_exhaustive_refuses_what_would_take_forever() -> None:
    with pytest.raises(PlanError, match="up to 200 layers, not 201"):
        PLANNERS["exhaustive"](example(201))


# Neurosurgeon's regression


def layers_of(generator: np.random.Generator, count: int) -> list[LayerShape]:
    return [
        LayerShape(
            str(generator.choice(["Conv", "Gemm"])),
            float(generator.uniform(1e6, 1e9)),
            float(generator.uniform(1e3, 1e6)),
            float(generator.uniform(1e3, 1e6)),
        )
        for _ in range(count)
    ]


def true_ms(layer: LayerShape) -> float:
    rate = {"Conv": 2e-8, "Gemm": 9e-8}[layer.kind]
    return 0.3 + rate * layer.macs + 1e-6 * layer.input_elements


def test_a_regression_finds_what_is_linear() -> None:
    generator = np.random.default_rng(3)
    fitted = LayerRegression.fitted([(layer, true_ms(layer)) for layer in layers_of(generator, 60)])
    unseen = layers_of(generator, 10)
    assert fitted.predicted_ms(unseen) == pytest.approx([true_ms(layer) for layer in unseen], rel=1e-6)
    assert max(fitted.errors.values()) < 1e-6


def test_what_a_regression_misses_is_told() -> None:
    generator = np.random.default_rng(4)
    samples = [(layer, true_ms(layer) + generator.choice([-1.0, 1.0])) for layer in layers_of(generator, 80)]
    fitted = LayerRegression.fitted([(layer, max(ms, 0.0)) for layer, ms in samples])
    assert all(0.5 < error < 1.5 for error in fitted.errors.values())
    assert min(fitted.predicted_ms([LayerShape("Conv", 0.0, 0.0, 0.0)])) >= 0.0


@pytest.mark.parametrize("ms", [float("nan"), -1.0])
def test_a_regression_refuses_what_is_no_time(ms: float) -> None:
    with pytest.raises(UsageError, match="the time of a layer Conv"):
        LayerRegression.fitted([(LayerShape("Conv", 1.0, 1.0, 1.0), ms)])


def test_a_kind_that_was_never_measured_is_named() -> None:
    fitted = LayerRegression.fitted([(LayerShape("Conv", 1.0, 1.0, 1.0), 1.0)])
    with pytest.raises(UnknownNameError, match="'Softmax' does not exist; there are: Conv"):
        fitted.predicted_ms([LayerShape("Softmax", 1.0, 1.0, 1.0)])
    with pytest.raises(BottlekitError, match="no measured layer"):
        LayerRegression.fitted([])


def test_a_cut_chosen_by_prediction_is_paid_by_measurement() -> None:
    problem = example()
    believed = dataclasses.replace(problem, cloud_ms=summed_groups([100.0] * 4))
    schedule = single_cut(problem, believed)
    assert schedule.runs == (("mobile", 0, 3),)
    assert schedule.latency_ms == 16.0
    assert single_cut(problem).latency_ms < schedule.latency_ms
