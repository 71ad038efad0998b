from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.files import sha256_of_file

PROFILE = Path(__file__).parents[1] / "data" / "profile.json"


@pytest.fixture
def bottlekit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """A function that runs `bottlekit` with the words of a line, beside a profile; returns status, out, err."""
    (tmp_path / "profile.json").write_bytes(PROFILE.read_bytes())
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bottlekit", *shlex.split(line)])
        code = common.run(app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_report_is_written_and_named(bottlekit: Any, tmp_path: Path) -> None:
    code, out, err = bottlekit("report profile.json --link 3g --json")
    assert code == 0
    result = json.loads(out)
    assert result["profile_sha256"] == sha256_of_file("profile.json")
    assert {file["path"]: file["bytes"] for file in result["files"]} == {
        str(path.relative_to("report")): path.stat().st_size for path in Path("report").rglob("*") if path.is_file()
    }
    assert "Energy: none, bench ran without --power." in err
    assert "report/report.html" in err
    blocks = (tmp_path / "report/blocks.csv").read_text(encoding="utf-8")
    assert ",3G," in blocks
    assert ",Wi-Fi," not in blocks


def test_what_exists_is_not_replaced_unless_told(bottlekit: Any, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report/mine.txt").touch()
    code, out, err = bottlekit("report profile.json")
    assert (code, out) == (2, "")
    assert "--force" in err
    assert (tmp_path / "report/mine.txt").exists()
    code, out, err = bottlekit("report profile.json --force -q")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "report/report.html"
    assert not (tmp_path / "report/mine.txt").exists()


def test_a_profile_of_one_phase_has_a_report_without_blocks(bottlekit: Any, tmp_path: Path) -> None:
    profile = json.loads(PROFILE.read_text(encoding="utf-8"))
    for entry in profile["bundles"]:
        entry["phases"] = {"head": entry["phases"]["head"]}
    (tmp_path / "head.json").write_text(json.dumps(profile), encoding="utf-8")
    code, out, err = bottlekit("report head.json")
    assert code == 0
    assert "No blocks of an inference are shown: head.json, bundle 1 (net-rb1): phases: encode is missing" in err
    assert "blocks.csv" not in out


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("report none.json", 1, "no profile at none.json"),
        ("report text.json", 1, "text.json is no readable profile"),
        ("report trace.json", 1, "power trace of head of net-rb1"),
        ("report profile.json --link 7g", 2, "'7g' does not exist"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_no_folder(
    bottlekit: Any, tmp_path: Path, line: str, code: int, message: str
) -> None:
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    profile = json.loads(PROFILE.read_text(encoding="utf-8"))
    damaged = {"kind": "power", "rails": ["VDD_IN"], "times_s": [1.0, 2.0], "values": [[1.0]]}
    profile["bundles"][0]["phases"]["head"]["energy"] = {"energy_mj": None, "reasons": ["x"], "trace": damaged}
    (tmp_path / "trace.json").write_text(json.dumps(profile), encoding="utf-8")
    ended, out, err = bottlekit(line)
    assert (ended, out) == (code, "")
    assert err.startswith("bottlekit: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "report").exists()
