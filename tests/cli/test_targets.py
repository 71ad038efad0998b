"""`bottlekit targets`: what exists, its facts, and what this machine can do with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.targets.loader import all_targets

NAMES = [target.name for target in all_targets()]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="targets")
def _targets(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """A function that types `bottlekit targets ...`: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bottlekit", "targets", *arguments])
        code = common.run(app)
        return (code, *capfd.readouterr())

    return run


def test_all_targets_are_listed_with_what_this_machine_can_do(targets: Run) -> None:
    code, out, err = targets()
    assert (code, err) == (0, "")
    for name in NAMES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {name} ")]
        assert line.count("yes") + line.count(" no ") == 2
    assert "yes" in next(line for line in out.splitlines() if line.startswith("│ cpu "))


def test_the_list_as_json_holds_every_fact(targets: Run) -> None:
    code, out, _ = targets("--json")
    rows = json.loads(out)["targets"]
    assert code == 0
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert {
            "sm",
            "tensorrt",
            "cuda",
            "python",
            "opset",
            "abilities",
            "memory",
            "peaks",
            "notes",
            "here",
        } <= set(row)
        assert (row["here"]["why_not_build"] is None) == row["here"]["builds"]
        assert (row["here"]["why_not_run"] is None) == row["here"]["runs"]


@pytest.mark.parametrize("name", NAMES)
def test_one_target_shows_its_facts(targets: Run, name: str) -> None:
    code, out, err = targets(name)
    assert (code, err) == (0, "")
    assert out.lstrip().startswith(f"{name}: ")
    for words in ("newest ONNX opset", "builds here", "runs here", "note"):
        assert words in out
    _, as_json, _ = targets(name, "--json")
    assert json.loads(as_json)["name"] == name


def test_the_tx2_tells_what_its_owner_must_know(targets: Run) -> None:
    _, out, _ = targets("tx2")
    for words in ("6.2", "TensorRT 8.2", "10.2", "3.6 only", "1332", "59.7", "numpy 1.19.4", "8 GiB, shared"):
        assert words in out


def test_an_unknown_target_lists_those_that_exist(targets: Run) -> None:
    code, out, err = targets("tx3")
    assert (code, out) == (2, "")
    assert err.startswith("bottlekit: target 'tx3' does not exist; there are: cpu,")
    assert err.count("\n") == 1
