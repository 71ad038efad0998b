"""Both generations of the TensorRT plugins, against a double of its interfaces and with the kernels on the CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLUGINS = HERE.parents[1] / "plugins"
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.slow
def test_tensorrt_can_make_ask_run_write_and_read_every_plugin(tmp_path: Path) -> None:
    sources = [HERE / "plugin_checks.cpp", *sorted(PLUGINS.glob("*/plugin_v*.cpp"))]
    assert len(sources) == 5
    program = tmp_path / "checks"
    include = [f"-I{folder}" for folder in (HERE, HERE / "double", PLUGINS, PLUGINS / "include")]
    command = [
        "g++",
        "-std=c++20",
        "-g",
        *SANITIZED,
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
    ]
    built = subprocess.run(
        [*command, *include, *map(str, sources), "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == "done"
    assert len(lines) > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", sorted(PLUGINS.glob("*/plugin_v*.cpp")), ids=lambda path: "-".join(path.parts[-2:])
)
def test_the_standard_of_an_old_compiler_is_enough(source: Path, tmp_path: Path) -> None:
    """The compiler of JetPack 4 knows C++17 and not C++20."""
    include = [f"-I{folder}" for folder in (HERE / "double", PLUGINS, PLUGINS / "include")]
    command = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", str(source)]
    done = subprocess.run(
        [*command, *include, "-o", str(tmp_path / "plugin.o")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
@pytest.mark.parametrize("kernel", ["quantize_tile", "untile_dequantize"])
def test_the_machines_own_compiler_takes_the_kernels(kernel: str, tmp_path: Path) -> None:
    include = [f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    command = ["nvcc", "-std=c++14", "-arch=sm_75", "-cubin", "-Werror", "all-warnings", *include]
    done = subprocess.run(
        [*command, str(PLUGINS / kernel / "launch.cu"), "-o", str(tmp_path / "kernel.cubin")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kernel.cubin").read_bytes()[:4] == b"\x7fELF"
