import dataclasses
from typing import Any

import numpy as np
import pytest

from bottlekit.errors import PlanError, UsageError
from bottlekit.planning.links import LINKS
from bottlekit.planning.schedule import (
    BackwardTimes,
    Bounds,
    ScheduleProblem,
    Tensor,
    chain_tensors,
    schedule_from_groups,
    schedule_from_problem,
    summed_groups,
    training_problem,
    with_skips,
)


def problem(**changes: Any) -> ScheduleProblem:
    values: dict[str, Any] = {
        "names": ("a", "b", "c"),
        "mobile_ms": summed_groups([4.0, 8.0, 2.0]),
        "mobile_mj": summed_groups([5.0, 9.0, 3.0]),
        "cloud_ms": summed_groups([1.0, 2.0, 0.5]),
        "tensors": chain_tensors([50_000.0, 1_000.0, 3_000.0, 40.0]),
        "link": LINKS["wifi"],
    }
    return ScheduleProblem(**{**values, **changes})


def test_groups_that_add_up() -> None:
    table = summed_groups([1.0, 2.0, 4.0])
    assert table.tolist() == [[1.0, 3.0, 7.0], [0.0, 2.0, 6.0], [0.0, 0.0, 4.0]]


def test_a_chain_with_skips() -> None:
    tensors = with_skips(chain_tensors([10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]), [(0, 2), (0, 2), (1, 3)])
    assert [tensor.readers for tensor in tensors] == [(0, 2), (1, 3), (2,), (3,)]
    assert [tensor.download_bytes for tensor in tensors] == [1.0, 2.0, 3.0, 4.0]
    assert chain_tensors([1.0, 2.0], wants_result=False)[-1].readers == ()


def changed(table: Any, at: tuple[int, int], value: float) -> Any:
    copy = table.copy()
    copy[at] = value
    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ()}, "no layer"),
        ({"names": ("a", "b")}, r"mobile_ms has the shape \(3, 3\), 2 layers need \(2, 2\)"),
        ({"objective": "money"}, "must be latency or energy"),
        ({"cloud_ms": changed(summed_groups([1.0] * 3), (0, 2), np.nan)}, r"cloud_ms of the layers 0..2 .* nan"),
        ({"mobile_ms": changed(summed_groups([1.0] * 3), (1, 1), -1.0)}, r"mobile_ms of the layers 1..1 .* -1.0"),
        ({"mobile_mj": changed(summed_groups([1.0] * 3), (0, 0), np.inf)}, "mobile_mj of the layers 0..0"),
        ({"update_bytes": (1.0,)}, "update_bytes has 1 values for 3 layers"),
        ({"update_bytes": (1.0, -2.0, 0.0)}, "a layer's weights must be 0 or more"),
        ({"radio_tail_mj": float("nan")}, "radio's tail must be 0 or more"),
        ({"fixed_boundaries": frozenset({4})}, "no boundary 4"),
        ({"tensors": (Tensor("t", 4, (4,), 1.0, 1.0),)}, r"comes from boundary 4; there are 0\.\.3"),
        ({"tensors": (Tensor("t", 2, (1,), 1.0, 1.0),)}, "tensor t is read by layer 1"),
        ({"tensors": (Tensor("t", 2, (4,), 1.0, 1.0),)}, "tensor t is read by layer 4"),
        ({"tensors": (Tensor("t", 2, (2,), float("nan"), 1.0),)}, "upload of the tensor t"),
        ({"tensors": (Tensor("t", 2, (2,), 1.0, -1.0),)}, "download of the tensor t"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        problem(**changes)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bounds_are_numbers(value: float) -> None:
    for name in ("latency_ms", "energy_mj", "cloud_ms"):
        with pytest.raises(UsageError, match=f"--max-{name.replace('_', '-')}"):
            Bounds(**{name: value})


def test_what_stands_below_the_diagonal_does_not_matter() -> None:
    table = summed_groups([4.0, 8.0, 2.0])
    table[np.tril_indices(3, -1)] = -7.0
    assert schedule_from_problem(problem(mobile_ms=table)).runs == schedule_from_problem(problem()).runs


def test_loads_stretch_times_and_what_the_mobile_spends() -> None:
    loaded = problem().with_loads(2.0, 3.0)
    assert loaded.mobile_ms[0, 0] == 8.0
    assert loaded.mobile_mj[0, 0] == 10.0
    assert loaded.cloud_ms[0, 2] == 10.5
    with pytest.raises(UsageError, match="--server-load must be a positive number"):
        problem().with_loads(cloud=0.0)


# What a schedule costs


def test_every_term_of_a_schedule() -> None:
    link = dataclasses.replace(LINKS["wifi"], rtt_ms=5.0)
    schedule = schedule_from_groups(problem(link=link), [(0, 0, 0), (1, 1, 2)])
    up_ms, down_ms = 1_000 * 8e-3 / 18.88, 40 * 8e-3 / 54.97
    assert schedule.terms_ms == pytest.approx(
        {"mobile": 4.0, "cloud": 2.5, "uplink": up_ms + 2.5, "downlink": down_ms + 2.5, "update": 0.0}
    )
    up_mw, down_mw = 283.17 * 18.88 + 132.86, 137.01 * 54.97 + 132.86
    assert schedule.terms_mj == pytest.approx(
        {
            "mobile": 5.0,
            "uplink": up_mw * up_ms / 1e3,
            "downlink": down_mw * down_ms / 1e3,
            "update": 0.0,
            "radio_tail": 0.0,
        }
    )
    values = schedule.to_dict()
    assert values["latency_ms"] == schedule.latency_ms
    assert values["switches"] == 1
    assert values["transfers"][1] == {
        "boundary": 3,
        "to": "mobile",
        "tensors": ["boundary 3"],
        "bytes": 40.0,
        "ms": pytest.approx(down_ms + 2.5),
        "mj": pytest.approx(down_mw * down_ms / 1e3),
    }


@pytest.mark.parametrize("groups", [[], [(0, 0, 1)], [(0, 1, 2)], [(0, 0, 1), (1, 1, 2)], [(2, 0, 2)], [(0, 0, 3)]])
def test_groups_that_do_not_cover_the_layers_are_refused(groups: list[tuple[int, int, int]]) -> None:
    with pytest.raises(UsageError, match="layer"):
        schedule_from_groups(problem(), groups)


def test_a_block_crossed_by_too_much_is_named() -> None:
    names = tuple(map(str, range(24)))
    tensors = chain_tensors([100.0] * 25)
    # The last layer puts together what every layer made: each of them may be on either machine, or on both.
    tensors = with_skips(tensors, [(source, 23) for source in range(24)])
    times = summed_groups([1.0] * 24)
    dense = problem(names=names, mobile_ms=times, mobile_mj=times, cloud_ms=times, tensors=tensors)
    with pytest.raises(PlanError, match=r"tensors cross boundary \d+ \(boundary 0, boundary 1, .*merge the layers"):
        schedule_from_problem(dense)
    inside = frozenset(range(1, 24))
    assert schedule_from_problem(dataclasses.replace(dense, fixed_boundaries=inside)).switches in (0, 2)


# Training


def backward(weights: list[float]) -> BackwardTimes:
    return BackwardTimes(
        mobile_ms=summed_groups([7.0, 16.0, 5.0]),
        mobile_mj=summed_groups([9.0, 18.0, 6.0]),
        cloud_ms=summed_groups([2.0, 4.0, 1.0]),
        weight_bytes=weights,
    )


def test_a_training_step_mirrors_the_network() -> None:
    step = training_problem(problem(), backward([10.0, 20.0, 30.0]))
    assert step.names == ("a", "b", "c", "c, backward", "b, backward", "a, backward")
    assert step.update_bytes == (0.0, 0.0, 0.0, 30.0, 20.0, 10.0)
    assert np.diag(step.mobile_ms).tolist() == [4.0, 8.0, 2.0, 5.0, 16.0, 7.0]
    # From the last forward layer to the second backward one.
    assert step.cloud_ms[2, 4] == 0.5 + 1.0 + 4.0
    gradients = {tensor.name: (tensor.source, tensor.readers) for tensor in step.tensors[4:]}
    assert gradients == {"gradient of boundary 1": (5, (5,)), "gradient of boundary 2": (4, (4,))}


def test_gradients_add_up_from_reader_to_reader() -> None:
    skipping = problem(tensors=with_skips(problem().tensors, [(1, 2)]))
    step = training_problem(skipping, backward([10.0, 20.0, 30.0]))
    gradients = {tensor.name: (tensor.source, tensor.readers) for tensor in step.tensors[4:]}
    # Layer 2 finds its share first, layer 1 adds its own, and layer 0 wants the sum.
    assert gradients["gradient of boundary 1 from layer 2"] == (4, (4,))
    assert gradients["gradient of boundary 1"] == (5, (5,))


def test_only_weights_that_the_cloud_changed_are_downloaded() -> None:
    step = training_problem(problem(), backward([1e4, 2e4, 4e4]))
    mixed = schedule_from_groups(step, [(0, 0, 0), (1, 1, 4), (0, 5, 5)])
    assert mixed.update_bytes == 6e4
    assert mixed.terms_ms["update"] == pytest.approx(6e4 * 8e-3 / 54.97)
    assert mixed.terms_mj["update"] > 0.0
    # Gradient of what layer 0 made; the network's result is no one's but the loss's.
    assert [(one.boundary, one.to, one.bytes) for one in mixed.transfers] == [
        (1, "cloud", 1_000.0),
        (5, "mobile", 1_000.0),
    ]
    local = schedule_from_groups(step, [(0, 0, 5)])
    assert (local.update_bytes, local.transfers) == (0.0, ())


def test_heavy_weights_keep_the_backward_pass_on_the_mobile() -> None:
    light = schedule_from_problem(training_problem(problem(), backward([0.0] * 3)))
    heavy = schedule_from_problem(training_problem(problem(), backward([1e9] * 3)))
    assert light.cloud_ms > heavy.cloud_ms
    assert heavy.update_bytes == 0.0


def test_weights_for_every_layer() -> None:
    with pytest.raises(UsageError, match="weight_bytes has 1 values for 3 layers"):
        training_problem(problem(), backward([1.0]))
