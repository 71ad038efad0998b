"""A known energy is found again, for every sensor; a naive mean of a short run does not find it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def experiment() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("recovered_energy")
    finally:
        sys.path.remove(str(BENCHMARKS))


SENSORS = ("INA3221, triggered", "INA3221, continuous", "jtop", "INA226", "NVML, loop of 5 ms", "RAPL")


def case_of(experiment: Any, title: str) -> Any:
    return next(case for case in experiment.CASES if case.title == title)


@pytest.mark.slow
@pytest.mark.parametrize("title", [*SENSORS, "NVML, rigid loop of 20 ms"])
def test_the_interval_holds_the_truth_in_95_of_100_runs(experiment: Any, title: str) -> None:
    case = case_of(experiment, title)
    assert case.proof
    runs = experiment.recovered(case, range(100))
    assert [experiment.held(runs, which) >= 95 for which in (0, 1)] == [True, True]


@pytest.mark.slow
def test_a_rigid_loop_without_gaps_is_precise_and_wrong(experiment: Any) -> None:
    runs = experiment.recovered(case_of(experiment, "NVML, rigid loop of 20 ms, no gaps"), range(20))
    assert experiment.held(runs, 0) <= 2
    assert np.median([abs(run["energy_mj"][0] / run["true_mj"][0] - 1.0) for run in runs]) > 0.1


def test_fifty_runs_at_ten_hertz_are_three_readings_and_far_off(experiment: Any) -> None:
    triggered, continuous = (experiment.naive(case, range(100)) for case in experiment.NAIVE)
    assert {run["readings"] for run in triggered + continuous} <= {2, 3, 4}
    assert experiment.near(triggered) < 70
    assert experiment.near(continuous) < 5


def test_the_simulated_energy_is_what_was_put_in(experiment: Any) -> None:
    work = experiment.TX2._replace(spread=0.0, unrest=0.0)
    effort = experiment.EnergyEffort(idle_s=1.0, run_s=2.0, repeats=2)
    truth = experiment.truth_of_protocol(work, effort, 0.001, np.random.RandomState(1))
    assert truth.gross_mj == pytest.approx(work.burst_mw * work.burst_s + work.host_mw * work.host_s)
    assert truth.net_mj == pytest.approx(truth.gross_mj - work.idle_mw * work.inference_s)
    for run in truth.record.runs:
        middles = np.array([(block[0], block[1]) for block in run.blocks])
        mean_mw = truth.mean_mw(middles[:, 0], middles[:, 1])
        assert mean_mw == pytest.approx(np.full(len(middles), truth.gross_mj / work.inference_s))
        gaps = np.array([[before[1], after[0]] for before, after in zip(run.blocks, run.blocks[1:], strict=False)])
        assert truth.mean_mw(gaps[:, 0], gaps[:, 1]) == pytest.approx(np.full(len(gaps), work.idle_mw))


def test_a_sensor_without_faults_shows_the_true_mean(experiment: Any) -> None:
    random = np.random.RandomState(3)
    effort = experiment.EnergyEffort(idle_s=1.0, run_s=2.0, repeats=2)
    truth = experiment.truth_of_protocol(experiment.TX2, effort, 0.001, random)
    perfect = experiment.Sensor("perfect", 0.02, 0.02, 0.02, 1e-6, 0.0)
    trace = experiment.trace_of(truth, perfect, random)
    inside = (trace.times_s > 1.0) & (trace.times_s < truth.end_s - 1.0)
    true_mw = truth.mean_mw(np.array([1.0]), np.array([truth.end_s - 1.0]))[0]
    assert trace.values[0, inside].mean() == pytest.approx(true_mw, rel=2e-3)
    counter = experiment.trace_of(truth, perfect._replace(counter=True), random)
    assert counter.values[0, -1] == pytest.approx(
        np.interp(counter.times_s[-1], truth.moments_s, truth.energy_mj), rel=1e-2
    )


def test_the_page_is_made_of_the_last_results(experiment: Any) -> None:
    lines = (BENCHMARKS / "results/recovered_energy.jsonl").read_text(encoding="utf-8").splitlines()
    assert experiment.PAGE.read_text(encoding="utf-8") == experiment.page(json.loads(lines[-1]))
