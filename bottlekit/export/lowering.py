"""From an FP32 graph to one typed FP16, for compilers that take the precision from the graph.

TensorRT up to 10 is given the FP32 graph and a flag. TensorRT 11 and TensorRT-RTX have no such flag: what shall
run in FP16 must be FP16 in the ONNX. Input and output stay FP32 (a cast stands at each edge), so that whoever
feeds an engine need not know how it was lowered. A machine that builds has no torch: nothing here needs it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bottlekit.errors import EngineError
from bottlekit.export.equivalence import Comparison, tolerance_for
from bottlekit.export.sessions import Array, graph_from_file

# Operators whose second and third inputs TensorRT 8.2 takes as true initialisers only.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")

FP16_MAX = 65504.0
FP16_SMALLEST = 2.0**-24
# FP16 has 11 significant bits (5e-4); weights and activations are both rounded, layer after layer. On average over
# a tensor, in units of its largest value:
FP16_RELATIVE = 1e-2


def fp16_model(model: onnx.ModelProto, keep_io_types: bool = True) -> onnx.ModelProto:
    """A copy of an FP32 `model` that computes in FP16; with `keep_io_types` its edges stay FP32.

    Weights nearer to zero than FP16 can say (2^-24) become that smallest value.

    Raises EngineError if a weight is too large for FP16, or a weighted layer could not be turned.
    """
    _check_weights_fit(model)
    # Here, because only `build` needs the package, and `export` imports this room.
    from onnxconverter_common import float16

    with warnings.catch_warnings():
        # It tells of every tensor with tiny weights; that is stated above, and large ones were refused.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated", category=UserWarning)
        lowered: onnx.ModelProto = float16.convert_float_to_float16(
            model, min_positive_val=FP16_SMALLEST, max_finite_val=FP16_MAX, keep_io_types=keep_io_types
        )
    onnx.checker.check_model(lowered, full_check=True)
    check_lowered(lowered)
    return lowered


def check_lowered(model: onnx.ModelProto) -> None:
    """Raise EngineError if a convolution or a fully connected layer of `model` still has FP32 weights."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED
        for name in node.input[1:]
        if name and types.get(name) != onnx.TensorProto.FLOAT16
    ]
    if left:
        raise EngineError(
            f"these layers could not be turned into FP16: {', '.join(left)}; build with --precision fp32"
        )


def compare_lowered(original: Path, lowered: Path, inputs: Array, batch: int | None) -> Comparison:
    """The FP16 graph against the FP32 one, both on ONNX Runtime over `inputs` (n, ...).

    Passed if they differ on average by at most 1 % of the largest magnitude; `tolerance` is that bound.
    `batch` as in `graph_from_file`.
    """
    with graph_from_file(original, batch) as graph:
        reference = graph(inputs)
    with graph_from_file(lowered, batch) as graph:
        candidate = graph(inputs)
    difference = np.abs(reference - candidate)
    mean = float(difference.mean())
    tolerance = tolerance_for(reference, FP16_RELATIVE)
    logits = reference.ndim == 2
    return Comparison(
        what=f"{lowered.name} in FP16",
        samples=len(inputs),
        batch=batch or len(inputs),
        max_abs=float(difference.max()),
        mean_abs=mean,
        tolerance=tolerance,
        passed=mean <= tolerance,
        top1_agreement=float(np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1))) if logits else None,
    )


def _check_weights_fit(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        largest = float(np.max(np.abs(values), initial=0.0))
        if not largest <= FP16_MAX:
            raise EngineError(
                f"the weights {tensor.name} reach {largest:.3g}, and FP16 ends at {FP16_MAX:.0f}; "
                "build with --precision fp32"
            )
