from __future__ import annotations

import json

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bottlekit", "models", *arguments])
    return common.run(app)


def test_the_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("resnet50" in line and "rb1..rb16" in line for line in lines)
    assert any("alexnet" in line and "b1..b5" in line for line in lines)


def test_one_backbone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "resnet18", "--input-size", "64", "--classes", "10") == 0
    out = capsys.readouterr().out
    assert "resnet18 at 64x64: 11.2 M parameters, 148 M multiply-accumulates, input 12,288 bytes" in out
    row = next(line for line in out.splitlines() if "rb3" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("rb3", "layer2.0", "128 x 8 x 8", "8", "32,768", "2.67", "62.1", "42 %"),
    ]


def test_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["backbone"] == "resnet18"
    assert _run(monkeypatch, "resnet18", "--json") == 0
    captured = capsys.readouterr()
    assert [split["name"] for split in json.loads(captured.out)["splits"]] == [f"rb{i}" for i in range(1, 9)]
    assert captured.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet51"], "bottlekit: backbone 'resnet51' does not exist; there are: resnet18, resnet34"),
        (["alexnet", "--input-size", "32"], "bottlekit: alexnet cannot take --input-size 32"),
        (["resnet18", "--input-size", "4"], "bottlekit: --input-size must be at least 8 pixels, not 4"),
        (["resnet18", "--classes", "1"], "bottlekit: --classes must be at least 2, not 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
