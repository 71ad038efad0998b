"""Engines for ONNX Runtime: the bundle's graph, optimised ahead of time, and compared before it is kept.

::

    part.onnx --machine-independent optimisations--> engine --run on the golden inputs--> compared, or refused
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bottlekit.build.job import Compiled, Job
from bottlekit.device.golden import compare_with_golden
from bottlekit.device.ort_runner import OnnxRuntimeRunner, onnxruntime_key, optimise_onnx


def key_of(_job: Job) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out."""
    return onnxruntime_key()


def compile_engine(job: Job, path: Path) -> Compiled:
    """Write the engine of `job` to `path`; EngineError if ONNX Runtime refuses the graph or computes otherwise."""
    started = time.perf_counter()
    optimise_onnx(str(job.onnx_path), str(path))
    build_ms = (time.perf_counter() - started) * 1e3
    with OnnxRuntimeRunner(str(path)) as runner:
        golden = compare_with_golden(runner, job.bundle, job.part)
    return Compiled(build_ms, golden)
