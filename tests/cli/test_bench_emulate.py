import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app

FLEET = Path(__file__).parents[1] / "data/tiny_fleet"


@pytest.fixture
def bottlekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs `bottlekit` with the words given: exit status, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bottlekit", *(str(word) for word in words)])
        code = common.run(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_from_a_fleet_and_two_machines_that_are_not_here_to_a_plan(bottlekit: Any, tmp_path: Path) -> None:
    device, server = tmp_path / "tx2.json", tmp_path / "server.json"
    csv, markdown = tmp_path / "t.csv", tmp_path / "t.md"
    words = ("bench", FLEET, "--target", "tx2", "--emulate", "--emulate-mode", "0", "-o", device)
    code, out, err = bottlekit(*words, "--csv", csv, "--markdown", markdown)
    assert code == 0, err
    assert "◇ emulated" in out
    assert "leave-one-out error: median" in " ".join(out.split())
    assert "counted by the bytes they move only" in err
    profile = json.loads(device.read_text(encoding="utf-8"))
    assert (profile["emulated"], profile["emulation"]["mode"]) == (True, "nvpmodel 0 (MAXN)")
    assert "leave-one-out error" in markdown.read_text(encoding="utf-8")
    assert all(",emulated" in line for line in csv.read_text(encoding="utf-8").splitlines()[1:])

    assert bottlekit("bench", FLEET, "-t", "gtx1080ti", "--emulate", "-o", server, "--quiet")[0] == 0
    code, out, err = bottlekit("plan", device, "--server-profile", server, "--link", "3g", "--json")
    assert code == 0, err
    assert {line["origins"]["latency_ms"] for line in json.loads(out)["ranking"]} == {
        "emulated",
        "modelled+emulated",
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-t", "orin", "--emulate"], 1, "the target orin cannot be emulated"),
        (["-t", "cpu", "--emulate"], 1, "there are for gtx1080ti, tx2"),
        (["-t", "tx2", "--emulate", "--emulate-mode", "turbo"], 1, "tx2 has no mode 'turbo'; there are: 0, maxn"),
        (
            ["-t", "tx2", "--emulate", "--emulate-precision", "int8"],
            2,
            "'int8' does not exist; there are: fp16, fp32",
        ),
        (["-t", "tx2", "--emulate-mode", "0"], 2, "--emulate-mode is for --emulate"),
        (["-t", "tx2", "--emulate-precision", "fp16"], 2, "--emulate-precision is for --emulate"),
        (["-t", "tx2", "--emulate", "--quick", "--threads", "1"], 2, "--threads, --quick has no meaning with it"),
        (["-t", "tx2", "--emulate", "--server", "tx2:9090"], 2, "--server has no meaning with it"),
        (["-t", "tx2", "--emulate", "--phase", "lunch"], 2, "phase 'lunch' does not exist"),
    ],
)
def test_what_cannot_be_emulated_is_refused(
    bottlekit: Any, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    ended, out, err = bottlekit("bench", FLEET, "-o", tmp_path / "p.json", *words)
    assert (ended, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
