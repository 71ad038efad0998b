"""Targets: the kinds of machine that bottlekit builds for. One TOML file each, with its facts.

::

    targets/rtx-ada.toml --target_from_name--> TargetSpec --build--> engines for that kind of machine

What a machine can do is data. That it can be built for from here is another question: see availability.py.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from importlib import resources
from typing import Any, Literal

from bottlekit.errors import TargetError, UnknownNameError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]

# Where an engine of a target comes into being: on whatever machine asks, compiled for a GPU that is elsewhere,
# or only on the machine that will run it.
BUILT = ("here", "ahead of time", "on the device")
RATES = ("none", "slow", "native")


@dataclasses.dataclass(frozen=True)
class Peak:
    """What the hardware can do at best in one power mode or clock; None where nobody says."""

    mode: str
    memory_gbytes_per_s: float
    fp32_gflops: float
    fp16_gflops: float
    gpu_mhz: float | None = None


@dataclasses.dataclass(frozen=True)
class Abilities:
    """What arithmetic the machine has: each of fp16 and int8 is none, slow or native.

    `fp32_gemm` is false where the compiler refuses matrix products in FP32.
    """

    fp16: str
    int8: str
    dla: bool
    fp32_gemm: bool = True


@dataclasses.dataclass(frozen=True)
class Memory:
    """The memory that engines live in; `shared` with the CPU, as on a Jetson."""

    gib: float
    shared: bool


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """A kind of machine.

    `kind` is what compiles and runs its engines, `built` where (see BUILT). `sm` is the GPU's compute
    capability, `tensorrt` the newest TensorRT that knows it, `accepts` how the versions begin that may build for
    it on the device ("8.2", or "10" for all of them), the usual one first. Of what reads its graphs: `opset` the
    newest ONNX opset, `parser` the TensorRT whose parser it is ("8.2"; TensorRT-RTX counts for itself and has that
    of 11), `uint8_edges` whether inputs and outputs may be UINT8. The first of `precisions` is the one built when
    none is asked for.
    """

    name: str
    title: str
    kind: Kind
    built: str
    python: str
    opset: int
    precisions: tuple[Precision, ...]
    abilities: Abilities
    sm: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    accepts: tuple[str, ...] = ()
    parser: str | None = None
    uint8_edges: bool | None = None
    workspace_mib: int | None = None
    memory: Memory | None = None
    peaks: tuple[Peak, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.built in BUILT, self, f"built is {self.built!r}, not one of {BUILT}")
        _check(self.kind in ("onnxruntime", "tensorrt_rtx", "tensorrt"), self, f"kind is {self.kind!r}")
        _check(bool(self.precisions), self, "no precisions")
        _check(set(self.precisions) <= {"fp32", "fp16", "int8"}, self, f"precisions are {self.precisions}")
        for rate in (self.abilities.fp16, self.abilities.int8):
            _check(rate in RATES, self, f"an ability is {rate!r}, not one of {RATES}")
        for precision, rate in (("fp16", self.abilities.fp16), ("int8", self.abilities.int8)):
            _check(precision not in self.precisions or rate != "none", self, f"it has no {precision} to build for")
        if self.kind != "onnxruntime":
            for field in ("sm", "tensorrt", "cuda", "parser", "uint8_edges", "workspace_mib"):
                _check(getattr(self, field) is not None, self, f"no {field}")
            _check(bool(re.fullmatch(r"\d+\.\d", self.sm or "")), self, f"sm is {self.sm!r}, not like 8.9")
            needs_versions = self.kind == "tensorrt"
            _check(bool(self.accepts) == needs_versions, self, f"accepts is {self.accepts!r} for {self.kind}")
            good_parser = bool(re.fullmatch(r"\d+\.\d+", self.parser or ""))
            _check(good_parser, self, f"parser is {self.parser!r}, not like 8.2")

    @property
    def workspace_bytes(self) -> int:
        """The most scratch memory that the compiler may plan with; 0 for a target without such a setting."""
        return (self.workspace_mib or 0) << 20

    @property
    def parser_version(self) -> tuple[int, int] | None:
        """`parser` as (major, minor); None where no TensorRT reads the graphs."""
        if self.parser is None:
            return None
        major, minor = self.parser.split(".")
        return int(major), int(minor)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def target_from_name(name: str) -> TargetSpec:
    """The target of that name; UnknownNameError with those that exist."""
    targets = _targets()
    if name not in targets:
        raise UnknownNameError("target", name, targets, "`bottlekit targets` shows what each one is")
    return targets[name]


def all_targets() -> list[TargetSpec]:
    """Every target: those that can be built anywhere first, then by name."""
    return sorted(_targets().values(), key=lambda target: (BUILT.index(target.built), target.name))


def target_from_toml(text: str, where: str) -> TargetSpec:
    """A target from a TOML document; TargetError names the field that is missing, unknown or wrong."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{where} is no TOML: {error}") from None
    parts: dict[str, Any] = dict(values)
    try:
        parts["abilities"] = Abilities(**values["abilities"])
        parts["precisions"] = tuple(values["precisions"])
        parts["notes"] = tuple(values.get("notes", ()))
        parts["accepts"] = tuple(values.get("accepts", ()))
        parts["peaks"] = tuple(Peak(**peak) for peak in values.get("peaks", ()))
        if "memory" in values:
            parts["memory"] = Memory(**values["memory"])
        return TargetSpec(**parts)
    except KeyError as error:
        raise TargetError(f"{where}: the field {error} is missing") from None
    except TypeError as error:
        raise TargetError(f"{where}: {str(error).split('__init__() ')[-1]}") from None


@functools.cache
def _targets() -> dict[str, TargetSpec]:
    found = {}
    for file in resources.files("bottlekit.targets").iterdir():
        if file.name.endswith(".toml"):
            found[file.name[: -len(".toml")]] = target_from_toml(file.read_text("utf-8"), file.name)
    return dict(sorted(found.items()))


def _check(good: bool, target: TargetSpec, words: str) -> None:
    if not good:
        raise TargetError(f"target {target.name}: {words}")
