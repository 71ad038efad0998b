"""The graph that a compiler is given, where the precision is written into the graph.

::

    part.onnx (FP32) --fp16--> typed FP16 as far as the golden outputs allow ----+--compared--> written
                     --int8--> Q/DQ, calibrated on images of the bundle's data --+

The low-bit layers of a hybrid network are Q/DQ in the bundle's graph already: INT8 takes that as it is, and for
FP16 and FP32 they are spelled with operators that every GPU has.

What comes of it goes into the sidecar as `lowered`: the comparison, and which layers stayed FP32, or what INT8 was
calibrated on and how it changes the accuracy.
"""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.build.check import require_clean
from bottlekit.build.job import CalibrationSource, Job
from bottlekit.device.bundle import Bundle
from bottlekit.device.golden import compare_with_golden, golden_input, tolerance_from_name
from bottlekit.errors import BottlekitError, EngineError, UsageError

if TYPE_CHECKING:
    import onnx

    from bottlekit.export.calibration import Calibration
    from bottlekit.export.fall_back import Lowered

# These change whenever the same graph is lowered to something else than before.
FP16_LOWERING = "fp16 1"
INT8_LOWERING = "int8 1"
WITHOUT_GEMM = "convolutions 1"
PAIRS_KEPT = "low-bit as exported 1"
BINARY_ALONE = "binary layers alone 1"
PAIRS_SPELLED = "low-bit spelled 1"


def lowering_key(job: Job) -> dict[str, Any]:
    """What of the lowering decides what comes out, for the key of an engine.

    UsageError or DataError if there is nothing to calibrate INT8 with.
    """
    steps = [] if job.target.abilities.fp32_gemm else [WITHOUT_GEMM]
    if has_low_bit_pairs(job):
        steps.append(PAIRS_KEPT if job.precision == "int8" else PAIRS_SPELLED)
        if job.precision == "int8":
            return {"lowering": "; ".join(steps), "calibration": None}
    if job.precision == "fp16":
        steps.append(FP16_LOWERING)
    if job.precision == "int8":
        steps.append(f"{INT8_LOWERING}, onnxruntime {metadata.version('onnxruntime')}")
        if _bits(job) == 1:
            steps.append(BINARY_ALONE)
    key: dict[str, Any] = {"lowering": "; ".join(steps) or None}
    return {**key, "calibration": _calibration_of(job).to_dict()} if job.precision == "int8" else key


def lower_onnx(job: Job, folder: Path) -> tuple[Path, dict[str, Any] | None]:
    """The graph to compile for `job`, and what to tell in the sidecar of how it compares with the FP32 one.

    It is written into `folder`, unless it is the bundle's own; then there is nothing to compare.
    EngineError if the graph cannot be lowered, or its outputs are too far from the golden ones.
    """
    if job.precision == "fp32" and job.target.abilities.fp32_gemm and not has_low_bit_pairs(job):
        return job.onnx_path, None
    # Here, because FP32 plans do not need onnx.
    import onnx

    if job.precision == "int8":
        model, told = lower_int8(job)
    elif job.precision == "fp16":
        lowered = lower_fp16(job)
        model, told = lowered.model, lowered.to_dict()
    else:
        model = _graph(job)
        told = {"what": f"{_name(job)} in other operators", **_compared(job, model, "fp32")}
    told = {**told, **told_of_low_bit(job)}
    path = folder / f"{job.part}.{job.precision}.onnx"
    onnx.save(model, str(path))
    require_clean(job, path)
    return path, told


def fp32_graph(job: Job, folder: Path) -> Path:
    """The graph for a compiler that is told the precision: the bundle's, or one in `folder` that it can read."""
    if not has_low_bit_pairs(job):
        return job.onnx_path
    import onnx

    path = folder / f"{job.part}.fp32.onnx"
    onnx.save(_graph(job), str(path))
    require_clean(job, path)
    return path


def has_low_bit_pairs(job: Job) -> bool:
    """Whether the part has low-bit layers as Q/DQ; binary ones are plain convolutions."""
    return _bits(job) in (2, 4, 8)


def _bits(job: Job) -> int | None:
    """The bits of the part's low-bit layers, None where it has none."""
    section = job.bundle.manifest.get("exit") or {}
    bits = section.get("bits")
    return bits if job.part in ("head", "full") and bits in (1, 2, 4, 8) else None


def told_of_low_bit(job: Job) -> dict[str, Any]:
    """The sidecar's words on low-bit layers: their bits, what computes them, and why it is not INT8."""
    bits = _bits(job)
    if bits is None:
        return {}
    why = None
    if job.precision != "int8":
        why = f"--precision {job.precision} was built; int8 would keep them in INT8"
        if job.target.abilities.int8 == "none":
            why = f"the GPU of {job.target.name} has no INT8 instructions (SM {job.target.sm})"
    return {"low_bit": {"bits": bits, "computed_in": job.precision, "why": why}}


def lower_fp16(job: Job) -> Lowered:
    """The graph of `job` in FP16, and which of its layers stay FP32."""
    from bottlekit.export.fall_back import lowered_model

    bits = job.bundle.codec.bits if job.part == "head" else None
    inputs = golden_input(job.bundle, job.part)
    return lowered_model(_graph(job), inputs, _batch(job.bundle), _name(job), bits)


def lower_int8(job: Job) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph of `job` with INT8 written into it, and how it compares with the bundle's golden outputs."""
    import onnx

    from bottlekit.export.accuracy import decoded_features
    from bottlekit.export.int8 import binary_layers, int8_model
    from bottlekit.export.sessions import function_from_model

    if has_low_bit_pairs(job):
        model = _graph(job, as_pairs=True)
        told = {"what": f"{_name(job)}, low-bit layers in INT8", **_compared(job, model, "int8")}
        return model, {**told, "accuracy": _accuracy(job, model)}
    calibration = _calibration_of(job)
    samples = calibration.images
    if job.part == "tail":
        head = function_from_model(onnx.load(job.bundle.onnx_path("head")), _batch(job.bundle))
        samples = decoded_features(job.bundle, head(samples))
    graph = _graph(job)
    # A binary network's other layers are in full precision: what they give decides signs.
    layers = binary_layers(graph) if _bits(job) == 1 else None
    model = int8_model(graph, samples, layers)
    try:
        compared = _compared(job, model, "int8")
    except EngineError as error:
        raise EngineError(
            f"INT8, calibrated on {calibration.source}, changes too much: {error}; calibrate with images like "
            f"those to classify (--calibration FOLDER), or build with --precision {job.target.precisions[0]}"
        ) from error
    told = {"what": f"{_name(job)} in INT8", **compared, "calibration": calibration.to_dict()}
    return model, {**told, "accuracy": _accuracy(job, model)}


def _graph(job: Job, as_pairs: bool = False) -> onnx.ModelProto:
    """The FP32 graph to start from: the bundle's, in operators that the target's compiler has in FP32.

    With `as_pairs` low-bit layers stay Q/DQ.
    """
    import onnx

    model = onnx.load(str(job.onnx_path))
    if has_low_bit_pairs(job) and not as_pairs:
        from bottlekit.export.pairs import without_pairs

        model = without_pairs(model)
    if job.target.abilities.fp32_gemm:
        return model
    from bottlekit.export.products import without_gemm

    return without_gemm(model)


def _compared(job: Job, model: onnx.ModelProto, precision: str) -> dict[str, Any]:
    """The comparison of a lowered graph with the bundle's golden outputs; EngineError if they differ too much."""
    from bottlekit.export.sessions import ModelRunner

    with ModelRunner(model) as runner:
        report = compare_with_golden(runner, job.bundle, job.part, tolerance_from_name(precision))
    return {**report, "passed": True}


def _calibration_of(job: Job) -> Calibration:
    return _calibration(job.bundle, job.calibration or CalibrationSource())


@functools.lru_cache(maxsize=1)
def _calibration(bundle: Bundle, source: CalibrationSource) -> Calibration:
    """The images, read once for all parts of a bundle."""
    from bottlekit.export.calibration import calibration_from_dataset, calibration_from_folder, dataset_of_bundle

    if source.folder is not None:
        return calibration_from_folder(bundle, source.folder)
    try:
        return calibration_from_dataset(bundle, dataset_of_bundle(bundle, source.data_root))
    except UsageError as error:
        raise UsageError(f"{error}; INT8 needs images to calibrate with: --calibration FOLDER") from error


def _accuracy(job: Job, model: onnx.ModelProto) -> dict[str, Any]:
    """Top-1 on held-out images before and after, or why it was not measured."""
    from bottlekit.export.calibration import dataset_of_bundle, held_out_of_bundle

    if job.bundle.manifest["accuracy"] is None:
        return {"measured": False, "why_not": "nobody trained the bottleneck"}
    source = job.calibration or CalibrationSource()
    try:
        images = held_out_of_bundle(job.bundle, dataset_of_bundle(job.bundle, source.data_root))
    except BottlekitError as error:
        return {"measured": False, "why_not": str(error)}
    from bottlekit.export.accuracy import accuracy_of

    return accuracy_of(job.bundle, job.part, model, "int8", images)


def _batch(bundle: Bundle) -> int | None:
    return None if bundle.dynamic_batch else 1


def _name(job: Job) -> str:
    return f"{job.part} of {job.bundle.name}"
