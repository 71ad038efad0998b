"""What this machine can build and run is told from its packages and its GPU, with what to do where it cannot."""

from __future__ import annotations

import importlib.util

import pytest

from bottlekit.errors import TargetError
from bottlekit.targets import availability as room
from bottlekit.targets.availability import availability, require_buildable
from bottlekit.targets.loader import all_targets, target_from_name

# What a machine tells of itself, as far as it is asked here.
FACTS = {
    "l4t": None,
    "tensorrt": {"tensorrt": None, "tensorrt_rtx": None},
    "why_no_tensorrt": {"tensorrt": "no tensorrt here", "tensorrt_rtx": "no tensorrt_rtx here"},
    "trtexec": None,
    "gpu": None,
    "why_no_gpu": None,
}


@pytest.fixture(name="without")
def _without(monkeypatch: pytest.MonkeyPatch):
    """A function that takes Python packages away."""
    real = importlib.util.find_spec

    def without(*names: str) -> None:
        monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None if name in names else real(name))

    return without


@pytest.fixture(name="gpu", params=[False, True], ids=["no GPU", "GPU"])
def _gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(room, "nvidia_gpu_is_here", lambda: request.param)
    monkeypatch.setattr(room, "machine_here", lambda: dict(FACTS, gpu=None, why_no_gpu="the driver is asleep"))
    return bool(request.param)


def test_the_cpu_builds_and_runs_everywhere(gpu: bool) -> None:
    here = availability(target_from_name("cpu"))
    assert here.builds
    assert here.runs
    assert here.compiler is not None
    assert here.compiler.startswith("onnxruntime 1.")


def test_rtx_builds_without_a_gpu_and_does_not_run(gpu: bool) -> None:
    here = availability(target_from_name("rtx-ada"))
    assert here.builds
    assert here.compiler is not None
    assert here.compiler.startswith("tensorrt_rtx 1.")
    assert not here.runs
    assert here.why_not_run is not None
    assert ("no GPU on this machine" in here.why_not_run) == (not gpu)
    assert ("no GPU that works: the driver is asleep" in here.why_not_run) == gpu


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("tensorrt_rtx", "bottlekit[rtx]"),
        ("onnx", "bottlekit[build]"),
    ],
)
def test_a_missing_package_says_what_to_type(without, package: str, extra: str) -> None:
    without(package)
    here = availability(target_from_name("rtx-ada"))
    assert not here.builds
    assert here.why_not_build == f"the Python package '{package}' is not installed; type: pip install '{extra}'"
    assert availability(target_from_name("cpu")).builds
    with pytest.raises(TargetError, match="cannot build for rtx-ada on this machine: the Python package"):
        require_buildable(target_from_name("rtx-ada"))


def test_a_platform_without_tensorrt_rtx_is_told_where_there_is_one(
    without, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("tensorrt_rtx")
    monkeypatch.setattr(room.platform, "machine", lambda: "aarch64")
    why_not = availability(target_from_name("rtx-ada")).why_not_build
    assert why_not == "TensorRT-RTX comes for Linux x86_64, not for Linux aarch64; build there and copy the engines"


def test_without_onnx_runtime_the_cpu_is_out(without) -> None:
    without("onnxruntime")
    here = availability(target_from_name("cpu"))
    assert (here.builds, here.runs) == (False, False)
    assert here.why_not_run == "the Python package 'onnxruntime' is not installed; type: pip install 'bottlekit'"


ON_THE_DEVICE = [target.name for target in all_targets() if target.kind == "tensorrt"]


@pytest.mark.parametrize("name", ON_THE_DEVICE)
def test_machines_that_build_on_themselves_say_what_they_need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "nvidia_gpu_is_here", lambda: False)
    target = target_from_name(name)
    here = availability(target)
    assert (here.builds, here.runs) == (False, False)
    with pytest.raises(TargetError) as caught:
        require_buildable(target)
    assert str(caught.value) == (
        f"cannot build for {name} on this machine: it needs {target.tensorrt} on the device itself, and this "
        f"machine has no NVIDIA GPU; from here, type: bottlekit build BUNDLE --target {name} --host USER@DEVICE"
    )


@pytest.mark.parametrize("name", ON_THE_DEVICE)
@pytest.mark.parametrize("how", ["right", "trtexec", "newer", "no TensorRT", "other GPU"])
def test_a_machine_with_a_gpu_is_asked_what_it_is(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_from_name(name)
    version = target.accepts[0] + ".1.8"
    facts = {
        **FACTS,
        "tensorrt": {"tensorrt": None if how in ("trtexec", "no TensorRT") else version, "tensorrt_rtx": None},
        "trtexec": {"path": "/bin/trtexec", "version": version} if how == "trtexec" else None,
        "gpu": {"name": "a GPU", "sm": "5.0" if how == "other GPU" else target.sm},
    }
    if how == "newer":
        facts["tensorrt"] = {"tensorrt": "99.1.0.0"}
    monkeypatch.setattr(room, "nvidia_gpu_is_here", lambda: True)
    monkeypatch.setattr(room, "machine_here", lambda: facts)
    here = availability(target)
    assert here.builds == here.runs == (how in ("right", "trtexec"))
    words = {
        "newer": f"{name} needs TensorRT {target.accepts[0]}, and this machine has 99.1.0.0",
        "no TensorRT": "no tensorrt here",
        "other GPU": f"{name} needs a GPU with SM {target.sm}, and this machine has a GPU with SM 5.0",
    }.get(how)
    if words is not None:
        assert words in str(here.why_not_build)
        assert words in str(here.why_not_run)
        assert f"--target {name} --host USER@DEVICE" in str(here.why_not_build)


def test_what_is_told_is_json(gpu: bool) -> None:
    here = availability(target_from_name("tx2")).to_dict()
    assert (here["builds"], here["runs"], here["target"]) == (False, False, "tx2")
    assert isinstance(here["why_not_build"], str)
