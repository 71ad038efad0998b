"""What FP16 does to a graph's numbers, computed without a GPU.

ONNX Runtime has no FP16 arithmetic on most processors: it computes an FP16 graph in FP32, and leaves out the
rounding between two of its nodes. What it gives says nothing about overflow. So the rounding is written into an
FP32 graph, as casts that no optimisation may remove:

    lowered      Cast -> x_fp16 -> Conv -> y (FP16)
    simulated    Cast -> Cast -> x_fp16 -> Conv -> y_exact -> Cast -> Cast -> y        every tensor FP32

Products are summed in FP32 here, as tensor cores do. GPUs that sum in FP16 (the TX2's) lose a little more, which
the comparison on the device sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.golden import tolerance_from_name
from bottlekit.export.equivalence import Comparison, codes_of
from bottlekit.export.sessions import Array, function_from_model, session_from_model

TOLERANCE = tolerance_from_name("fp16")
# Of what an engine's values may differ by on its device: where sums are made in FP16, they differ more than here.
MARGIN = 0.5


def simulated_model(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """The FP32 graph that gives what `lowered` gives where its FP16 tensors really are FP16."""
    inferred = onnx.shape_inference.infer_shapes(lowered)
    half = {value.name for value in inferred.graph.value_info if _element(value) == TensorProto.FLOAT16}
    simulated = onnx.ModelProto()
    simulated.CopyFrom(lowered)
    del simulated.graph.node[:], simulated.graph.initializer[:], simulated.graph.value_info[:]
    for tensor in lowered.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            simulated.graph.initializer.append(numpy_helper.from_array(values, tensor.name))
        else:
            simulated.graph.initializer.append(tensor)
    for node in lowered.graph.node:
        simulated.graph.node.extend(_simulated_nodes(node, half))
    return simulated


def _simulated_nodes(node: onnx.NodeProto, half: set[str]) -> Iterator[onnx.NodeProto]:
    if node.op_type == "Cast" and node.output[0] in half:
        yield from _rounded(node.input[0], node.output[0])
    elif node.op_type == "Cast" and node.input[0] in half:
        yield helper.make_node("Identity", [node.input[0]], [node.output[0]])
    else:
        exact = onnx.NodeProto()
        exact.CopyFrom(node)
        rounded = [name for name in node.output if name in half]
        exact.output[:] = [f"{name}_exact" if name in half else name for name in node.output]
        yield exact
        for name in rounded:
            yield from _rounded(f"{name}_exact", name)


def _rounded(source: str, target: str) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Cast", [source], [f"{target}_half"], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [f"{target}_half"], [target], to=TensorProto.FLOAT)


def _element(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def compare_lowered(
    what: str,
    reference: Array,
    lowered: onnx.ModelProto,
    inputs: Array,
    batch: int | None,
    bits: int | None = None,
) -> Comparison:
    """What `lowered` gives for `inputs` (n, ...) with its FP16 tensors rounded, against `reference` (n, ...).

    Passed if all of it is finite, and its values, first classes (n, classes) and, with `bits`, the codes that
    features (n, c, h, w) are quantised to, differ by less than an FP16 engine's may on its device. `tolerance` is
    the bound of the mean difference. `batch` as in `graph_from_file`.
    """
    candidate = function_from_model(simulated_model(lowered), batch)(inputs)
    # Infinity minus infinity is NaN, and no NaN is within a tolerance.
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference - candidate)
    mean, largest = float(difference.mean()), float(difference.max())
    tolerance = MARGIN * (TOLERANCE.mean or 0.0) * float(np.abs(reference).mean())
    most = MARGIN * TOLERANCE.largest * float(np.abs(reference).max())
    comparison = Comparison(
        what,
        len(inputs),
        batch or len(inputs),
        largest,
        mean,
        tolerance,
        passed=mean <= tolerance and largest <= most,
    )
    if not comparison.passed:
        return comparison
    if reference.ndim == 2:
        return _with_classes(comparison, reference, candidate)
    return comparison if bits is None else _with_codes(comparison, reference, candidate, bits)


def _with_classes(comparison: Comparison, reference: Array, candidate: Array) -> Comparison:
    changed = int(np.count_nonzero(reference.argmax(axis=1) != candidate.argmax(axis=1)))
    return dataclasses.replace(
        comparison,
        # One sample may always be a near tie.
        passed=changed <= max(1, int(TOLERANCE.classes_differing * len(reference))),
        top1_agreement=1 - changed / len(reference),
    )


def _with_codes(comparison: Comparison, reference: Array, candidate: Array, bits: int) -> Comparison:
    steps = np.abs(codes_of(reference, bits).astype(np.int16) - codes_of(candidate, bits))
    differing, beyond = float(np.mean(steps > 0)), float(np.mean(steps > 1))
    return dataclasses.replace(
        comparison,
        passed=differing <= TOLERANCE.codes_differing and beyond <= TOLERANCE.codes_beyond,
        codes_differing=differing,
    )


class Tensors:
    """Every FP32 tensor that a graph computes (of `only` these names, if given), for one sample at a time."""

    def __init__(self, model: onnx.ModelProto, only: Collection[str] | None = None) -> None:
        inferred = onnx.shape_inference.infer_shapes(model)
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        made = {name for node in model.graph.node for name in node.output}
        for value in inferred.graph.value_info:
            wanted = value.name in made and (only is None or value.name in only)
            if wanted and _element(value) == TensorProto.FLOAT:
                shown.graph.output.append(value)
        self._session = session_from_model(shown)
        self._input = self._session.get_inputs()[0].name
        self.names = [value.name for value in self._session.get_outputs()]

    def of(self, sample: Array) -> dict[str, Array]:
        """These tensors by name, with the input and the outputs, for one sample (1, ...)."""
        values = self._session.run(self.names, {self._input: sample})
        return {self._input: sample, **dict(zip(self.names, values, strict=True))}
