"""Builds and measurements on another machine: over a real sshd, by the agent under the Python that is there.

That machine is a TX2 with doubles of TensorRT and CUDA: a home folder of its own, and its own python3.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bottlekit.build.build import Step, build_bundle
from bottlekit.build.remote import RemoteMachine
from bottlekit.build.ssh import SshError, SshHost
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine, engines_for_bundle
from bottlekit.errors import BottlekitError, EngineError, TargetError, UsageError
from bottlekit.targets.loader import target_from_name

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from python36 import python36_with_requirements
from remote_device import Device, build, only_the_agent

Tiny = Callable[..., Bundle]
# Waits until the file WAITS_FOR is there.
SLOW_BUILD = """build = module.Builder.build_serialized_network

def slow(*words):
    while not os.path.exists(WAITS_FOR):
        time.sleep(0.05)
    return build(*words)

module.Builder.build_serialized_network = slow
"""


@pytest.fixture(params=["this Python", pytest.param("Python 3.6", marks=pytest.mark.slow)], name="device")
def _device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    python = Path(sys.executable) if request.param == "this Python" else python36_with_requirements()
    (tmp_path / "device").mkdir()
    device = Device(tmp_path / "device", python)
    device.has_tensorrt("8.2")
    yield device
    device.sshd.stop()


def test_every_part_is_built_and_compared_there_and_comes_back(
    tiny_bundle: Tiny, tmp_path: Path, device: Device
) -> None:
    bundle, out = tiny_bundle(), tmp_path / "engines"
    steps = build(bundle, device, out, parts=None, precision="fp16", command="bottlekit build")
    engines = [step.engine for step in steps if step.state == "built"]
    assert [engine.part for engine in engines if engine] == list(bundle.parts)
    for engine in engines:
        assert engine is not None
        assert Engine.load(engine.path).sidecar == engine.sidecar
        assert engine.golden_compared
        assert engine.sidecar["command"] == "bottlekit build"
        assert engine.sidecar["key"]["compiler_version"] == "8.2.1.8"
        assert engine.sidecar["key"]["gpu"] == "double of a GPU"
        assert "Engine built" in Path(engine.path + ".log").read_text()
    assert (out / "timing-tx2-8.2.1.8-double-of-a-GPU.cache").read_bytes()
    assert any(re.fullmatch(r"tx2: compiled in .*", line) for line in device.said)
    assert only_the_agent(device), device.files()

    device.said.clear()
    again = build(bundle, device, out, parts=None, precision="fp16")
    assert [step.state for step in again] == ["cached"] * len(bundle.parts)
    assert device.said == []


def test_the_same_comes_back_as_where_it_was_built(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    """The agent's own folder of engines, and what is made here of its answer."""
    from bottlekit.build.build import jobs_for
    from bottlekit.build.job_folder import job_folder_from_job

    bundle = tiny_bundle()
    (step,) = (one for one in build(bundle, device, tmp_path / "engines") if one.engine)
    assert step.engine is not None
    (job,) = jobs_for(bundle, target_from_name("tx2"), tmp_path, ["head"], "fp32", None)
    job_folder_from_job(job, device.home / "job", "8.2.1.8")
    agent = device.files()[0]
    host = SshHost(device.sshd.host, device.sshd.options)
    done = host.run(["python3", agent, "build", "job", "-o", "engines"])
    assert done.status == 0, done.stderr
    installed = json.loads(done.stdout.splitlines()[-1])["answer"]["installed"]
    there = Engine.load(str(device.home / installed)).sidecar
    volatile = ("build_ms", "command", "log", "details")
    assert {**there, **dict.fromkeys(volatile)} == {**step.engine.sidecar, **dict.fromkeys(volatile)}


def test_a_link_that_breaks_leaves_a_build_that_goes_on(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    was_cut = tmp_path / "was cut"
    device.has_tensorrt("8.2", SLOW_BUILD.replace("WAITS_FOR", repr(str(was_cut))))
    bundle, out = tiny_bundle(), tmp_path / "engines"

    def cut() -> None:
        while not any("compiling" in line for line in device.said):
            time.sleep(0.05)
        device.sshd.cut_connections()
        was_cut.touch()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(SshError, match="tx2: the connection dropped; type the same command again"):
        build(bundle, device, out)
    cutter.join()
    assert list(out.iterdir()) == []

    device.said.clear()
    steps = build(bundle, device, out)
    assert steps[-1].engine is not None
    assert steps[-1].engine.golden_compared
    assert "tx2: this job was sent before; going on with it" in device.said
    assert "tx2: built already; nothing to do" in device.said
    assert not any("compiling" in line for line in device.said)
    assert only_the_agent(device), device.files()


def test_two_builds_at_once_give_both(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    bundle, out = tiny_bundle(), tmp_path / "engines"
    build(bundle, device, tmp_path / "first")
    failed: list[BottlekitError] = []

    def one(part: str) -> None:
        try:
            build(bundle, device, out, parts=[part])
        except BottlekitError as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(part,)) for part in ("head", "tail", "head")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    engines = engines_for_bundle(str(out), bundle, "tx2")
    assert sorted(engines) == ["head", "tail"]
    assert all(engine.golden_compared for engine in engines.values())
    assert only_the_agent(device), device.files()


def test_onnx_runtime_of_that_machine_is_in_the_key(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    steps: list[Step] = []
    machine = device.machine()
    out = tmp_path / "engines"
    for _ in range(2):
        build_bundle(tiny_bundle(), target_from_name("cpu"), out, ["tail"], progress=steps.append, machine=machine)
    assert [step.state for step in steps] == ["compiling", "built", "cached"]
    engine = steps[-1].engine
    assert engine is not None
    assert engine.golden_compared
    assert engine.sidecar["key"]["compiler_version"] == machine.facts()["onnxruntime"]


def test_a_wrong_host_key_is_refused(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    device.sshd.trust("other_key")
    with pytest.raises(TargetError, match="its host key is not the known one"):
        build(tiny_bundle(), device, tmp_path / "engines")
    assert not (tmp_path / "engines").exists()
    assert device.files() == []


@pytest.mark.parametrize("version", ["8.6", "10.16"])
def test_the_wrong_jetpack_is_named(tiny_bundle: Tiny, tmp_path: Path, device: Device, version: str) -> None:
    device.has_tensorrt(version)
    with pytest.raises(TargetError, match=rf"tx2 needs TensorRT 8\.2, and this machine has {re.escape(version)}"):
        build(tiny_bundle(), device, tmp_path / "engines")
    assert not (tmp_path / "engines").exists()
    assert only_the_agent(device), device.files()


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("module.double.fail_build = 'Error Code 9: it cannot'", "it cannot"),
        (
            "module.Builder.build_serialized_network = lambda *_: os.kill(os.getpid(), 11)",
            "signal 11.*TensorRT crashed",
        ),
        ("module.double.fail_execute = True", "failed to run"),
    ],
)
def test_a_build_that_fails_there_is_one_line_and_its_log_comes_back(
    tiny_bundle: Tiny, tmp_path: Path, device: Device, hook: str, words: str
) -> None:
    device.has_tensorrt("8.2", hook)
    out = tmp_path / "engines"
    with pytest.raises(EngineError, match=words) as caught:
        build(tiny_bundle(), device, out)
    assert "\n" not in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["tiny-rb1-head-tx2.plan.log"]
    assert only_the_agent(device), device.files()


def test_a_build_that_takes_too_long_is_ended_there(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    device.has_tensorrt("8.2", SLOW_BUILD.replace("WAITS_FOR", repr(str(tmp_path / "never"))))
    with pytest.raises(
        EngineError, match=r"did not end within \d+ s and was stopped; allow it more with --timeout"
    ):
        build(tiny_bundle(), device, tmp_path / "engines", machine=device.machine(timeout_s=2.0))
    assert only_the_agent(device), device.files()


@pytest.mark.parametrize("what", ["agent", "job"])
def test_a_full_disk_there_is_said(tiny_bundle: Tiny, tmp_path: Path, device: Device, what: str) -> None:
    options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs", str(device.home)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        if what == "job":
            device.machine().facts()
        free = os.statvfs(device.home)
        (device.home / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 8_192))
        with pytest.raises(TargetError, match="tx2: cannot write files there: its disk is full") as caught:
            build(tiny_bundle(), device, tmp_path / "engines")
        assert "\n" not in str(caught.value)
        assert not any(path.is_file() for path in (tmp_path / "engines").rglob("*"))
        (device.home / "filler").unlink()
        assert device.files() == [] if what == "agent" else only_the_agent(device), device.files()
    finally:
        subprocess.run(["umount", str(device.home)], check=True)


def test_a_machine_without_python_is_said(device: Device) -> None:
    machine = RemoteMachine(SshHost(device.sshd.host, device.sshd.options), device.said.append, "python9")
    with pytest.raises(TargetError, match=r"tx2: cannot run python9 there; name another with --host-python"):
        machine.facts()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_at_all_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="--timeout must be more than 0 seconds"):
        RemoteMachine(SshHost("tx2"), print, timeout_s=seconds)


def test_engines_are_measured_there(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    bundle, out = tiny_bundle(), tmp_path / "engines"
    build(bundle, device, out)
    engines = engines_for_bundle(str(out), bundle, "tx2")
    options = ["--quick", "--phase", "head", "--phase", "encode", "--samples", "8", "--seconds", "1"]
    profile = device.machine().bench([(bundle, engines)], "tx2", options)
    assert (profile["format"], profile["target"]) == ("bottlekit-profile", "tx2")
    (entry,) = profile["bundles"]
    assert sorted(entry["phases"]) == ["encode", "head"]
    assert entry["phases"]["head"]["golden"]["compared"]
    assert entry["phases"]["head"]["engine_sha256"] == engines["head"].sha256
    assert entry["phases"]["head"]["summary"]["count"] >= 8
    # The GPU's own time beside the host's.
    assert entry["phases"]["head"]["device_summary"]["count"] == entry["phases"]["head"]["summary"]["count"]
    assert "device_samples_ms" not in entry["phases"]["encode"]
    assert entry["bundle"]["sha256"] == bundle.sha256
    assert "tx2: measuring the head of tiny-rb1" in device.said
    assert only_the_agent(device), device.files()


def test_the_verbs_take_a_host(tiny_bundle: Tiny, tmp_path: Path, device: Device) -> None:
    """The command line, with the system's ssh made to read the test's configuration."""
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {shlex.join(device.sshd.options)} "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}

    def bottlekit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bottlekit", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    told = bottlekit("doctor", "--host", "tx2", "--json")
    checks = {check["name"]: check for check in json.loads(told.stdout)["checks"]}
    assert checks["TensorRT for Python"]["found"].startswith("tensorrt 8.2.1.8")

    out = tmp_path / "engines"
    bundle = tiny_bundle()
    arguments = [str(bundle.path), "--target", "tx2", "--host", "tx2", "--part", "tail", "-o", str(out)]
    built = bottlekit("build", *arguments, "--json")
    assert built.returncode == 0, built.stderr
    (row,) = json.loads(built.stdout)["engines"]
    assert row["golden"]["compared"]
    assert Engine.load(row["path"]).sha256 == row["engine_sha256"]

    profile = tmp_path / "profile.json"
    effort = ["--samples", "8", "--seconds", "1", "--warm-up", "0.1"]
    measured = bottlekit(
        "bench", str(bundle.path), "-t", "tx2", "--host", "tx2", "--engines", str(out), "-o", str(profile), *effort
    )
    assert measured.returncode == 0, measured.stderr
    (entry,) = json.loads(profile.read_text())["bundles"]
    assert sorted(entry["phases"]) == ["decode", "encode", "tail"]
    assert entry["phases"]["tail"]["engine_sha256"] == row["engine_sha256"]
    missing = bottlekit(
        "bench", str(bundle.path), "-t", "tx2", "--host", "tx2", "--engines", str(out), "--phase", "head"
    )
    assert missing.returncode == 1
    assert "there is no engine for the head of tiny-rb1; build it" in " ".join(missing.stderr.split())

    device.sshd.stop()
    refused = bottlekit("build", *arguments, "--force")
    assert refused.returncode == 1
    assert "tx2: nothing listens for ssh there; start sshd on it" in " ".join(refused.stderr.split())
