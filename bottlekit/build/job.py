"""One engine to build, and what building it gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engine_file_name
from bottlekit.device.plugins import LIBRARY, NODES
from bottlekit.errors import UsageError
from bottlekit.targets.loader import Precision, TargetSpec

# The largest batch that an engine takes where the graph takes any and nobody said otherwise.
DEFAULT_MAX_BATCH = 8
MAX_WORKSPACE_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class CalibrationSource:
    """Where images to calibrate INT8 with come from: a folder, else the training images of the bundle's data set.

    `data_root` is where that data set lies, if it is read from files.
    """

    folder: Path | None = None
    data_root: Path | None = None


@dataclasses.dataclass(frozen=True)
class PluginRequest:
    """That head and tail shall have a node of the plugin library at their edge.

    `library` is where the library lies on the machine that builds; None for the usual places there.
    """

    library: str | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One part of a bundle, to be compiled for a target.

    `max_batch` is the largest batch the engine shall take; None where the compiler does not ask for one.
    `workspace_mib` is the most scratch memory the compiler may plan with; None takes the target's. `calibration`
    is there for INT8 alone. `plugin` asks for codes at the edge of head and tail.
    """

    bundle: Bundle
    part: str
    target: TargetSpec
    precision: Precision
    max_batch: int | None
    folder: Path
    workspace_mib: int | None = None
    calibration: CalibrationSource | None = None
    plugin: PluginRequest | None = None

    @property
    def has_plugin(self) -> bool:
        """Whether this part gets a node of the plugin library: whole networks have no edge of codes."""
        return self.plugin is not None and self.part in NODES

    @property
    def workspace_bytes(self) -> int:
        """The most scratch memory that the compiler may plan with; 0 for a target without such a setting."""
        return self.target.workspace_bytes if self.workspace_mib is None else self.workspace_mib << 20

    @property
    def onnx_path(self) -> Path:
        """The FP32 graph in the bundle."""
        return Path(self.bundle.onnx_path(self.part))

    @property
    def engine_path(self) -> Path:
        """Where the engine goes."""
        return self.folder / engine_file_name(self.bundle.name, self.part, self.target.name, self.target.kind)

    def __str__(self) -> str:
        return f"{self.bundle.name} {self.part}"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiler gives beside the engine file itself.

    `golden` is the comparison with the bundle's golden outputs, or why there was none; `lowered` the comparison
    of the lowered graph with the original one, where the graph was lowered; `log` the compiler's own words;
    `details` what else it tells, for the sidecar.
    """

    build_ms: float
    golden: dict[str, Any]
    lowered: dict[str, Any] | None = None
    log: tuple[str, ...] = ()
    details: dict[str, Any] | None = None


def workspace_for(target: TargetSpec, asked: int | None) -> int | None:
    """The workspace asked for in MiB, None for the target's; UsageError where there is none, or it is too small."""
    if asked is None:
        return None
    if target.workspace_mib is None:
        raise UsageError(f"--workspace-mb is not for {target.name}: its compiler plans without scratch memory")
    if not 1 <= asked <= MAX_WORKSPACE_MIB:
        raise UsageError(f"--workspace-mb must be from 1 to {MAX_WORKSPACE_MIB}, not {asked}")
    return asked


def plugin_for(target: TargetSpec, asked: PluginRequest | None) -> PluginRequest | None:
    """The plugin asked for; UsageError, saying why, where the target's engines cannot have one."""
    if asked is None or target.kind == "tensorrt":
        return asked
    reason = {
        "onnxruntime": "ONNX Runtime runs no plugins of TensorRT; the codec quantises there",
        "tensorrt_rtx": f"{LIBRARY} is linked with TensorRT, which TensorRT-RTX is not; the kernel behind its "
        "engines does the same there, without being asked",
    }[target.kind]
    raise UsageError(f"--plugin is not for {target.name}: {reason}")


def calibration_for(precision: Precision, asked: CalibrationSource | None) -> CalibrationSource | None:
    """Where calibration images come from; UsageError if somebody gave some for another precision than INT8."""
    if precision == "int8":
        return asked or CalibrationSource()
    if asked is not None and asked != CalibrationSource():
        option = "--data-root" if asked.folder is None else "--calibration"
        raise UsageError(f"{option} is for --precision int8, and this builds {precision}")
    return None


def max_batch_for(bundle: Bundle, target: TargetSpec, asked: int | None) -> int | None:
    """The largest batch of an engine; None for ONNX Runtime, which takes whatever the graph takes."""
    if asked is not None and asked < 1:
        raise UsageError(f"--max-batch must be at least 1, not {asked}")
    if target.kind == "onnxruntime":
        if asked is not None:
            raise UsageError(
                f"--max-batch is not for {target.name}: its engines take any batch that the bundle's graphs take"
            )
        return None
    if bundle.dynamic_batch:
        return DEFAULT_MAX_BATCH if asked is None else asked
    if asked is not None and asked != 1:
        raise UsageError(
            f"--max-batch {asked}: {bundle.name} was exported for one image at a time; "
            "export it with a dynamic batch to build engines that take more"
        )
    return 1
