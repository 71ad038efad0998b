"""What this machine can build and run is told from its packages and its GPU, with what to do where it cannot."""

from __future__ import annotations

import importlib.util

import pytest

from bottlekit.errors import TargetError
from bottlekit.targets import availability as room
from bottlekit.targets.availability import availability, require_buildable
from bottlekit.targets.loader import all_targets, target_from_name


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


@pytest.mark.parametrize("name", [target.name for target in all_targets() if target.kind == "tensorrt"])
def test_machines_that_build_on_themselves_say_what_they_need(name: str) -> None:
    target = target_from_name(name)
    here = availability(target)
    assert (here.builds, here.runs) == (False, False)
    with pytest.raises(
        TargetError, match=f"it needs {target.tensorrt} on the device itself.*it builds for: cpu, rtx-"
    ):
        require_buildable(target)


def test_what_is_told_is_json(gpu: bool) -> None:
    here = availability(target_from_name("tx2")).to_dict()
    assert (here["builds"], here["runs"], here["target"]) == (False, False, "tx2")
    assert isinstance(here["why_not_build"], str)
