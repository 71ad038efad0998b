"""Ctrl-C while another machine measures: over a real sshd, with doubles of nvpmodel and jetson_clocks there."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bottlekit.build.remote import RemoteMachine
from bottlekit.build.ssh import SshHost
from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engines_for_bundle
from bottlekit.device.power_trace import PowerTrace

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from jetson_double import SET, UNTOUCHED, Board
from remote_device import Device, build, only_the_agent


@pytest.mark.slow
def test_ctrl_c_here_ends_the_measurement_there_and_gives_its_clocks_back(
    tiny_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    (tmp_path / "device").mkdir()
    device = Device(tmp_path / "device", Path(sys.executable))
    board = Board(tmp_path / "device" / "bin")
    times_s = np.arange(60000) / 100.0
    trace = PowerTrace(times_s, np.array([5000.0 * times_s]), ("board",), "energy", 0.01, {})
    recording = tmp_path / "trace.json"
    recording.write_text(json.dumps(trace.to_dict()), encoding="utf-8")
    device.has_tensorrt("8.2")
    try:
        bundle, out = tiny_bundle(), tmp_path / "engines"
        build(bundle, device, out)
        states: list[object] = []

        def press_ctrl_c(message: str) -> None:
            if "idle before" in message:
                states.append(board.state)
                raise KeyboardInterrupt

        machine = RemoteMachine(SshHost(device.sshd.host, device.sshd.options), press_ctrl_c)
        options = ["--phase", "encode", "--samples", "5", "--warm-up", "0.1", "--power", "--meter", "replay"]
        options += ["--meter-source", f"trace={recording}", "--power-mode", "0", "--lock-clocks"]
        with pytest.raises(KeyboardInterrupt):
            machine.bench([(bundle, engines_for_bundle(str(out), bundle, "tx2"))], "tx2", options)
        assert states == [SET]
        deadline = time.monotonic() + 120
        while board.state != UNTOUCHED:
            assert time.monotonic() < deadline, board.changes
            time.sleep(0.05)
        assert only_the_agent(device), device.files()
    finally:
        device.sshd.stop()


@pytest.mark.slow
def test_ctrl_c_here_keeps_what_was_measured_there(
    tiny_bundle: Callable[..., Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As on one machine: a profile of the phases that were finished, marked, beside the one that was asked for."""
    (tmp_path / "device").mkdir()
    device = Device(tmp_path / "device", Path(sys.executable))
    device.has_tensorrt("8.2")
    try:
        bundle, engines, out = tiny_bundle(), tmp_path / "engines", tmp_path / "profile.json"
        build(bundle, device, engines)

        def press_ctrl_c(message: str) -> None:
            if "measuring the decode" in message:
                raise KeyboardInterrupt

        machine = RemoteMachine(SshHost(device.sshd.host, device.sshd.options), press_ctrl_c)
        monkeypatch.setattr("bottlekit.cli.bench.machine_from_options", lambda host, python: machine)
        words = ["bench", bundle.path, "-t", "tx2", "--host", "tx2", "--engines", engines, "-o", out]
        words += ["--samples", "8", "--seconds", "1", "--warm-up", "0.1"]
        monkeypatch.setattr(sys, "argv", ["bottlekit", *map(str, words)])
        assert common.run(app) == 130
        partial = tmp_path / "profile.partial.json"
        assert f"interrupted; what was measured is in {partial}" in capsys.readouterr().err.replace("\n", " ")
        profile = json.loads(partial.read_text())
        assert profile["partial"] is True
        assert (profile["format"], profile["target"]) == ("bottlekit-profile", "tx2")
        assert profile["command"].startswith("bottlekit bench")
        (entry,) = profile["bundles"]
        assert sorted(entry["phases"]) == ["encode", "head"]
        assert entry["phases"]["head"]["summary"]["count"] >= 8
        assert entry["bundle"]["sha256"] == bundle.sha256
        assert not out.exists()
        deadline = time.monotonic() + 120
        while not only_the_agent(device):
            assert time.monotonic() < deadline, device.files()
            time.sleep(0.05)
    finally:
        device.sshd.stop()
