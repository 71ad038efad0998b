"""QuantizeLinear and DequantizeLinear written with other operators, for who has no INT8.

::

    x --Q--DQ--> y          x --Mul 1/scale--> Round --> Clip -128..127 --> Mul scale--> y
    w --Q--DQ--> Conv       the rounded weights themselves --> Conv

Both compute the same: Round goes to the even neighbour, as QuantizeLinear does, and the scales of low-bit inputs
are powers of two, so that no product is rounded. In FP16 all of -128..127 exists.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bottlekit.errors import EngineError
from bottlekit.export.sessions import Array

_LOWEST, _HIGHEST = -128.0, 127.0


def pairs_of(model: onnx.ModelProto) -> int:
    """How many pairs a graph has."""
    return sum(node.op_type == "DequantizeLinear" for node in model.graph.node)


def without_pairs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP32 `model` without QuantizeLinear and DequantizeLinear.

    EngineError for a pair that is not symmetric INT8, or half of one.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    quantisers = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    nodes, weights = [], []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        quantiser = quantisers.get(node.input[0])
        if quantiser is None:
            raise EngineError(f"'{node.output[0]}' is dequantised and was never quantised; export the graph again")
        source, scale, target = quantiser.input[0], _scale(quantiser, constants), node.output[0]
        if source in constants:
            shape = [-1] + [1] * (constants[source].ndim - 1) if scale.size > 1 else []
            steps = np.clip(np.round(constants[source] / scale.reshape(shape)), _LOWEST, _HIGHEST)
            weights.append(numpy_helper.from_array((steps * scale.reshape(shape)).astype(np.float32), target))
        elif scale.size > 1:
            raise EngineError(f"'{source}' is quantised with a scale for each channel; only weights can be")
        else:
            spelled, held = _spelled(source, scale.reshape(()), target)
            nodes += spelled
            weights += held
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:], plain.graph.value_info[:]
    plain.graph.node.extend(nodes)
    plain.graph.initializer.extend(weights)
    _drop_unread(plain)
    onnx.checker.check_model(plain, full_check=True)
    return plain


def _scale(quantiser: onnx.NodeProto, constants: dict[str, Array]) -> Array:
    scale = constants.get(quantiser.input[1])
    zero = constants.get(quantiser.input[2]) if len(quantiser.input) > 2 else None
    axis = next((attribute.i for attribute in quantiser.attribute if attribute.name == "axis"), 1)
    if scale is None or zero is None or zero.dtype != np.int8 or zero.any() or (scale.size > 1 and axis != 0):
        raise EngineError(f"'{quantiser.input[0]}' is not quantised to symmetric INT8; export the graph again")
    return scale.astype(np.float32)


def _spelled(source: str, scale: Array, target: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that round `source` to steps of `scale`."""
    values = {"inverse": 1 / scale, "low": _LOWEST, "high": _HIGHEST, "step": scale}
    held = [
        numpy_helper.from_array(np.asarray(value, np.float32), f"{target}_{name}") for name, value in values.items()
    ]
    nodes = [
        helper.make_node("Mul", [source, f"{target}_inverse"], [f"{target}_steps"]),
        helper.make_node("Round", [f"{target}_steps"], [f"{target}_rounded"]),
        helper.make_node("Clip", [f"{target}_rounded", f"{target}_low", f"{target}_high"], [f"{target}_code"]),
        helper.make_node("Mul", [f"{target}_code", f"{target}_step"], [target]),
    ]
    for node in nodes:
        node.name = f"{node.output[0]}_{node.op_type.lower()}"
    return nodes, held


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove constants that nobody reads any more."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        model.graph.node.remove(node)
