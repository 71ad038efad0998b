"""The graph that a compiler is given, where it takes the precision from the graph.

::

    part.onnx (FP32) --fp16--> typed FP16, where the golden outputs allow --compared--> written

What comes of it goes into the sidecar as `lowered`: the comparison, and which layers stayed FP32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottlekit.build.job import Job
from bottlekit.device.golden import golden_input

# Changes whenever the same graph is lowered to something else than before.
FP16_LOWERING = "fp16 1"


def lowering_key(job: Job) -> dict[str, Any]:
    """What of the lowering decides what comes out, for the key of an engine."""
    return {"lowering": FP16_LOWERING if job.precision == "fp16" else None}


def lower_onnx(job: Job, path: Path) -> dict[str, Any]:
    """Write the FP16-typed graph of `job` to `path`, and tell how it compares and which layers stayed FP32.

    EngineError if the graph cannot be typed, or gives NaN or infinity in FP32 already.
    """
    # Here, because FP32 plans do not need onnx.
    import onnx

    from bottlekit.export.fall_back import lowered_model

    batch = None if job.bundle.dynamic_batch else 1
    name = f"{job.part} of {job.bundle.name}"
    bits = job.bundle.codec.bits if job.part == "head" else None
    inputs = golden_input(job.bundle, job.part)
    lowered = lowered_model(onnx.load(str(job.onnx_path)), inputs, batch, name, bits)
    onnx.save(lowered.model, str(path))
    return lowered.to_dict()
