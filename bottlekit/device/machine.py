"""What a machine is to a compiler: its TensorRT, its GPU, its CUDA. Facts, the key of an engine, what does not fit.

::

    machine_facts() --compiler_for--> what compiles here, or why nothing does
                    --machine_key---> the part of an engine's key that the machine decides
"""

import platform
from typing import Any, Dict, NamedTuple, Optional

import numpy as np

from .. import __version__
from .cuda import CudaProvider
from .cuda_providers import open_provider
from .doctor import JETPACK_BY_L4T, l4t_release, trtexec_path
from .environment import environment, version_of
from .errors import BottlekitError, TargetError
from .fit import is_version
from .ort_runner import onnxruntime_key
from .plugins import find_library
from .trt import FLAVOURS, full_version, import_tensorrt
from .trtexec import trtexec_version


class Compiler(NamedTuple):
    """What compiles an engine: onnxruntime, tensorrt, tensorrt_rtx or trtexec, and its version."""

    name: str
    version: str


def machine_facts(provider: Any = "auto", plugin_library: Optional[str] = None) -> Dict[str, Any]:
    """This machine as JSON values. `provider` names the CUDA provider, or is one that is open already.

    `plugin_library` is where the plugin library lies; None for the usual places.

    tensorrt (version by flavour, None where it is not), why_no_tensorrt, trtexec ({path, version} or None), gpu
    (name, sm, memory_bytes, driver_version, runtime_version, provider; or None), why_no_gpu, plugin_library (path,
    sha256, tensorrt: the major version that it is linked with; or None), why_no_plugin_library, l4t, jetpack,
    onnxruntime, numpy, python, machine, bottlekit, environment.
    """
    tensorrt: Dict[str, Optional[str]] = {}
    reasons: Dict[str, str] = {}
    for flavour in FLAVOURS:
        try:
            tensorrt[flavour] = full_version(import_tensorrt(flavour))
        except TargetError as error:
            tensorrt[flavour], reasons[flavour] = None, str(error)
    gpu, why_no_gpu = _gpu(provider)
    library, why_no_library = _plugin_library(plugin_library)
    trtexec = trtexec_path()
    l4t = l4t_release()
    return {
        "bottlekit": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "onnxruntime": version_of("onnxruntime"),
        "l4t": l4t,
        "jetpack": JETPACK_BY_L4T[l4t][0] if l4t in JETPACK_BY_L4T else None,
        "tensorrt": tensorrt,
        "why_no_tensorrt": reasons,
        "trtexec": None if trtexec is None else {"path": trtexec, "version": trtexec_version(trtexec)},
        "gpu": gpu,
        "why_no_gpu": why_no_gpu,
        "plugin_library": library,
        "why_no_plugin_library": why_no_library,
        "environment": environment(),
    }


def _gpu(provider: Any) -> Any:
    """The GPU's facts and None, or None and why there are none."""
    try:
        if isinstance(provider, CudaProvider):
            with provider.attach():
                return dict(provider.device_facts(), provider=provider.name), None
        with open_provider(provider) as opened:
            return dict(opened.device_facts(), provider=opened.name), None
    except BottlekitError as error:
        return None, str(error)


def _plugin_library(path: Optional[str]) -> Any:
    """The plugin library's facts and None, or None and why there are none."""
    try:
        return dict(find_library(path)._asdict()), None
    except BottlekitError as error:
        return None, str(error)


def compiler_for(facts: Dict[str, Any], kind: str) -> Compiler:
    """What compiles engines of a kind on the machine of these facts; TargetError where nothing does.

    Without TensorRT's Python bindings, trtexec compiles.
    """
    if kind == "onnxruntime":
        if facts["onnxruntime"] is None:
            raise TargetError("this machine has no ONNX Runtime for Python; type: pip3 install onnxruntime")
        return Compiler(kind, facts["onnxruntime"])
    if facts["gpu"] is None:
        raise TargetError("this machine has no GPU that works: {}".format(facts["why_no_gpu"]))
    version = facts["tensorrt"][kind]
    if version is not None:
        return Compiler(kind, version)
    trtexec = facts["trtexec"]
    if kind == "tensorrt" and trtexec is not None and trtexec["version"] is not None:
        return Compiler("trtexec", trtexec["version"])
    raise TargetError(facts["why_no_tensorrt"][kind])


def require_expected(
    facts: Dict[str, Any], compiler: Compiler, target: str, tensorrt: Optional[str], sm: Optional[str]
) -> None:
    """TargetError, naming what is here and what is needed, unless the machine is of the kind that `target` names.

    `tensorrt` is the start of its version ("8.2"), `sm` its compute capability ("6.2"); None for any.
    """
    if tensorrt is not None and not is_version(compiler.version, tensorrt):
        raise TargetError(
            "{} needs TensorRT {}, and this machine has {}{}; {}".format(
                target, tensorrt, compiler.version, _system(facts), _how_to_get(tensorrt, facts)
            )
        )
    if sm is not None and facts["gpu"]["sm"] != sm:
        raise TargetError(
            "{} needs a GPU with SM {}, and this machine has {} with SM {}; build it on such a machine, or choose "
            "the target of this one: bottlekit targets".format(target, sm, facts["gpu"]["name"], facts["gpu"]["sm"])
        )


def _system(facts: Dict[str, Any]) -> str:
    if facts["l4t"] is None:
        return ""
    return " (L4T {}{})".format(facts["l4t"], ", " + facts["jetpack"] if facts["jetpack"] else "")


def _how_to_get(tensorrt: str, facts: Dict[str, Any]) -> str:
    names = [name for name, brings in JETPACK_BY_L4T.values() if is_version(brings.split()[-1], tensorrt)]
    if facts["l4t"] is not None and names:
        return "flash {}".format(names[0] if len(names) == 1 else "{} to {}".format(names[0], names[-1]))
    return "install that version, or build for a target that this one fits: bottlekit targets"


def machine_key(facts: Dict[str, Any], compiler: Compiler) -> Dict[str, Any]:
    """The part of an engine's key that the machine decides: what makes it another, or unusable, elsewhere."""
    if compiler.name == "onnxruntime":
        return onnxruntime_key(compiler.version, facts["machine"])
    return {
        "compiler": compiler.name,
        "compiler_version": compiler.version,
        "sm": facts["gpu"]["sm"],
        "gpu": facts["gpu"]["name"],
        "l4t": facts["l4t"],
        "cuda_runtime": facts["gpu"]["runtime_version"],
        "driver": facts["gpu"]["driver_version"],
    }
