import json
from pathlib import Path
from typing import Any

import pytest

FLEET = Path(__file__).parents[1] / "data/tiny_fleet"
PROFILE = Path(__file__).parents[1] / "data/profile.json"


@pytest.fixture
def layers(bottlekit: Any, tmp_path: Path) -> Path:
    out = tmp_path / "layers.json"
    words = ("--samples", "5", "--threads", "1")
    ran = bottlekit("profile-layers", FLEET / "rb1/baseline.onnx", *words, "-o", out)
    assert ran.code == 0, ran.err
    assert "groups measured" in ran.out
    return out


def test_a_schedule_from_an_onnx_file(bottlekit: Any, layers: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = ("plan", layers, "--switches", "--link", "wifi", "--device-load", "50", "-o", out)
    ran = bottlekit(*words)
    assert ran.code == 0, ran.err
    assert "planner single-cut: " in ran.out
    plan = json.loads(out.read_text(encoding="utf-8"))
    assert plan["format"] == "bottlekit-schedule"
    assert plan["schedule"]["segments"][-1]["last"] == len(plan["layers"]) - 1
    assert plan["assumptions"]["interpolated_groups"] == {"device": 0, "server": 0}
    other = bottlekit(*words, "--planner", "mobile-only", "--json", "-q").json
    assert other["schedule"]["switches"] == 0
    assert other["schedule"]["latency_ms"] >= plan["schedule"]["latency_ms"]


def refused(ran: Any, code: int) -> str:
    assert ran.code == code, ran.err
    assert ran.out == ""
    lines = [line for line in ran.err.splitlines() if line.startswith("bottlekit: ")]
    assert len(lines) == 1
    return str(lines[0])


def test_bounds_that_nothing_keeps(bottlekit: Any, layers: Path) -> None:
    ran = bottlekit("plan", layers, "--switches", "--link", "wifi", "--max-latency-ms", "1e-9")
    assert "no schedule keeps --max-latency-ms 1e-09: the least that can be reached is" in refused(ran, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--switches", "--planner", "magic"], "planner 'magic' does not exist; there are: mobile-only"),
        (["--switches", "--pareto"], "--switches plans layers"),
        (["--switches", "--max-cloud-ms", "nan"], "--max-cloud-ms must be 0 or more"),
        (["--max-cloud-ms", "3"], "add --switches"),
        (["--switches", "--device-load", "-1"], "--device-load must be a positive number"),
        (["--switches", "--device-power-mw", "0"], "--device-power-mw must be a positive number"),
    ],
)
def test_options_are_refused_by_name(bottlekit: Any, layers: Path, words: list[str], message: str) -> None:
    assert message in refused(bottlekit("plan", layers, "--link", "wifi", *words), 2)


def test_profiles_of_the_wrong_kind(bottlekit: Any, layers: Path) -> None:
    assert "is no layer profile" in refused(bottlekit("plan", PROFILE, "--switches", "--link", "3g"), 1)
    assert "is no profile: its format is 'bottlekit-layers'" in refused(
        bottlekit("plan", layers, "--link", "3g"), 1
    )


def test_profile_layers_refuses_options_by_name(bottlekit: Any, tmp_path: Path) -> None:
    onnx = FLEET / "rb1/baseline.onnx"
    out = tmp_path / "o.json"
    assert "codec 'zip' does not exist" in refused(
        bottlekit("profile-layers", onnx, "--codec", "zip", "-o", out), 2
    )
    assert "--samples must be" in refused(bottlekit("profile-layers", onnx, "--samples", "1", "-o", out), 2)
    assert "cannot be read as ONNX" in refused(bottlekit("profile-layers", PROFILE, "-o", out), 1)
    assert not out.exists()
