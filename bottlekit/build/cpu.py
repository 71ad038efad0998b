"""Engines for ONNX Runtime: the bundle's graph, optimised ahead of time, and compared before it is kept.

::

    part.onnx --machine-independent optimisations--> engine --run on the golden inputs--> compared, or refused

Only the basic optimisations are baked in (constants folded, batch norms merged into convolutions, dead nodes
removed), so that the engine holds standard ONNX operators, which every tool can read. The extended ones write
operators of ONNX Runtime's own, and the layout ones operators for the vector width of the processor that built.
Leaving them out costs nothing: every session applies them when it loads the engine. ONNX Runtime stamps its file
with all the operator sets it knows, and an older one refuses newer sets: so its version is in the key.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from bottlekit.build.job import Compiled, Job
from bottlekit.device.golden import compare_with_golden
from bottlekit.device.ort_runner import OnnxRuntimeRunner, import_onnxruntime, session_from_onnx, session_options

GRAPH_LEVEL = "basic"


def key_of(job: Job) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out."""
    return {
        "compiler": "onnxruntime",
        "compiler_version": import_onnxruntime().__version__,
        "graph_level": GRAPH_LEVEL,
        "cpu_arch": platform.machine(),
    }


def compile_engine(job: Job, path: Path) -> Compiled:
    """Write the engine of `job` to `path`; EngineError if ONNX Runtime refuses the graph or computes otherwise."""
    started = time.perf_counter()
    optimise_onnx(job.onnx_path, path)
    build_ms = (time.perf_counter() - started) * 1e3
    with OnnxRuntimeRunner(str(path)) as runner:
        golden = compare_with_golden(runner, job.bundle, job.part)
    return Compiled(build_ms, golden)


def optimise_onnx(onnx_path: Path, path: Path) -> None:
    """Write ONNX Runtime's optimised form of a graph."""
    options = session_options()
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    session_from_onnx(str(onnx_path), options)
