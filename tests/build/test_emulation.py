"""Emulated profiles: what they are fitted to, what they say of themselves, what the planner makes of them."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest

from bottlekit.build.emulation import Emulation, emulated_profile, emulation_of, kernels
from bottlekit.device.bundle import fleet_from_path
from bottlekit.errors import TargetError, UnknownNameError
from bottlekit.models.macs import macs
from bottlekit.planning import LINKS, plan_from_profile
from bottlekit.planning.profile import bundles_from_profile
from bottlekit.report.render import markdown_from_table
from bottlekit.report.setups import phases_table, plan_table, setups_table
from bottlekit.targets.loader import target_from_name
from bottlekit.targets.published import emulated_targets, mode_words, published_network, published_times

FLEET = Path(__file__).parents[1] / "data/tiny_fleet"
MACHINES = [("tx2", "fp16"), ("tx2", "fp32"), ("gtx1080ti", "fp32")]


def emulation(name: str, mode: str | None = None, precision: str | None = None) -> Emulation:
    return emulation_of(target_from_name(name), mode, precision)


@pytest.mark.parametrize(("target", "precision"), MACHINES)
def test_a_machine_reaches_a_part_of_its_peaks(target: str, precision: str) -> None:
    fitted = emulation(target, precision=precision).fitted
    assert 0.2 < fitted.roofline.efficiency < 1.0
    assert 0.001 < fitted.roofline.launch_ms < 0.2


@pytest.mark.parametrize(("target", "precision"), MACHINES)
def test_half_of_the_published_times_are_predicted_well_and_the_rest_is_not_hidden(
    target: str, precision: str
) -> None:
    found = emulation(target, precision=precision)
    errors = found.to_dict()["leave_one_out"]
    assert errors["points"] == sum(len(times.times_ms) for times in found.published)
    assert errors["median_error"] < 0.12
    assert errors["median_error"] < errors["worst_error"] < 0.7


def test_the_tx2s_resnets_are_predicted_from_other_networks() -> None:
    for precision in ("fp16", "fp32"):
        found = emulation("tx2", precision=precision).fitted.left_out
        resnets = [prediction for prediction in found if "resnet" in prediction.point.network]
        assert len(resnets) == 3
        assert all(abs(prediction.error) < 0.05 for prediction in resnets)


def test_modes_of_the_tx2_are_ordered_by_their_clocks() -> None:
    layers = kernels(published_network("resnet50"), compiled=True)
    maxn, maxp, maxq = (emulation("tx2", mode).time_ms(layers) for mode in ("0", "3", "maxq"))
    assert maxn < maxp < maxq
    assert maxp == emulation("tx2").time_ms(layers) == emulation("tx2", "MAXP").time_ms(layers)


@pytest.mark.parametrize("target", ["tx2", "gtx1080ti"])
def test_every_mode_of_a_target_can_be_named(target: str) -> None:
    peaks = target_from_name(target).peaks
    for peak in peaks:
        for word in (peak.mode, *mode_words(peak)):
            assert emulation(target, word).mode == peak.mode


def test_an_unknown_mode_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        TargetError, match=r"tx2 has no mode '4'; there are: 0, maxn \(nvpmodel 0 \(MAXN\)\); 1, maxq"
    ):
        emulation("tx2", "4")


def test_a_target_without_published_times_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(TargetError, match="the target orin cannot be emulated.*there are for gtx1080ti, tx2"):
        emulation("orin")
    assert emulated_targets() == ("gtx1080ti", "tx2")


def test_a_precision_that_nobody_timed_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'fp16' does not exist; there are: fp32"):
        emulation("gtx1080ti", precision="fp16")


def test_without_a_compiler_every_operator_is_a_kernel() -> None:
    network = published_network("resnet18")
    assert len(kernels(network, compiled=True)) == 23
    apart = kernels(network, compiled=False)
    count = [layer.operator for layer in apart].count
    assert (count("Conv"), count("BatchNormalization"), count("Relu"), count("Add")) == (20, 20, 17, 8)
    assert min(layer.read for layer in apart) > 0


@pytest.mark.parametrize("target", ["tx2", "gtx1080ti"])
def test_a_published_network_is_there_for_every_time(target: str) -> None:
    for times in published_times(target):
        assert times.source
        assert all(published_network(name).rows for name in times.times_ms)


@pytest.fixture
def profile() -> dict[str, Any]:
    return emulated_profile(fleet_from_path(str(FLEET)), emulation("tx2"), None, "0", "bottlekit bench --emulate")


def test_a_profile_says_everywhere_that_it_is_emulated(profile: dict[str, Any]) -> None:
    assert profile["emulated"] is True
    assert profile["emulation"]["leave_one_out"]["points"] == 9
    for entry in profile["bundles"]:
        assert entry["emulated"] is True
        for phase in entry["phases"].values():
            assert (phase["origin"], phase["emulated"]) == ("emulated", True)
            assert (phase["samples_ms"], phase["golden"]["compared"]) == ([], False)
            known = {name for name, value in phase["summary"].items() if value is not None}
            assert known == {"count", "mean_ms", "p50_ms"}


def test_codecs_are_counted_by_their_bytes_and_named(profile: dict[str, Any]) -> None:
    phases = profile["bundles"][0]["phases"]
    assert {name: phase["bytes_only"] for name, phase in phases.items()} == {
        "head": [],
        "encode": ["encode"],
        "decode": ["decode"],
        "tail": [],
        "full": [],
        "baseline": [],
    }


def test_the_planner_uses_an_emulated_profile_and_says_so(profile: dict[str, Any]) -> None:
    (first, second) = bundles_from_profile(profile)
    assert {timed.origin for timed in [*first.phases.values(), *second.phases.values()]} == {"emulated"}
    plan = plan_from_profile(profile, LINKS["wifi"])
    assert plan["emulated"] is True
    assert (
        plan["assumptions"]["device_emulation"] == plan["assumptions"]["server_emulation"] == profile["emulation"]
    )
    for choice in plan["ranking"]:
        assert "emulated" in choice["origins"]["latency_ms"]
        assert "measured" not in choice["origins"]["latency_ms"]


def test_head_and_tail_add_up_to_the_whole(profile: dict[str, Any]) -> None:
    for entry in profile["bundles"]:
        times = {name: phase["summary"]["p50_ms"] for name, phase in entry["phases"].items()}
        assert times["head"] + times["tail"] == pytest.approx(times["full"], rel=1e-9)


def test_only_the_phases_asked_for() -> None:
    fleet = fleet_from_path(str(FLEET))
    profile = emulated_profile(fleet, emulation("tx2"), ["tail", "encode"], "0", "bottlekit bench")
    assert [list(entry["phases"]) for entry in profile["bundles"]] == [["tail", "encode"]] * 2
    with pytest.raises(UnknownNameError, match="phase 'baseline' does not exist; there are: head, encode, decode"):
        emulated_profile(fleet, emulation("tx2"), ["baseline"], "0", "bottlekit bench")


@pytest.mark.slow
def test_the_published_layers_are_those_of_the_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script: Any = importlib.import_module("published_layers")
    has_norms, rows = script.network_layers("resnet18")
    network = published_network("resnet18")
    assert has_norms == network.batch_norm
    assert [tuple(row) for row in rows] == list(network.rows)
    # What is counted in the graph is what torch counts in the network; elementwise operators come on top.
    counted = sum(layer.flops for layer in kernels(network, compiled=False) if layer.operator in ("Conv", "Gemm"))
    with_operators = macs(script.NETWORKS["resnet18"][1](), (1, 3, 224, 224))
    assert with_operators <= counted / 2 < 1.01 * with_operators


def test_every_table_of_emulated_times_tells_the_error(profile: dict[str, Any]) -> None:
    plan = plan_from_profile(profile, LINKS["wifi"])
    for table in (phases_table(profile), plan_table(plan), setups_table(profile, {"wifi": plan})):
        assert "emulated" in table.origins
        assert "fitted to 9 published times; leave-one-out error: median 4 %, worst 61 %" in table.note
        assert "◇ emulated" in markdown_from_table(table)


def test_a_plan_of_one_emulated_machine_is_emulated(profile: dict[str, Any]) -> None:
    measured = copy.deepcopy(profile)
    for entry in measured["bundles"]:
        for phase in entry["phases"].values():
            phase["origin"] = "measured"
    del measured["emulation"]
    mixed = plan_from_profile(measured, LINKS["wifi"], server_profile=profile)
    assert mixed["emulated"] is True
    assert mixed["assumptions"]["device_emulation"] is None
    assert plan_table(mixed).note.count("emulated tx2") == 1
    alone = plan_from_profile(measured, LINKS["wifi"])
    assert alone["emulated"] is False
    assert plan_table(alone).note == ""
