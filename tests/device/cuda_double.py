"""Compiles the doubles of libcudart and libcuda once a session; shared by the tests of memory and of TensorRT."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

WORK = ctypes.CFUNCTYPE(None, ctypes.c_int)
# What the double of libcuda takes for a kernel that was compiled for its GPU.
KERNEL_IMAGE = b"image for the double"
HERE = Path(__file__).parent


def compile_double(folder):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no C compiler to build the double of libcudart with")
        pytest.skip("no C compiler to build the double of libcudart with")
    path = str(folder / "libcudart.so")
    source = str(Path(__file__).parent / "libcudart_double.c")
    subprocess.check_call([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", path, source])
    return path


def compile_driver_double(folder):
    """The double of libcuda, which runs the kernels' own text: it needs a C++20 compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no C++ compiler to build the double of libcuda with")
        pytest.skip("no C++ compiler to build the double of libcuda with")
    plugins = HERE.parent.parent / "plugins"
    path = str(folder / "libcuda.so.1")
    command = [compiler, "-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    command += ["-shared", "-fPIC", "-pthread", "-I{}".format(plugins), "-I{}".format(plugins / "include")]
    subprocess.check_call(command + ["-o", path, str(HERE / "libcuda_double.cpp")])
    return path


def enqueue_through(library):
    """A function for TensorRTDouble.enqueue: work goes through the library, which can record it into a graph."""
    kept = []

    def enqueue(work):
        kept.append(WORK(work))
        library.double_enqueue(kept[-1], 0)

    return enqueue
