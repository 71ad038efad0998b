from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bottlekit.device.files import sha256_of_file

DATA = Path(__file__).parents[1] / "data"
FLEET = DATA / "tiny_fleet"
PROFILE = DATA / "profile.json"
# The shortest measurement that still has a median.
SHORT = ("--samples", "5", "--seconds", "5", "--warm-up", "0.02", "--threads", "1", "--quiet")


def test_from_engines_to_a_profile_to_a_plan(bottlekit: Any, engines: Path, tmp_path: Path) -> None:
    out, csv, markdown = tmp_path / "p.json", tmp_path / "p.csv", tmp_path / "p.md"
    files = ("-o", out, "--csv", csv, "--markdown", markdown)
    ran = bottlekit("bench", FLEET / "rb1", "--engines", engines, *files, "--json", *SHORT)
    assert (ran.code, ran.err) == (0, "")
    profile = json.loads(out.read_text(encoding="utf-8"))
    assert ran.json == profile
    assert profile["command"].startswith("bottlekit bench ")
    assert profile["environment"]["threads"] == 1
    (entry,) = profile["bundles"]
    phases = entry["phases"]
    assert list(phases) == ["head", "encode", "decode", "tail", "full", "baseline"]
    assert all(len(phase["samples_ms"]) == 5 for phase in phases.values())

    rows = csv.read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["phase", *phases]
    assert markdown.read_text(encoding="utf-8").count("| tiny-rb1 |") == len(phases)

    plan = bottlekit("plan", out, "--link", "3g", "--json")
    assert plan.json["profile_sha256"] == sha256_of_file(str(out))
    assert {line["setup"] for line in plan.json["ranking"]} == {"mobile-only", "collaborative"}
    assert plan.json["assumptions"]["framing"] == "counted"


def test_bench_prints_a_table_with_nothing_where_samples_are_too_few(
    bottlekit: Any, engines: Path, tmp_path: Path
) -> None:
    ran = bottlekit("bench", FLEET, "--engines", engines, "-o", tmp_path / "p.json", "--phase", "encode", *SHORT)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines() if "tiny-rb" in line]
    assert [row[:3] for row in rows] == [["encode", "tiny-rb1", "5"], ["encode", "tiny-rb2", "5"]]
    assert all(row.count("–") == 3 for row in rows)


def test_bench_without_engines_names_the_command_that_makes_them(bottlekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    line = bottlekit("bench", FLEET, "--engines", tmp_path / "none", "-o", out).refused(code=1)
    assert f"build it: bottlekit build {FLEET / 'rb1'} --target cpu" in line
    assert list(tmp_path.iterdir()) == []


def test_bench_with_one_engine_missing_says_which_before_it_measures(
    bottlekit: Any, engines: Path, tmp_path: Path
) -> None:
    some = tmp_path / "engines"
    shutil.copytree(engines, some)
    for file in some.glob("tiny-rb2-tail-*"):
        file.unlink()
    line = bottlekit("bench", FLEET, "--engines", some, "-o", tmp_path / "p.json").refused(code=1)
    assert "no engine for the tail of tiny-rb2" in line
    assert f"bottlekit build {FLEET / 'rb2'} --target cpu" in line


def test_bench_refuses_what_was_never_compared(bottlekit: Any, engines: Path, tmp_path: Path) -> None:
    some = tmp_path / "engines"
    shutil.copytree(engines, some)
    sidecar = some / "tiny-rb1-head-cpu.onnx.json"
    values = json.loads(sidecar.read_text(encoding="utf-8"))
    values["golden"] = {"compared": False, "why_not": "built elsewhere"}
    sidecar.write_text(json.dumps(values), encoding="utf-8")
    line = bottlekit("bench", FLEET, "--engines", some, "-o", tmp_path / "p.json").refused(code=1)
    assert "never compared with the bundle's golden outputs (built elsewhere)" in line
    assert not (tmp_path / "p.json").exists()


def test_bench_leaves_an_old_profile_alone_when_it_fails(bottlekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    out.write_text("old", encoding="utf-8")
    bottlekit("bench", FLEET, "--engines", tmp_path, "-o", out).refused(code=1)
    assert out.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--samples", "4"], 2, "--samples must be at least 5"),
        (["--seconds", "0"], 2, "--seconds must be a positive number"),
        (["--warm-up", "nan"], 2, "--warm-up must be a positive number"),
        (["--threads", "0"], 2, "--threads must be at least 1"),
        (["--phase", "middle"], 2, "phase 'middle' does not exist; there are: head, encode, decode, tail, full"),
        (["--target", "tx2"], 1, "no engine of tiny-rb1 for tx2"),
    ],
)
def test_bench_refuses_options_by_name(
    bottlekit: Any, engines: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    out = tmp_path / "p.json"
    # Words come last, so that they win over the short measurement's.
    assert message in bottlekit("bench", FLEET, "--engines", engines, "-o", out, *SHORT, *words).refused(code)
    assert not out.exists()


@pytest.mark.parametrize("where", ["nowhere", "empty", "bundle.json"])
def test_bench_refuses_what_is_no_fleet(bottlekit: Any, tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    place = FLEET / "rb1" / where if where == "bundle.json" else tmp_path / where
    bottlekit("bench", place).refused(code=1)


# plan


def test_plan_prints_every_candidate_with_its_terms(bottlekit: Any) -> None:
    ran = bottlekit("plan", PROFILE, "--link", "3g", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    rows = {line.split("  ")[0]: line for line in ran.out.splitlines() if "●" in line}
    # 500 bytes at 1.1 Mbit/s take 3.64 ms, for 1.77 W; 4.25 ms at 1306 mW are 5.55 mJ.
    for number in ("97.2 ●", "500 ●", "4.25 ●", "3.64 ○", "12.1 ●○", "5.55 ●○", "6.45 ○", "12.0 ●○"):
        assert number in rows["collaborative at rb4"]
    assert list(rows)[:2] == ["mobile-only", "collaborative at rb8"]
    assert "3G: mobile-only: 8.00 ms (measured)" in ran.out


def test_plan_tells_what_it_assumed(bottlekit: Any) -> None:
    ran = bottlekit("plan", PROFILE, "--link", "3g", "--no-beta", "--server-load", "2")
    for words in ("1306 mW (modelled)", "without beta", "framing not counted", "server load 2"):
        assert words in ran.err


def test_plan_without_a_link_plans_for_all_three(bottlekit: Any) -> None:
    document = bottlekit("plan", PROFILE, "--json", "--quiet").json
    assert document["format"] == "bottlekit-plans"
    assert [plan["link"]["name"] for plan in document["plans"]] == ["3g", "4g", "wifi"]


def test_plan_ranks_by_the_objective(bottlekit: Any) -> None:
    for objective, key in (("latency", "latency_ms"), ("energy", "energy_mj")):
        plan = bottlekit("plan", PROFILE, "--link", "wifi", "--objective", objective, "--json", "-q").json
        costs = [line[key] for line in plan["ranking"]]
        assert plan["objective"] == objective
        assert costs == sorted(costs)
    assert plan["ranking"][0]["split"] == "rb1"


def test_plan_writes_what_it_prints(bottlekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    ran = bottlekit("plan", PROFILE, "--link", "4g", "-o", out, "--json", "--quiet")
    assert json.loads(out.read_text(encoding="utf-8")) == ran.json
    assert ran.json["profile_sha256"] == sha256_of_file(str(PROFILE))


def test_plan_takes_server_times_from_the_servers_profile(bottlekit: Any, tmp_path: Path) -> None:
    server = json.loads(PROFILE.read_text(encoding="utf-8"))
    for entry in server["bundles"]:
        for phase in entry["phases"].values():
            phase["summary"]["p50_ms"] /= 10.0
    path = tmp_path / "server.json"
    path.write_text(json.dumps(server), encoding="utf-8")
    words = ("plan", PROFILE, "--link", "4g", "--json", "-q")
    alone, apart = bottlekit(*words).json, bottlekit(*words, "--server-profile", path).json
    assert apart["server_profile_sha256"] == sha256_of_file(str(path))
    before = {line["bundle"]: line["terms_ms"] for line in alone["ranking"]}
    for line in apart["ranking"]:
        if line["setup"] == "collaborative":
            assert line["terms_ms"]["server"] == pytest.approx(before[line["bundle"]]["server"] / 10.0)
            assert line["terms_ms"]["device"] == before[line["bundle"]]["device"]


def test_plan_changes_one_link_or_takes_one_of_your_own(bottlekit: Any) -> None:
    changed = bottlekit("plan", PROFILE, "--link", "wifi", "--rtt-ms", "5", "--json", "-q").json
    assert (changed["link"]["uplink_mbps"], changed["link"]["rtt_ms"]) == (18.88, 5.0)
    assert changed["ranking"][1]["terms_ms"]["rtt"] == 5.0
    own = ("--uplink-mbps", "8", "--alpha", "100", "--beta", "1000")
    link = bottlekit("plan", PROFILE, *own, "--json", "-q").json["link"]
    assert (link["name"], link["uplink_mbps"], link["downlink_mbps"], link["beta_mw"]) == (
        "custom",
        8.0,
        8.0,
        1000.0,
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--link", "6g"], 2, "link '6g' does not exist; there are: 3g, 4g, wifi"),
        (["--objective", "money"], 2, "objective 'money' does not exist; there are: latency, energy"),
        (["--link", "3g", "--link", "4g", "--rtt-ms", "1"], 2, "give --link once"),
        (["--uplink-mbps", "8"], 2, "a link of your own needs --alpha, --beta as well"),
        (["--link", "3g", "--uplink-mbps", "0"], 2, "--uplink-mbps must be a positive number"),
        (["--link", "3g", "--uplink-mbps", "nan"], 2, "--uplink-mbps must be a positive number"),
        (["--link", "3g", "--uplink-mbps", "-5"], 2, "--uplink-mbps must be a positive number"),
        (["--link", "3g", "--downlink-mbps", "-5"], 2, "--downlink-mbps must be a positive number"),
        (["--link", "3g", "--rtt-ms", "-1"], 2, "rtt_ms must be 0 or more"),
        (["--link", "5g-mmwave"], 2, "needs --uplink-mbps as well"),
        (["--link", "5g-mmwave", "--uplink-mbps", "9", "--radio-tail"], 2, "tail of the radio"),
        (["--sweep", "1:2:3"], 2, "--sweep changes the rate of one link"),
        (["--link", "3g", "--sweep", "2:1:3"], 2, "--sweep must be LOW:HIGH:COUNT"),
        (["--link", "3g", "--sweep", "1:2:3", "--sweep-load", "x"], 2, "--sweep-load must be LOW:HIGH:COUNT"),
        (["--link", "3g", "--picture", "p.svg"], 2, "--picture draws a sweep"),
        (["--energy-weight", "2"], 2, "--energy-weight must be a fraction 0..1"),
        (["--max-device-mib", "3"], 1, "--max-device-mib cannot be checked"),
        (["--device-load", "0"], 2, "--device-load must be a positive number"),
        (["--server-load", "inf"], 2, "--server-load must be a positive number"),
        (["--device-power-mw", "-5"], 2, "--device-power-mw must be a positive number"),
        (["--downlink-bytes", "nan"], 2, "--downlink-bytes must be 0 or more"),
        (["--accuracy-floor", "97"], 2, "--accuracy-floor must be a fraction 0..1"),
        (["--accuracy-floor", "0.99"], 1, "the best is mobile-only with 0.9800, 0.0100 short"),
        (["--accuracy-floor", "0.9", "--max-bytes", "-1"], 2, "--max-bytes must be 0 or more"),
    ],
)
def test_plan_refuses_options_by_name(
    bottlekit: Any, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    out = tmp_path / "plan.json"
    assert message in bottlekit("plan", PROFILE, "-o", out, *words).refused(code)
    assert not out.exists()


def test_plan_sweeps_bandwidth_and_load(bottlekit: Any, tmp_path: Path) -> None:
    out, picture = tmp_path / "sweep.json", tmp_path / "best.svg"
    words = ("--link", "wifi", "--objective", "energy", "--sweep", "0.5:60:4", "--sweep-load", "1:8:2")
    ran = bottlekit("plan", PROFILE, *words, "-o", out, "--picture", picture)
    assert (ran.code, "server load 8: " in ran.out) == (0, True)
    sweep = json.loads(out.read_text(encoding="utf-8"))
    assert [len(row) for row in sweep["cells"]] == [4, 4]
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert sweep["profile_sha256"] == sha256_of_file(str(PROFILE))


def test_plan_shows_only_the_pareto_front(bottlekit: Any) -> None:
    words = ("plan", PROFILE, "--link", "wifi", "--json", "-q")
    everything, front = bottlekit(*words).json, bottlekit(*words, "--pareto").json
    assert [line for line in everything["ranking"] if line["pareto"]] == front["ranking"]
    assert len(front["ranking"]) < len(everything["ranking"])
    assert set(front["excluded"]) > set(everything["excluded"])


def test_plan_weighs_latency_against_energy_and_counts_the_tail(bottlekit: Any) -> None:
    words = ("plan", PROFILE, "--link", "3g", "--json", "-q")
    plan = bottlekit(*words, "--energy-weight", "0.5", "--radio-tail").json
    assert (plan["objective"], plan["assumptions"]["energy_weight"]) == ("weighted", 0.5)
    assert plan["assumptions"]["radio_tail_mj"] == pytest.approx(6512.4)
    tails = {line["setup"]: line["terms_mj"].get("radio_tail") for line in plan["ranking"]}
    assert tails["mobile-only"] is None
    assert tails["collaborative"] == pytest.approx(6512.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the file does not exist"),
        ("", "is no readable profile"),
        (PROFILE.read_text(encoding="utf-8")[:1000], "is no readable profile"),
        ("[]", "holds a JSON list, not an object"),
        ("{}", "is no profile: its format is None"),
        ('{"format": "bottlekit-plan", "version": 1}', "is no profile: its format is 'bottlekit-plan'"),
        ('{"format": "bottlekit-profile", "version": 9}', "version 9"),
        ('{"format": "bottlekit-profile", "version": 1, "bundles": []}', "without bundles"),
        ('{"format": "bottlekit-profile", "version": 1, "bundles": [{}]}', "bundle 1: bundle is missing"),
        (PROFILE.read_text(encoding="utf-8").replace('"p50_ms": 1.0', '"p50_ms": NaN'), "NaN is not JSON"),
        (PROFILE.read_text(encoding="utf-8").replace('"p50_ms": 1.0', '"p50_ms": null'), "p50_ms is missing"),
    ],
)
def test_plan_refuses_a_profile_that_cannot_be_used(
    bottlekit: Any, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    line = bottlekit("plan", path, "--link", "3g").refused(code=1)
    assert message in line
    assert str(path) in line
    assert message in bottlekit("plan", PROFILE, "--link", "3g", "--server-profile", path).refused(code=1)


@pytest.mark.parametrize("verb", ["bench", "plan"])
def test_help_teaches_with_an_example(bottlekit: Any, verb: str) -> None:
    ran = bottlekit(verb, "--help")
    assert ran.code == 0
    assert f"bottlekit {verb}" in ran.out
