"""What a machine has for building and running engines, what it lacks, and what to type.

Every check reads; none changes anything. They look under `root`, so that a test can lay out a Jetson's files.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional

from .errors import BottlekitError, MeterError
from .meters.ina3221 import rails_below
from .nvrtc import Nvrtc
from .plugins import HOW_TO_BUILD, find_library

OK, WARNING, MISSING = "ok", "warning", "missing"

# The L4T releases of JetPack 4.6.x, the last for a TX2, with the TensorRT they bring.
JETPACK_BY_L4T = {
    "32.6.1": ("JetPack 4.6", "TensorRT 8.0.1"),
    "32.7.1": ("JetPack 4.6.1", "TensorRT 8.2.1"),
    "32.7.2": ("JetPack 4.6.2", "TensorRT 8.2.1"),
    "32.7.3": ("JetPack 4.6.3", "TensorRT 8.2.1"),
    "32.7.4": ("JetPack 4.6.4", "TensorRT 8.2.1"),
    "32.7.5": ("JetPack 4.6.5", "TensorRT 8.2.1"),
    "32.7.6": ("JetPack 4.6.6", "TensorRT 8.2.1"),
}
_MIB = 1 << 20
_LEAST_MEMORY_MIB = 2048
_LEAST_DISK_MIB = 1024
_TRTEXEC = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")


class Check(NamedTuple):
    """One thing that was looked at: its state (ok, warning, missing), what was found, what to do about it."""

    name: str
    state: str
    found: str
    advice: str = ""


def examine(root: str = "/") -> List[Check]:
    """All checks of this machine, in the order in which a person would set it up."""
    numpy = _numpy(root)
    checks = [_python(), numpy, _module("onnxruntime", "pip install onnxruntime", WARNING)]
    checks += [_jetpack(root)] if is_jetson(root) else []
    unseen = Check("GPU", MISSING, "not looked at: that needs numpy", "first mend numpy")
    checks += [_gpu() if numpy.state == OK else unseen, _tensorrt(root), _trtexec(root)]
    checks += [_nvrtc(), _plugin_library()]
    checks += [_power_mode(root), _jtop(root), _sensors(root)] if is_jetson(root) else []
    return checks + [_memory(root), _disk()]


def is_jetson(root: str = "/") -> bool:
    """Whether the machine is a Jetson: it has NVIDIA's release file."""
    return os.path.exists(os.path.join(root, "etc/nv_tegra_release"))


def l4t_release(root: str = "/") -> Optional[str]:
    """The Linux for Tegra release, like 32.7.4; None where there is none."""
    text = _read(root, "etc/nv_tegra_release")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return "{}.{}".format(*found.groups()) if found else None


def trtexec_path(root: str = "/") -> Optional[str]:
    """Where trtexec lies; None where it is not installed."""
    for path in _TRTEXEC:
        if os.access(os.path.join(root, path.lstrip("/")), os.X_OK):
            return path
    return shutil.which("trtexec")


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _python() -> Check:
    return Check("Python", OK, platform.python_version())


def _numpy(root: str) -> Check:
    """numpy 1.19.5 ends in `Illegal instruction` on a Jetson, so it is not imported there to find out."""
    version = _version_in_child("numpy")
    if version is None:
        return Check("numpy", MISSING, "cannot be imported", "type: pip3 install numpy==1.19.4")
    if is_jetson(root) and version == "1.19.5":
        return Check("numpy", MISSING, "1.19.5, which crashes on a Jetson", "type: pip3 install numpy==1.19.4")
    return Check("numpy", OK, version)


def _version_in_child(module: str) -> Optional[str]:
    """A module's version as another process sees it: importing a broken binary can end the process."""
    code = "import {0}; print({0}.__version__)".format(module)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.communicate()[0].decode("utf-8", "replace").strip()
    return output.splitlines()[-1] if process.returncode == 0 and output else None


def _module(name: str, command: str, absent: str) -> Check:
    version = _version_in_child(name)
    if version is None:
        return Check(name, absent, "cannot be imported", "type: " + command)
    return Check(name, OK, version)


def _jetpack(root: str) -> Check:
    release = l4t_release(root)
    if release is None:
        return Check("JetPack", WARNING, "an unreadable /etc/nv_tegra_release", "reinstall nvidia-l4t-core")
    if release in JETPACK_BY_L4T:
        return Check("JetPack", OK, "L4T {}: {} with {}".format(release, *JETPACK_BY_L4T[release]))
    return Check("JetPack", OK, "L4T " + release)


def _gpu() -> Check:
    # Here, because it imports numpy, which may end the process: that was looked at before.
    from .cuda_providers import open_provider

    try:
        with open_provider() as provider:
            facts = provider.device_facts()
            return Check(
                "GPU",
                OK,
                "{name}, SM {sm}, {mib} MiB, CUDA {runtime_version} through {provider}".format(
                    mib=facts["memory_bytes"] // _MIB, provider=provider.name, **facts
                ),
            )
    except BottlekitError as error:
        return Check("GPU", MISSING, str(error), "needed for TensorRT engines; `--target cpu` works without")


def _tensorrt(root: str) -> Check:
    found = []
    for flavour in ("tensorrt", "tensorrt_rtx"):
        version = _version_in_child(flavour)
        if version is not None:
            found.append("{} {}".format(flavour, version))
    if found:
        return Check("TensorRT for Python", OK, ", ".join(found))
    if is_jetson(root):
        advice = "type: sudo apt install python3-libnvinfer (its bindings are for the system's python3 only)"
    else:
        advice = "install TensorRT for this GPU, or type: pip install 'bottlekit[rtx]' to compile without one"
    return Check("TensorRT for Python", MISSING, "cannot be imported", advice)


def _trtexec(root: str) -> Check:
    path = trtexec_path(root)
    if path is None:
        return Check("trtexec", WARNING, "not found", "only needed where TensorRT's Python bindings are missing")
    return Check("trtexec", OK, path)


def _nvrtc() -> Check:
    """What compiles the kernel behind a head; without it the codec quantises on the host."""
    try:
        found = Nvrtc()
    except BottlekitError as error:
        return Check("NVRTC", WARNING, str(error), "only needed to quantise on the GPU")
    return Check("NVRTC", OK, "CUDA {}.{}, {}".format(*(found.version + (found.path,))))


def _plugin_library() -> Check:
    try:
        found = find_library()
    except BottlekitError as error:
        return Check("plugin library", WARNING, str(error), "only needed for `bottlekit build --plugin`")
    words = "{}, {}, SHA-256 {}".format(found.path, found.generation, found.sha256[:8])
    installed = _version_in_child("tensorrt")
    if installed is not None and found.tensorrt is not None and installed.split(".")[0] != str(found.tensorrt):
        return Check(
            "plugin library",
            WARNING,
            words,
            "TensorRT here is {}; build it again: {}".format(installed, HOW_TO_BUILD),
        )
    return Check("plugin library", OK, words)


def _power_mode(root: str) -> Check:
    text = _read(root, "etc/nvpmodel.conf")
    status = _read(root, "var/lib/nvpmodel/status")
    found = re.search(r"pmode:(\d+)", status)
    if found is None:
        return Check("power mode", WARNING, "unknown", "type: sudo nvpmodel -q")
    mode = int(found.group(1))
    name = re.search(r"POWER_MODEL ID={} NAME=(\S+)".format(mode), text)
    words = "{}{}".format(mode, " ({})".format(name.group(1)) if name else "")
    if mode != 0:
        return Check(
            "power mode", WARNING, words, "not the fastest; to measure as the papers did: sudo nvpmodel -m 0"
        )
    return Check("power mode", OK, words)


def _jtop(root: str) -> Check:
    if os.path.exists(os.path.join(root, "run/jtop.sock")):
        return Check("jtop service", OK, "running")
    return Check("jtop service", WARNING, "not running", "type: sudo pip3 install jetson-stats==4.3.2, and reboot")


def _sensors(root: str) -> Check:
    try:
        rails = sorted(rail.name for rail in rails_below(root)[2])
    except (MeterError, OSError):
        return Check(
            "power sensors", WARNING, "no INA3221 rails", "bench --power needs them, or an external INA226"
        )
    return Check("power sensors", OK, ", ".join(rails))


def _memory(root: str) -> Check:
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(root, "proc/meminfo"), re.MULTILINE))
    free_mib = int(fields.get("MemAvailable", 0)) // 1024
    swap_mib = int(fields.get("SwapFree", 0)) // 1024
    words = "{} MiB free, {} MiB of swap".format(free_mib, swap_mib)
    if free_mib + swap_mib < _LEAST_MEMORY_MIB:
        return Check("memory", WARNING, words, "a build may be killed: stop the desktop, or add swap")
    return Check("memory", OK, words)


def _disk() -> Check:
    free_mib = shutil.disk_usage(os.path.expanduser("~")).free // _MIB
    words = "{} MiB free in the home folder".format(free_mib)
    if free_mib < _LEAST_DISK_MIB:
        return Check("disk", WARNING, words, "free some: plans and timing caches need a few hundred MiB")
    return Check("disk", OK, words)


def report(root: str = "/") -> Dict[str, Any]:
    """The checks as JSON values, and whether anything is missing."""
    checks = examine(root)
    return {
        "checks": [dict(check._asdict()) for check in checks],
        "complete": all(check.state != MISSING for check in checks),
    }
