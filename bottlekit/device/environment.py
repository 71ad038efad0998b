"""What a measurement was taken on: machine, processor, versions, load. Read, never changed."""

import glob
import importlib
import os
import platform
import socket
from typing import Any, Dict, List, Optional

# Packages whose version can change a measured time.
PACKAGES = ("numpy", "onnxruntime", "pillow", "simplejpeg", "thrift", "tensorrt", "tensorrt_rtx")

_CPUINFO = "/proc/cpuinfo"
_CPUFREQ = "/sys/devices/system/cpu/cpu*/cpufreq"
_BOARD = "/proc/device-tree/model"
_L4T = "/etc/nv_tegra_release"
# What a Jetson's nvpmodel was last told, and what NVIDIA's driver says of its GPUs: read without a library.
_POWER_MODE = "/var/lib/nvpmodel/status"
_GPUS = "/proc/driver/nvidia/gpus/*/information"
_NVIDIA_DRIVER = "/proc/driver/nvidia/version"


def environment(threads: Optional[int] = None, include_hostname: bool = False) -> Dict[str, Any]:
    """This machine as JSON values; None for what cannot be read here.

    `threads` is what the engines were told to use, None for all cores. The host's name is left out unless asked
    for.
    """
    result: Dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "board": _first_line(_BOARD),
        "l4t": _first_line(_L4T),
        "power_mode": _first_line(_POWER_MODE),
        "gpus": _gpus(),
        "nvidia_driver": _first_line(_NVIDIA_DRIVER),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "virtual": _is_virtual(),
        "memory_mib": _memory_mib(),
        "governors": _distinct("scaling_governor"),
        "frequency_khz": _distinct("scaling_cur_freq"),
        "load_average": load_average(),
        "python": platform.python_version(),
        "threads": threads,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    result.update({package: version_of(package) for package in PACKAGES})
    if include_hostname:
        result["hostname"] = socket.gethostname()
    return result


def cpu_model() -> Optional[str]:
    """The processor's name, or None where the system does not tell."""
    for name in ("model name", "Model", "Hardware", "Processor"):
        for line in _lines(_CPUINFO):
            key, _, value = line.partition(":")
            if key.strip() == name and value.strip():
                return value.strip()
    return platform.processor() or None


def usable_cores() -> Optional[int]:
    """How many cores this process may run on: fewer than the machine has in a container or under taskset."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count()


def load_average() -> Optional[List[float]]:
    """Processes waiting for a core, on average over 1, 5 and 15 minutes; None where the system does not tell."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def version_of(package: str) -> Optional[str]:
    """The installed version of a package, without importing it; None where it is not installed."""
    try:
        # Python 3.8 and later.
        from importlib import metadata
    except ImportError:
        return _version_from_setuptools(package)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _version_from_setuptools(package: str) -> Optional[str]:
    try:
        pkg_resources: Any = importlib.import_module("pkg_resources")
    except ImportError:
        return None
    try:
        return str(pkg_resources.get_distribution(package).version)
    except pkg_resources.DistributionNotFound:
        return None


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", "").splitlines()
    except OSError:
        return []


def _first_line(path: str) -> Optional[str]:
    lines = _lines(path)
    return lines[0].strip() if lines else None


def _gpus() -> Optional[List[str]]:
    """The GPUs that NVIDIA's driver drives, one name for each; None where there is no such driver."""
    lines = [line for path in sorted(glob.glob(_GPUS)) for line in _lines(path)]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")] or None


def _is_virtual() -> Optional[bool]:
    """Whether x86's processor flags name a hypervisor; other machines do not tell."""
    for line in _lines(_CPUINFO):
        if line.startswith("flags"):
            return "hypervisor" in line.split()
    return None


def _memory_mib() -> Optional[int]:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)
    except (AttributeError, ValueError, OSError):
        return None


def _distinct(name: str) -> Optional[List[str]]:
    """The different values of a cpufreq file over all cores, or None where there is no frequency scaling."""
    values = {_first_line(os.path.join(folder, name)) for folder in glob.glob(_CPUFREQ)}
    return sorted(value for value in values if value is not None) or None
