"""What this machine can build for, and run, and why not."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from bottlekit.device.machine import compiler_for, require_expected
from bottlekit.errors import TargetError
from bottlekit.targets.here import machine_here, required_tensorrt
from bottlekit.targets.loader import TargetSpec

# Python packages that a build needs, and the extra of bottlekit that brings them.
_BUILD_PACKAGES = {
    "onnxruntime": (("onnxruntime", "bottlekit"),),
    "tensorrt_rtx": (
        ("tensorrt_rtx", "bottlekit[rtx]"),
        ("onnx", "bottlekit[build]"),
        ("onnxruntime", "bottlekit"),
    ),
    "tensorrt": (("onnx", "bottlekit[build]"), ("onnxruntime", "bottlekit")),
}

# Where pip finds TensorRT-RTX; the extra of pyproject.toml names the same.
_RTX_PLATFORM = "Linux x86_64"


@dataclasses.dataclass(frozen=True)
class Availability:
    """Whether this machine can build for a target and run its engines; each `why_not` is None if it can."""

    target: str
    compiler: str | None
    why_not_build: str | None
    why_not_run: str | None

    @property
    def builds(self) -> bool:
        """Whether `bottlekit build` can make engines for the target here."""
        return self.why_not_build is None

    @property
    def runs(self) -> bool:
        """Whether engines of the target run here."""
        return self.why_not_run is None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"builds": self.builds, "runs": self.runs, **dataclasses.asdict(self)}


def availability(target: TargetSpec) -> Availability:
    """Look at the packages and the GPUs of this machine; where there is a GPU, in another process."""
    return Availability(target.name, _compiler(target), _why_not_build(target), _why_not_run(target))


def require_buildable(target: TargetSpec) -> None:
    """Raise TargetError, with what to do, unless this machine can build for the target."""
    why_not = availability(target).why_not_build
    if why_not is not None:
        raise TargetError(f"cannot build for {target.name} on this machine: {why_not}")


def nvidia_gpu_is_here() -> bool:
    """Whether the NVIDIA driver shows a GPU (a card, or a Jetson's own); no library is loaded to find out."""
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu"))


def _compiler(target: TargetSpec) -> str | None:
    """What would compile for the target here, with its version; None if it is not installed."""
    try:
        return f"{target.kind} {metadata.version(target.kind)}"
    except metadata.PackageNotFoundError:
        return None


def _why_not_build(target: TargetSpec) -> str | None:
    for package, extra in _BUILD_PACKAGES[target.kind]:
        if importlib.util.find_spec(package) is None:
            this = f"{platform.system()} {platform.machine()}"
            if package == "tensorrt_rtx" and this != _RTX_PLATFORM:
                return f"TensorRT-RTX comes for {_RTX_PLATFORM}, not for {this}; build there and copy the engines"
            return f"the Python package '{package}' is not installed; type: pip install '{extra}'"
    if target.kind != "tensorrt":
        return None
    why_not = _why_not_this_machine(target)
    return why_not and (
        f"it needs {target.tensorrt} on the device itself, and {why_not}; from here, type: bottlekit build BUNDLE "
        f"--target {target.name} --host USER@DEVICE"
    )


def _why_not_this_machine(target: TargetSpec) -> str | None:
    """Why this machine is none that engines of a TensorRT target are built and run on."""
    if not nvidia_gpu_is_here():
        return "this machine has no NVIDIA GPU"
    try:
        facts = machine_here()
        compiler = compiler_for(facts, target.kind)
        expected = required_tensorrt(target.accepts, compiler.version) if target.accepts else None
        require_expected(facts, compiler, target.name, expected, target.sm)
    except TargetError as error:
        return str(error)
    return None


def _why_not_run(target: TargetSpec) -> str | None:
    if target.kind == "onnxruntime":
        return _why_not_build(target)
    if not nvidia_gpu_is_here():
        return f"no GPU on this machine: the engines need one with SM {target.sm}"
    return _why_not_this_machine(target)
