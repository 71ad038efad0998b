"""Compiles the double of libcudart once a session; shared by the tests of memory and of TensorRT."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

WORK = ctypes.CFUNCTYPE(None, ctypes.c_int)


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


def enqueue_through(library):
    """A function for TensorRTDouble.enqueue: work goes through the library, which can record it into a graph."""
    kept = []

    def enqueue(work):
        kept.append(WORK(work))
        library.double_enqueue(kept[-1], 0)

    return enqueue
