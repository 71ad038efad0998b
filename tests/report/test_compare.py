"""Comparing profiles: what is matched, what is refused, what fails."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from bottlekit.device.confidence import mean_interval
from bottlekit.device.stats import percentile_ms
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.report.compare import Comparison, Options, compared
from bottlekit.report.comparison import comparison_document, comparison_table
from bottlekit.report.conditions import condition_from_text
from bottlekit.report.intervals import Sureness
from bottlekit.report.profiles import phases_of_profile
from bottlekit.report.render import csv_from_table, html_from_table, markdown_from_table

Profile = dict[str, Any]
FAST = Sureness(resamples=400)


def run(median_factors: dict[str, float], seed: int, base: Profile, count: int = 700) -> Profile:
    """Another run of a profile: new samples, some phases slower or faster."""
    profile = copy.deepcopy(base)
    for entry in profile["bundles"]:
        for number, (name, timed) in enumerate(entry["phases"].items()):
            noise = np.random.default_rng([seed, number]).lognormal(0.0, 0.05, count)
            timed["samples_ms"] = list(timed["summary"]["p50_ms"] * median_factors.get(name, 1.0) * noise)
    return profile


@pytest.fixture
def before(profile: Profile) -> Profile:
    return run({}, 1, profile)


@pytest.fixture
def after(profile: Profile) -> Profile:
    return run({"tail": 1.12}, 2, profile)


def compare(before: Profile, after: Profile, *conditions: str, **options: Any) -> Comparison:
    chosen = Options(conditions=[condition_from_text(text) for text in conditions], sureness=FAST, **options)
    return compared(before, after, chosen, "a.json", "b.json")


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {judgement.change.where: judgement.verdict for judgement in comparison.judgements}


def test_a_slower_phase_fails_and_the_others_pass(before: Profile, after: Profile) -> None:
    comparison = compare(before, after, "p95>+5%")
    assert comparison.failed
    assert {where for where, verdict in verdicts(comparison).items() if verdict == "fails"} == {
        "p95 of tail of resnet18-rb1",
        "p95 of tail of resnet18-rb2",
    }
    assert set(verdicts(comparison).values()) == {"fails", "passes"}
    (tail,) = [one for one in comparison.changes if one.where == "p95 of tail of resnet18-rb1"]
    samples = [one["bundles"][0]["phases"]["tail"]["samples_ms"] for one in (before, after)]
    assert tail.values == tuple(percentile_ms(side, 95) for side in samples)
    assert tail.interval is not None
    assert tail.interval.low < 0.12 < tail.interval.high


def test_a_profile_does_not_differ_from_itself(before: Profile) -> None:
    comparison = compare(before, before, "p50>+0%", "p95>+0%", "payload_bytes>+0%", "accuracy<-0points")
    assert not comparison.failed
    assert set(verdicts(comparison).values()) == {"passes"}
    assert all(change.change == 0.0 for change in comparison.changes)


def test_a_change_that_may_be_noise_does_not_fail(profile: Profile) -> None:
    few = [run({}, seed, profile, count=130) for seed in (3, 8)]
    comparison = compare(*few, "p95>+0%", phases=["head"], bundles=["resnet18-rb1"])
    (change,) = comparison.changes
    assert change.interval is not None
    assert change.interval.low < 0 < change.interval.high
    assert (change.change or 0) > 0
    assert set(verdicts(comparison).values()) == {"uncertain"}
    assert not comparison.failed


def test_two_runs_alike_seldom_fail(profile: Profile) -> None:
    """A limit of no change at all: one in forty runs of a phase fails by chance."""
    failed = 0
    for seed in range(60):
        pair = run({}, 2 * seed, profile, 200), run({}, 2 * seed + 1, profile, 200)
        failed += compare(*pair, "p50>+0%", phases=["head"], bundles=["resnet18-rb1"]).failed
    assert failed <= 5


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("payload_bytes>+1%", "fails"),
        ("payload_bytes>+30B", "passes"),
        ("accuracy<-0.5points", "uncertain"),
        ("accuracy<-20points", "passes"),
    ],
)
def test_bytes_are_counted_and_accuracies_are_drawn(
    before: Profile, after: Profile, condition: str, verdict: str
) -> None:
    for entry in after["bundles"]:
        entry["bundle"]["sha256"] = "f" * 64
        entry["payload_bytes"]["mean"] += 20
        entry["accuracy"]["split"] -= 0.01
    assert set(verdicts(compare(before, after, condition)).values()) == {verdict}


def test_an_accuracy_that_fell_for_sure_fails(before: Profile, after: Profile) -> None:
    after["bundles"][0]["bundle"]["sha256"] = "f" * 64
    after["bundles"][0]["accuracy"]["split"] = 0.80
    assert list(verdicts(compare(before, after, "accuracy<-1%")).values()) == ["fails", "passes"]


@pytest.mark.parametrize(
    ("metric", "count", "needs"), [("p50", 4, 5), ("p90", 63, 64), ("p95", 129, 130), ("p99", 661, 662)]
)
def test_a_percentile_below_its_count_is_refused(profile: Profile, metric: str, count: int, needs: int) -> None:
    short, long = run({}, 1, profile, count), run({}, 2, profile, 700)
    with pytest.raises(
        UsageError, match=rf"{metric}>\+5%' cannot be judged: .*{count} samples, {metric} needs {needs}"
    ):
        compare(short, long, f"{metric}>+5%")
    shown = compare(short, long, metrics=[metric]).changes
    assert all(change.change is None and change.missing.startswith("before: ") for change in shown)
    assert compare(run({}, 1, profile, count + 1), long, f"{metric}>+50%").failed is False


def test_a_condition_on_an_energy_that_nobody_metered_is_refused(before: Profile, after: Profile) -> None:
    with pytest.raises(UsageError, match=r"energy_mj of head .* without --power.*; and 9 more") as caught:
        compare(before, after, "energy_mj>+3%")
    assert "\n" not in str(caught.value)


def metered(profile: Profile, mean_mj: float, seed: int, **changes: Any) -> Profile:
    """The profile with an energy of five repeats in every phase, as `bench --power` writes it."""
    for _, _, timed in phases_of_profile(profile):
        repeats = list(mean_mj * np.random.default_rng(seed).normal(1.0, 0.005, 5))
        gross, net = mean_interval(repeats, 0.99), mean_interval([0.4 * one for one in repeats], 0.99)
        timed["energy"] = {
            "meter": "ina3221",
            "boundary": "VDD_IN",
            "valid": True,
            "indicative": False,
            "reasons": [],
            "energy_mj": gross.mean,
            "energy_ci_mj": [gross.low, gross.high],
            "net_energy_mj": net.mean,
            "net_energy_ci_mj": [net.low, net.high],
            "confidence": 0.99,
            "repeats": [{"energy_mj": one, "net_energy_mj": 0.4 * one} for one in repeats],
            **changes,
        }
    return profile


@pytest.mark.parametrize("metric", ["energy_mj", "net_energy_mj"])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "passes"), (1.05, "fails")])
def test_energies_are_judged_by_their_repeats(
    before: Profile, after: Profile, metric: str, factor: float, verdict: str
) -> None:
    comparison = compare(metered(before, 40.0, 1), metered(after, 40.0 * factor, 2), f"{metric}>+3%")
    assert set(verdicts(comparison).values()) == {verdict}
    change = comparison.changes[0]
    assert change.interval is not None
    assert change.interval.low < factor - 1.0 < change.interval.high
    assert change.interval.high - change.interval.low < 0.02
    assert change.before.count == 5


def test_an_invalid_energy_is_refused_with_its_reasons(before: Profile, after: Profile) -> None:
    metered(before, 40.0, 1)
    metered(after, 40.0, 2, valid=False, energy_mj=None, reasons=["run 1: throttled: SW thermal slowdown"])
    with pytest.raises(UsageError, match="after: run 1: throttled: SW thermal slowdown"):
        compare(before, after, "energy_mj>+3%")
    assert "energy_mj" not in {change.metric.name for change in compare(before, before, metrics=["p50"]).changes}


@pytest.mark.parametrize(("field", "value"), [("meter", "nvml"), ("boundary", "VDD_SYS_GPU")])
def test_another_meter_or_boundary_is_refused(before: Profile, after: Profile, field: str, value: str) -> None:
    metered(before, 40.0, 1)
    metered(after, 40.0, 2, **{field: value})
    where = r"\(energy of the head of resnet18-rb1 and 11 more\)"
    with pytest.raises(UsageError, match=rf"{field} {where} .* against {value}"):
        compare(before, after)


@pytest.mark.parametrize(
    ("field", "conditions"),
    [
        ("power_mode", {"power_mode": "NV Power Mode: MAXQ 1"}),
        ("clocks", {"power_mode": "NV Power Mode: MAXN 0", "cpu_khz": {"cur": [3], "min": [1], "max": [2]}}),
    ],
)
def test_another_power_mode_or_other_clocks_are_refused(
    before: Profile, after: Profile, field: str, conditions: dict[str, Any]
) -> None:
    maxn = {"power_mode": "NV Power Mode: MAXN 0", "cpu_khz": {"cur": [4]}}
    metered(before, 40.0, 1, conditions={"before": maxn})
    assert compare(before, metered(after, 40.0, 2, conditions={"before": maxn})).unlike == []
    metered(after, 40.0, 2, conditions={"before": conditions})
    where = r"\(energy of the head of resnet18-rb1 and 11 more\)"
    with pytest.raises(UsageError, match=rf"{field} {where}.*--despite {field}$"):
        compare(before, after)


def test_a_short_run_is_called_indicative(before: Profile, after: Profile) -> None:
    comparison = compare(metered(before, 40.0, 1, indicative=True), metered(after, 40.0, 2), metrics=["energy_mj"])
    assert {change.remark for change in comparison.changes} == {"indicative: a short run"}
    assert "indicative: a short run" in csv_from_table(comparison_table(comparison, "a", "b"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("machine", "aarch64"),
        ("cpu", "four cores"),
        ("gpus", "GTX 1080 Ti"),
        ("onnxruntime", "1.30.0"),
        ("tensorrt", "8.2.1"),
        ("threads", 4),
        ("power_mode", "MAXN"),
        ("board", "TX2"),
    ],
)
def test_another_environment_is_refused_unless_told(
    before: Profile, after: Profile, field: str, value: object
) -> None:
    after["environment"][field] = value
    told = before["environment"].get(field, "nothing")
    with pytest.raises(UsageError, match=f"taken alike: {field} {told} against {value}. .*--despite {field}$"):
        compare(before, after)
    with pytest.raises(UsageError, match="taken alike"):
        compare(before, after, despite=["python"])
    assert [one.field for one in compare(before, after, despite=[field]).unlike] == [field]
    assert [one.field for one in compare(before, after, despite=["all"]).unlike] == [field]


@pytest.mark.parametrize("field", ["kind", "precision", "origin"])
def test_another_engine_is_refused_unless_told(before: Profile, after: Profile, field: str) -> None:
    after["bundles"][1]["phases"]["head"][field] = "emulated"
    with pytest.raises(UsageError, match=rf"{field} \(head of resnet18-rb2\) .* against emulated"):
        compare(before, after)
    assert compare(before, after, phases=["tail"]).unlike == []
    assert compare(before, after, despite=[field]).unlike[0].where == "head of resnet18-rb2"


def test_every_difference_is_named_in_one_line(before: Profile, after: Profile) -> None:
    after["target"] = "rtx-ada"
    after["environment"].update(python="3.6.9", threads=2)
    after["bundles"][0]["accuracy"]["data"] = "folder"
    with pytest.raises(UsageError) as caught:
        compare(before, after)
    line = str(caught.value)
    assert line.endswith("--despite target --despite threads --despite python --despite data")
    assert "target cpu against rtx-ada; threads nothing against 2; python 3.11.7 against 3.6.9" in line
    assert "\n" not in line


def test_what_differs_alike_in_many_places_is_told_once(before: Profile, after: Profile) -> None:
    for _, _, timed in phases_of_profile(after):
        timed["precision"] = "fp16"
    with pytest.raises(UsageError, match=r"precision \(head of resnet18-rb1 and 11 more\) nothing against fp16\. "):
        compare(before, after)


def test_load_and_frequency_may_differ(before: Profile, after: Profile) -> None:
    after["environment"].update(load_average=[1.0, 0.5, 0.2], frequency_khz=["800000"], kernel="6.1")
    assert compare(before, after).unlike == []


def test_an_emulated_phase_is_called_so_everywhere(before: Profile, after: Profile) -> None:
    errors = {"points": 9, "median_error": 0.11, "worst_error": 0.42, "worst_network": "vgg16"}
    after["emulation"] = {"target": "tx2", "mode": "MAXN", "precision": "fp16", "leave_one_out": errors}
    for entry in after["bundles"]:
        for timed in entry["phases"].values():
            timed["origin"] = "emulated"
    comparison = compare(before, after, despite=["origin"])
    table = comparison_table(comparison, "a.json", "b.json")
    assert table.title == "Partly emulated: a.json and b.json"
    assert "leave-one-out error: median 11 %" in table.note
    assert "measured+emulated" in csv_from_table(table)
    assert "◇ emulated" in markdown_from_table(table)
    assert '<i class="origin emulated">' in html_from_table(table)
    assert comparison_document(comparison, {}, {})["changes"][0]["after"]["origin"] == "emulated"


@pytest.mark.parametrize("samples", [None, []])
def test_an_emulated_phase_without_samples_has_a_median_and_no_interval(
    before: Profile, after: Profile, samples: Any
) -> None:
    timed = after["bundles"][0]["phases"]["head"]
    timed.update(origin="emulated", samples_ms=samples)
    timed["summary"].update(count=0, mean_ms=2.0, p50_ms=2.0, p95_ms=None)
    options = {"despite": ["origin"], "phases": ["head"], "bundles": ["resnet18-rb1"]}
    median, percentile = compare(before, after, **options).changes[:2]
    assert (median.after.value, median.interval, median.remark) == (2.0, None, "computed: no interval")
    assert percentile.missing == "after: no samples, the phase was emulated"
    assert compare(before, after, "p50>+5%", **options).failed
    with pytest.raises(UsageError, match="cannot be judged"):
        compare(before, after, "p95>+5%", **options)


def test_only_what_both_have_is_compared(before: Profile, after: Profile) -> None:
    del before["bundles"][1]
    del after["bundles"][0]["phases"]["baseline"]
    comparison = compare(before, after)
    assert {change.bundle for change in comparison.changes} == {"resnet18-rb1"}
    assert comparison.only_before == [("resnet18-rb1", "baseline")]
    assert ("resnet18-rb2", "head") in comparison.only_after
    note = comparison_table(comparison, "a.json", "b.json").note
    assert "only before: baseline of resnet18-rb1" in note
    assert "only after: head of resnet18-rb2" in note


def test_an_interrupted_profile_is_refused(before: Profile, after: Profile) -> None:
    with pytest.raises(UsageError, match=r"b\.json is partial, its measurement was interrupted"):
        compare(before, after | {"partial": True})


def test_nothing_in_common_is_refused(before: Profile, after: Profile) -> None:
    for entry in after["bundles"]:
        entry["bundle"]["name"] += "-other"
    with pytest.raises(
        UsageError, match=r"a.json and b.json have no phase in common: head of resnet18-rb1, .*other"
    ):
        compare(before, after)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("metric", {"metrics": ["p96"]}),
        ("phase", {"phases": ["heads"]}),
        ("bundle", {"bundles": ["rb1"]}),
        ("field", {"despite": ["weather"]}),
    ],
)
def test_unknown_names_are_refused(before: Profile, after: Profile, kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=f"{kind} '.*' does not exist; there are: "):
        compare(before, after, **options)


def test_metrics_are_the_usual_ones_those_named_or_those_of_conditions(before: Profile, after: Profile) -> None:
    def names(*conditions: str, **options: Any) -> set[str]:
        return {change.metric.name for change in compare(before, after, *conditions, **options).changes}

    assert names() == {"p50", "p95", "payload_bytes", "accuracy"}
    assert names("p90>+50%") == {"p90"}
    assert names("p90>+50%", metrics=["mean_ms"]) == {"p90", "mean_ms"}
    assert names(metrics=["energy_mj"]) == {"energy_mj"}


def test_one_phase_more_moves_no_interval(before: Profile, after: Profile) -> None:
    alone = compare(before, after, phases=["tail"], metrics=["p50"]).changes
    together = compare(before, after, metrics=["p50"]).changes
    assert [change for change in together if change.phase == "tail"] == alone


def test_the_document_tells_everything(before: Profile, after: Profile) -> None:
    document = comparison_document(compare(before, after, "p95>+5%"), {"profile": "a.json"}, {"profile": "b.json"})
    assert document["failed"] is True
    failing = [one for one in document["verdicts"] if one["verdict"] == "fails"]
    assert {document["changes"][one["change"]]["phase"] for one in failing} == {"tail"}
    change = document["changes"][0]
    assert (change["unit"], change["before"]["origin"], change["before"]["count"]) == ("ms", "measured", 700)
    assert change["change_low"] < change["change"] < change["change_high"]


def test_the_table_shows_units_signs_and_verdicts(before: Profile, after: Profile) -> None:
    table = comparison_table(compare(before, after, "p95>+5%"), "a.json", "b.json")
    row = next(line for line in markdown_from_table(table).splitlines() if "fails" in line)
    assert row.startswith("| resnet18-rb1 | tail | p95 | 4.")
    assert " ms ● | +1" in row
    assert "fails: beyond the limit" in table.note
    same = comparison_table(compare(before, before), "a.json", "a.json")
    assert [column.title for column in same.columns][3:5] == ["a.json, before", "a.json"]


def test_an_accuracy_of_no_images_is_none(before: Profile, after: Profile) -> None:
    for profile in (before, after):
        for entry in profile["bundles"]:
            entry["accuracy"]["images"] = 0
    assert "accuracy" not in {change.metric.name for change in compare(before, after).changes}
    with pytest.raises(UsageError, match="nobody measured an accuracy"):
        compare(before, after, "accuracy<-1%")
