"""Plans for RTX PCs: lowered to FP16 types or INT8, and compiled ahead of time by TensorRT-RTX, with no GPU.

::

    part.onnx (FP32) --lower_onnx--> typed or quantised ONNX, compared with the FP32 graph
                                           |
                                           +--TensorRT-RTX parser, builder--> plan for one compute capability

The plan itself cannot run here, so its own outputs are not compared; the sidecar says so.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Any

from bottlekit.build.job import Compiled, Job
from bottlekit.build.lower import lower_onnx, lowering_key
from bottlekit.device.codes import RANGE, WORDS, words_per_image
from bottlekit.device.trt import PlanOptions, Profile, import_tensorrt, plan_from_onnx
from bottlekit.targets.availability import nvidia_gpu_is_here

WHY_NOT_COMPARED = "compiled ahead of time, not run"


def key_of(job: Job) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out."""
    return {
        "compiler": "tensorrt_rtx",
        "compiler_version": import_tensorrt("tensorrt_rtx").__version__,
        "compiler_platform": f"{platform.system().lower()}-{platform.machine()}",
        **lowering_key(job),
        "sm": job.target.sm,
        "workspace_bytes": job.workspace_bytes,
        "profiles": {name: [list(shape) for shape in profile] for name, profile in profiles_of(job).items()},
    }


def compile_engine(job: Job, path: Path) -> Compiled:
    """Write the plan of `job` to `path`.

    EngineError if the graph cannot be lowered, or TensorRT-RTX refuses it; TargetError if this TensorRT-RTX does
    not know the target's GPU.
    """
    with tempfile.TemporaryDirectory(prefix="bottlekit-") as folder:
        onnx_path, lowered = lower_onnx(job, Path(folder))
        options = PlanOptions(job.workspace_bytes, job.target.sm, profiles_of(job))
        plan = plan_from_onnx(import_tensorrt("tensorrt_rtx"), onnx_path.read_bytes(), options, str(job.onnx_path))
    path.write_bytes(plan.content)
    here = "" if nvidia_gpu_is_here() else "no GPU on this machine: "
    golden = {"compared": False, "why_not": here + WHY_NOT_COMPARED}
    return Compiled(plan.build_ms, golden, lowered, tuple(plan.log))


def profiles_of(job: Job) -> dict[str, Profile]:
    """The range of shapes of the part's inputs: one image, usually one, at most `max_batch`; {} if it is fixed."""
    if not job.bundle.dynamic_batch or job.max_batch is None:
        return {}
    inputs: dict[str, tuple[int, ...]] = {"image": tuple(job.bundle.input_shape[1:])}
    if job.part == "tail":
        inputs = {"feature": tuple(job.bundle.feature_shape)}
        if job.has_plugin:
            inputs = {WORDS: (words_per_image(job.bundle.codec.shape),), RANGE: (2,)}
    return {name: ((1, *shape), (1, *shape), (job.max_batch, *shape)) for name, shape in inputs.items()}
