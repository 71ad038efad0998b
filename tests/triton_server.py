"""A real tritonserver without a GPU: the one in the PyPI package nvidia-pytriton, with its Python backend."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping

import pytest

# Its own requirements are for its Python API, which nothing here uses; but its Python backend, too, misreads the
# arrays of numpy 2.
PACKAGE = "nvidia-pytriton==0.7.0"
NUMPY = "numpy==1.26.4"
START_S = 300
PACKAGES = ("PIL", "pillow.libs", "onnxruntime", "simplejpeg")


def triton_home() -> pathlib.Path:
    """The unpacked package, in the user's cache, with the stub of this Python beside the Python backend.

    The test is skipped where it cannot be had or cannot run.
    """
    if sys.platform != "linux" or sysconfig.get_platform() != "linux-x86_64":
        pytest.skip(f"{PACKAGE} is for Linux on x86-64")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bottlekit-tests"
    home = cache / f"{PACKAGE.replace('==', '-')}-python{version}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            new = pathlib.Path(scratch) / "home"
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
            for package, target in ((PACKAGE, new), (NUMPY, new / "numpy1")):
                done = subprocess.run(
                    [*pip, "--target", str(target), package], capture_output=True, text=True, check=False
                )
                if done.returncode != 0:
                    pytest.skip(f"{package} cannot be installed here: {done.stderr.strip()[-500:]}")
            triton = new / "pytriton/tritonserver"
            stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
            if not stub.exists():
                pytest.skip(f"{PACKAGE} has no Python backend for Python {version}")
            shutil.copy(stub, triton / "backends/python")
            # Installers do not keep the right to execute.
            for program in (triton / "bin/tritonserver", triton / "backends/python" / stub.name):
                program.chmod(0o755)
            # Whole or not at all; where another run was faster, its copy is as good.
            with contextlib.suppress(OSError):
                new.rename(home)
    missing = missing_libraries(home)
    if missing:
        pytest.skip(f"tritonserver cannot run here, libraries are missing: {missing}")
    return home


def environment(home: pathlib.Path) -> dict[str, str]:
    """What tritonserver and its Python backend need to find their libraries, this Python's among them."""
    libraries = [str(home / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries), "OMP_NUM_THREADS": "1"}


def packages(home: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A folder with the packages that the models need: this environment's, but an older numpy.

    The backend's interpreter ignores PYTHONPATH, and looks first where the server was started.
    """
    links = folder / "packages"
    links.mkdir(exist_ok=True)
    here = pathlib.Path(sysconfig.get_path("platlib"))
    for package in [*(home / "numpy1").glob("numpy*"), *(here / name for name in PACKAGES)]:
        link = links / package.name
        if package.exists() and not link.exists():
            link.symlink_to(package)
    return links


def missing_libraries(home: pathlib.Path) -> str:
    """The libraries that the server or the stub does not find, as `ldd` names them."""
    triton = home / "pytriton/tritonserver"
    found = []
    for program in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        done = subprocess.run(
            ["ldd", triton / program], capture_output=True, text=True, check=False, env=environment(home)
        )
        found += [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
    return ", ".join(sorted(set(found)))


class Triton:
    """A server process, ready to answer; `grpc` is its address as host:port, `http_port` that of its other one."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, http_port: int, log: pathlib.Path) -> None:
        self.process = process
        self.port = port
        self.http_port = http_port
        self.log = log

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it as a crash does; what it shared memory with is left to `triton_running`."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@contextlib.contextmanager
def triton_running(
    home: pathlib.Path,
    repository: pathlib.Path,
    folder: pathlib.Path,
    port: int | None = None,
    more: Mapping[str, object] | None = None,
) -> Iterator[Triton]:
    """A tritonserver on a model repository, once it says that it is ready; `folder` takes its log.

    Without `port` its addresses are the system's choice. `more` are options of its command line.
    """
    for attempt in range(3):  # between asking for a free port and using it, somebody else may
        ports = [port or free_port(), free_port()]
        log = folder / f"triton-{ports[0]}-{attempt}.log"
        region = f"bottlekit_{os.getpid()}_{ports[0]}_"
        process = start(home, repository, ports, region, log, more or {})
        try:
            if wait_until_ready(process, ports[1]):
                yield Triton(process, ports[0], ports[1], log)
                return
            text = log.read_text(errors="replace")
            taken = "already in use" in text or "failed to bind" in text.lower()
            assert taken, f"tritonserver did not start:\n{text[-6000:]}"
        finally:
            stop(process, region)
    raise AssertionError("tritonserver found no free port")


def start(
    home: pathlib.Path,
    repository: pathlib.Path,
    ports: list[int],
    region: str,
    log: pathlib.Path,
    more: Mapping[str, object],
) -> subprocess.Popen[bytes]:
    triton = home / "pytriton/tritonserver"
    options = {
        "model-repository": repository,
        "backend-directory": triton / "backends",
        "grpc-address": "127.0.0.1",
        "grpc-port": ports[0],
        "http-address": "127.0.0.1",
        "http-port": ports[1],
        "allow-metrics": "false",
        "exit-timeout-secs": 5,
        "backend-config": f"python,shm-region-prefix-name={region}",
        **more,
    }
    command = [str(triton / "bin/tritonserver"), "--disable-auto-complete-config"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env=environment(home),
            cwd=packages(home, log.parent),
            start_new_session=True,
        )


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server got ready; False where it ended instead."""
    deadline = time.monotonic() + START_S
    while process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return True
        assert time.monotonic() < deadline, f"tritonserver was not ready after {START_S} s"
        time.sleep(0.1)
    return False


def stop(process: subprocess.Popen[bytes], region: str) -> None:
    """End the server and its models' processes at once; nothing that is tested happens at its end."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    for left in pathlib.Path("/dev/shm").glob(region + "*"):  # a killed server leaves them behind
        left.unlink(missing_ok=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
