from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottlekit.device.files import sha256_of_file

PROFILE = Path(__file__).parents[1] / "data" / "profile.json"


@pytest.fixture
def bottlekit(bottlekit: Any) -> Any:
    """A function that runs `bottlekit` with the words of a line."""
    return lambda line: bottlekit(*shlex.split(line))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a profile, another run of it, and one whose tail is slower."""
    profile = json.loads(PROFILE.read_text(encoding="utf-8"))
    profile["environment"] = {"machine": "x86_64", "threads": 1}
    for seed, (name, factor) in enumerate((("a", 1.0), ("again", 1.0), ("slow", 1.2))):
        generator = np.random.default_rng(seed)
        for entry in profile["bundles"]:
            for phase, timed in entry["phases"].items():
                median = timed["summary"]["p50_ms"] * (factor if phase == "tail" else 1.0)
                timed["samples_ms"] = (median * generator.lognormal(0.0, 0.02, 140)).tolist()
        (tmp_path / f"{name}.json").write_text(json.dumps(profile), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_runs_alike_are_done_with_0(bottlekit: Any, folder: Path) -> None:
    ran = bottlekit("compare a.json again.json --fail-if 'p95>+5%' --fail-if 'p50>+0.5ms'")
    assert (ran.code, ran.err) == (0, "")
    assert "passes p95>+5%" in ran.out
    assert "● measured" in ran.out


def test_a_slower_phase_ends_with_1_and_says_which(bottlekit: Any, folder: Path) -> None:
    ran = bottlekit("compare a.json slow.json --fail-if 'p95>+5%'")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    lines = ran.err.splitlines()
    assert lines
    assert all(line.startswith("p95>+5% holds: p95 of tail of net-rb") for line in lines)
    assert "fails p95>+5%" in ran.out


def test_without_a_condition_nothing_fails(bottlekit: Any, folder: Path) -> None:
    ran = bottlekit("compare a.json slow.json")
    assert (ran.code, ran.err) == (0, "")
    assert "verdict" not in ran.out


def test_json_goes_to_a_program(bottlekit: Any, folder: Path) -> None:
    ran = bottlekit("compare a.json slow.json --fail-if 'p95>+5%' --json -q --confidence 0.9 --seed 3")
    assert (ran.code, ran.err) == (1, "")
    document = json.loads(ran.out)
    assert document["format"] == "bottlekit-comparison"
    assert document["failed"] is True
    assert (document["confidence"], document["seed"]) == (0.9, 3)
    assert document["after"]["sha256"] == sha256_of_file("slow.json")
    assert (
        bottlekit("compare a.json slow.json --fail-if 'p95>+5%' --json -q --confidence 0.9 --seed 3").out == ran.out
    )


def test_files_hold_the_table(bottlekit: Any, folder: Path) -> None:
    ran = bottlekit("compare a.json slow.json --phase tail --metric p50 --csv t.csv --markdown t.md -q")
    assert ran.code == 0
    with (folder / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["phase"] for row in rows} == {"tail"}
    row = rows[0]
    assert float(row["change"]) == pytest.approx(float(row["after"]) / float(row["before"]) - 1)
    assert float(row["change_low"]) < 0.2 < float(row["change_high"])
    assert row["before_origin"] == "measured"
    assert " ms ● | +" in (folder / "t.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compare a.json none.json", "no profile at none.json"),
        ("compare a.json text.json", "text.json is no readable profile"),
        ("compare a.json plan.json", "plan.json is no profile: its format is 'bottlekit-plan'"),
        ("compare a.json other.json", "version 2; this bottlekit reads version 1"),
        ("compare a.json empty.json", "a profile without bundles"),
        ("compare a.json nan.json", "NaN is not JSON"),
        ("compare a.json negative.json", "phases.head.samples_ms must be a list of"),
        ("compare a.json origin.json", "origin must be one of measured, modelled, emulated, not 'guessed'"),
        ("compare a.json twice.json", "more than one bundle called net-rb1"),
        ("compare a.json unlike.json", "threads 1 against 2"),
        ("compare a.json again.json --fail-if 'p95 is slow'", "is no condition; write METRIC"),
        ("compare a.json again.json --fail-if 'p99>+5%'", "140 samples, p99 needs 662"),
        ("compare a.json again.json --fail-if 'energy_mj>+3%'", "cannot be judged"),
        ("compare a.json again.json --despite weather", "field 'weather' does not exist; there are: all, target"),
        ("compare a.json again.json --resamples 10", "--resamples must be 200 to 1,000,000"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_2(bottlekit: Any, folder: Path, line: str, message: str) -> None:
    def variant(name: str, change: Any) -> None:
        profile = json.loads((folder / "a.json").read_text(encoding="utf-8"))
        change(profile)
        (folder / name).write_text(json.dumps(profile), encoding="utf-8")

    def head(profile: Any) -> Any:
        return profile["bundles"][0]["phases"]["head"]

    (folder / "text.json").write_text("not JSON", encoding="utf-8")
    (folder / "plan.json").write_text('{"format": "bottlekit-plan"}', encoding="utf-8")
    variant("other.json", lambda profile: profile.update(version=2))
    variant("empty.json", lambda profile: profile.update(bundles=[]))
    variant("nan.json", lambda profile: head(profile).update(samples_ms=[float("nan")]))
    variant("negative.json", lambda profile: head(profile).update(samples_ms=[1.0, -1.0]))
    variant("origin.json", lambda profile: head(profile).update(origin="guessed"))
    variant("twice.json", lambda profile: profile["bundles"].append(profile["bundles"][0]))
    variant("unlike.json", lambda profile: profile["environment"].update(threads=2))
    ran = bottlekit(line)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("bottlekit: ")
    assert ran.err.count("\n") == 1
    assert message in ran.err


def test_unlike_profiles_are_compared_when_told(bottlekit: Any, folder: Path) -> None:
    profile = json.loads((folder / "again.json").read_text(encoding="utf-8"))
    profile["environment"]["threads"] = 2
    (folder / "again.json").write_text(json.dumps(profile), encoding="utf-8")
    ran = bottlekit("compare a.json again.json --despite threads")
    assert ran.code == 0
    assert "compared although they differ: threads 1 against 2" in " ".join(ran.out.split())


def test_a_failed_comparison_leaves_no_file(bottlekit: Any, folder: Path) -> None:
    assert bottlekit("compare a.json again.json --fail-if 'p99>+5%' --csv t.csv").code == 2
    assert not (folder / "t.csv").exists()
