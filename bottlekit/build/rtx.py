"""Plans for RTX PCs: lowered to FP16 types, checked, and compiled ahead of time by TensorRT-RTX, with no GPU.

::

    part.onnx (FP32) --fp16_model--> FP16-typed ONNX --ONNX Runtime--> compared with the FP32 graph, or refused
                                           |
                                           +--TensorRT-RTX parser, builder--> plan for one compute capability

The plan itself cannot run here, so its own outputs are not compared; the sidecar says so.
"""

from __future__ import annotations

import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from bottlekit.build.job import Compiled, Job
from bottlekit.device.golden import golden_input
from bottlekit.device.trt import PlanOptions, Profile, import_tensorrt, plan_from_onnx
from bottlekit.errors import EngineError
from bottlekit.targets.availability import nvidia_gpu_is_here

WHY_NOT_COMPARED = "compiled ahead of time, not run"


def key_of(job: Job) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out."""
    fp16 = job.precision == "fp16"
    return {
        "compiler": "tensorrt_rtx",
        "compiler_version": import_tensorrt("tensorrt_rtx").__version__,
        "compiler_platform": f"{platform.system().lower()}-{platform.machine()}",
        "lowering": f"onnxconverter-common {metadata.version('onnxconverter-common')}" if fp16 else None,
        "sm": job.target.sm,
        "workspace_bytes": job.workspace_bytes,
        "profiles": {name: [list(shape) for shape in profile] for name, profile in profiles_of(job).items()},
    }


def compile_engine(job: Job, path: Path) -> Compiled:
    """Write the plan of `job` to `path`.

    EngineError if the graph does not survive FP16, or TensorRT-RTX refuses it; TargetError if this TensorRT-RTX
    does not know the target's GPU.
    """
    with tempfile.TemporaryDirectory(prefix="bottlekit-") as folder:
        onnx_path, lowered = job.onnx_path, None
        if job.precision == "fp16":
            onnx_path = Path(folder) / f"{job.part}.fp16.onnx"
            lowered = lower_onnx(job, onnx_path)
        options = PlanOptions(job.workspace_bytes, job.target.sm, profiles_of(job))
        plan = plan_from_onnx(import_tensorrt("tensorrt_rtx"), onnx_path.read_bytes(), options, str(job.onnx_path))
    path.write_bytes(plan.content)
    here = "" if nvidia_gpu_is_here() else "no GPU on this machine: "
    golden = {"compared": False, "why_not": here + WHY_NOT_COMPARED}
    return Compiled(plan.build_ms, golden, lowered, tuple(plan.log))


def lower_onnx(job: Job, path: Path) -> dict[str, Any]:
    """Write the FP16-typed graph of `job` to `path`, and compare it with the FP32 one on the golden inputs."""
    # Here, because FP32 plans need neither onnx nor the converter.
    import onnx

    from bottlekit.export.lowering import compare_lowered, fp16_model

    onnx.save(fp16_model(onnx.load(str(job.onnx_path))), str(path))
    batch = None if job.bundle.dynamic_batch else 1
    comparison = compare_lowered(job.onnx_path, path, golden_input(job.bundle, job.part), batch)
    if not comparison.passed:
        raise EngineError(
            f"FP16 changes what the {job.part} of {job.bundle.name} computes: by {comparison.mean_abs:.3g} on "
            f"average, and {comparison.tolerance:.3g} is allowed; build it with --precision fp32"
        )
    return comparison.to_dict()


def profiles_of(job: Job) -> dict[str, Profile]:
    """The range of shapes of the part's input: one image, usually one, at most `max_batch`; {} if it is fixed."""
    if not job.bundle.dynamic_batch or job.max_batch is None:
        return {}
    if job.part == "tail":
        name, shape = "feature", tuple(job.bundle.feature_shape)
    else:
        name, shape = "image", tuple(job.bundle.input_shape[1:])
    return {name: ((1, *shape), (1, *shape), (job.max_batch, *shape))}
