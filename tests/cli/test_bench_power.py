"""`bottlekit bench --power` at the command line: meters, machines without any, results, interrupts."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottlekit.device import power_options
from bottlekit.device.energy_effort import EnergyEffort
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from jetson_double import SET, UNTOUCHED, Board

FLEET = Path(__file__).parents[1] / "data/tiny_fleet"
# The shortest measurement that still has a median, of the one phase that needs no engine.
SHORT = ("--samples", "5", "--seconds", "5", "--warm-up", "0.02", "--threads", "1", "--phase", "encode")
BRIEF = EnergyEffort(
    idle_s=0.4,
    settle_s=0.05,
    warm_up_s=0.1,
    window_s=0.2,
    warm_up_max_s=3.0,
    repeats=2,
    run_s=0.5,
    run_refreshes=0,
    run_inferences=1,
    run_max_s=120.0,
    min_readings=5,
    indicative=True,
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of 5 W, a reading every 10 ms."""
    random = np.random.RandomState(1)
    times = np.arange(60000) / 100.0
    trace = PowerTrace(
        times, random.normal(5000.0, 20.0, (1, times.size)), ("board",), "power", 0.01, {"boundary": "the board"}
    )
    path = tmp_path_factory.mktemp("recording") / "trace.json"
    path.write_text(json.dumps(trace.to_dict()), encoding="utf-8")
    return path


def test_meters_are_listed_without_a_bundle(bottlekit: Any, tmp_path: Path) -> None:
    ran = bottlekit("bench", "--list-meters", "--meter-source", f"root={tmp_path}")
    assert ran.code == 0
    for name in ("ina3221", "ina226", "nvml", "rapl", "jtop", "replay", "none"):
        assert name in ran.out
    rows = json.loads(bottlekit("bench", "--list-meters", "--meter-source", f"root={tmp_path}", "--json").out)
    assert {row["name"]: row["available"] for row in rows}["rapl"] is False


def test_a_machine_without_a_sensor_gives_latencies_and_the_reason(
    bottlekit: Any, engines: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    words = ("--engines", engines, "-o", out, "--power", "--meter-source", f"root={tmp_path}", *SHORT)
    ran = bottlekit("bench", FLEET / "rb1", *words)
    assert ran.code == 0, ran.err
    assert "tiny-rb1" in ran.out
    (line,) = [line for line in ran.out.splitlines() if line.startswith("energy: none (")]
    assert "rapl" in line
    profile = json.loads(out.read_text(encoding="utf-8"))
    energy = profile["bundles"][0]["phases"]["encode"]["energy"]
    assert (profile["power"]["meter"], energy["energy_mj"], energy["codes"]) == ("none", None, ["no_meter"])
    assert energy["reasons"] == [profile["power"]["why_chosen"]]


@pytest.mark.slow
def test_energies_stand_below_the_latencies(
    bottlekit: Any, engines: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_options, "QUICK_ENERGY", BRIEF)
    out = tmp_path / "p.json"
    words = ("--power", "--quick", "--meter", "replay", "--meter-source", f"trace={recording}")
    ran = bottlekit("bench", FLEET / "rb1", "--engines", engines, "-o", out, *words, *SHORT)
    assert ran.code == 0, ran.err
    assert "energy: measured by replay (asked for)" in ran.err
    profile = json.loads(out.read_text(encoding="utf-8"))
    power = profile["power"]
    assert (power["meter"], power["effort"]["repeats"], power["sources"]) == ("replay", 2, [f"trace={recording}"])
    energy = profile["bundles"][0]["phases"]["encode"]["energy"]
    assert energy["boundary"] == "replayed: the board"
    # A machine that stalls leaves no power of a time so short, and says so.
    powers_mw = [repeat["mean_mw"] for repeat in energy["repeats"]]
    assert powers_mw == pytest.approx([5000.0] * len(powers_mw), rel=0.02)
    assert len(powers_mw) == 2 or "too_short" in energy["codes"]
    assert energy["indicative"] is True
    assert "replay" in ran.out
    assert len(energy["trace"]["times_s"]) > 2 * BRIEF.min_readings
    plan = bottlekit("plan", out, "--json")
    assert plan.code in (0, 1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "bench needs a BUNDLE"),
        ([FLEET / "rb1", "--meter", "rapl"], 2, "--meter is for --power"),
        ([FLEET / "rb1", "--meter-source", "root=/"], 2, "--meter-source is for --power"),
        (
            [FLEET / "rb1", "--power", "--meter", "watts"],
            2,
            "meter 'watts' does not exist; there are: auto, ina3221",
        ),
        ([FLEET / "rb1", "--power", "--meter-source", "x"], 2, "a meter's source is NAME=VALUE"),
        ([FLEET / "rb1", "--power", "--meter", "replay"], 2, "the meter replay needs a recording"),
        ([FLEET / "rb1", "--power-mode", "0"], 1, "there is no nvpmodel here: only a Jetson has it"),
        (
            [FLEET / "rb1", "--emulate", "--power", "-t", "tx2"],
            2,
            "--emulate runs nothing, so --power has no meaning",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    bottlekit: Any, engines: Path, tmp_path: Path, words: list[Any], code: int, message: str
) -> None:
    ran = bottlekit(
        "bench", *words, "--engines", engines, "-o", tmp_path / "p.json", "--phase", "encode", "--quiet"
    )
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_partial_profile_and_restores_the_power_mode(
    engines: Path, recording: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, commands = tmp_path / "p.json", tmp_path / "commands"
    commands.mkdir()
    board = Board(commands)
    out.write_text("old", encoding="utf-8")
    words = [FLEET / "rb1", "--engines", engines, "-o", out, "--power", "--meter", "replay"]
    words += ["--meter-source", f"trace={recording}", "--power-mode", "0", "--lock-clocks", *SHORT]
    # At a terminal, where the steps are shown.
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", "bench", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm",
            "COLUMNS": "200",
        },
    )
    os.close(theirs)
    try:
        shown = b""
        # Until the idle time, of a minute, has begun.
        while b"idle before" not in shown:
            shown += os.read(terminal, 4096)
        assert board.state == SET
        os.killpg(process.pid, number)
        with contextlib.suppress(OSError):  # the terminal is closed by its last user
            while os.read(terminal, 4096):
                pass
        process.wait(120)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert board.state == UNTOUCHED
    assert process.returncode in (130, 128 + number)
    assert out.read_text(encoding="utf-8") == "old"
    profile = json.loads((tmp_path / "p.partial.json").read_text(encoding="utf-8"))
    assert profile["partial"] is True
    assert profile["power"]["power_mode"]["before"] == {"name": "MODE_3", "number": 3}
    phase = profile["bundles"][0]["phases"]["encode"]
    assert (phase["partial"], phase["energy"]["codes"]) == (True, ["interrupted"])
    assert len(phase["samples_ms"]) == 5
    assert phase["energy"]["trace"]["times_s"]


@pytest.mark.slow
def test_every_key_of_a_measured_energy_is_documented(
    bottlekit: Any, engines: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_options, "QUICK_ENERGY", BRIEF)
    out = tmp_path / "p.json"
    words = ("--power", "--quick", "--meter", "replay", "--meter-source", f"trace={recording}")
    assert bottlekit("bench", FLEET / "rb1", "--engines", engines, "-o", out, *words, *SHORT).code == 0
    profile = json.loads(out.read_text(encoding="utf-8"))
    pages = "".join(
        (Path(__file__).parents[2] / f"docs/reference/{page}.md").read_text(encoding="utf-8")
        for page in ("profile", "meters")
    )

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            # The names of sensors and zones are the machine's.
            named = {"temperatures_c", "other_hz", "rails_mj", "recorded_from"}
            inner = [keys(one) for name, one in value.items() if name not in named]
            return set(value).union(*inner)
        return set().union(*(keys(one) for one in value)) if isinstance(value, list) else set()

    told = keys(profile["bundles"][0]["phases"]["encode"]["energy"]) | keys(profile["power"])
    assert sorted(key for key in told if f"`{key}`" not in pages) == []
