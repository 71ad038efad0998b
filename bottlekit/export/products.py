"""Matrix products as convolutions, for a compiler that has the one in FP32 and not the other.

TensorRT-RTX 1.7 says for Turing: "Cannot compile operation '..' for Turing (SM75): FP32 GEMM is not supported". A
fully connected layer is a 1 x 1 convolution of an image of one pixel, and those it compiles:

    (n, k) --Gemm--> (n, m)     is     (n, k) --> (n, k, 1, 1) --Conv--> (n, m, 1, 1) --> (n, m)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bottlekit.export.lowering import layer_name


def without_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP32 `model` with each Gemm of a feature (n, k) and constant weights as a convolution.

    A convolution has the name of its Gemm. What has other forms (a transposed feature, factors) stays as it is.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        if _is_layer(node, constants):
            changed.graph.node.extend(_convolution(node, constants, changed.graph))
        else:
            changed.graph.node.append(node)
    used = {name for node in changed.graph.node for name in node.input}
    kept = [tensor for tensor in changed.graph.initializer if tensor.name in used]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _is_layer(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    if node.op_type != "Gemm" or not all(name in constants for name in node.input[1:]):
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(
        helper.get_attribute_value(one) == plain.get(one.name, helper.get_attribute_value(one))
        for one in node.attribute
    )


def _convolution(
    node: onnx.NodeProto, constants: dict[str, TensorProto], graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    name, (output,) = layer_name(node), node.output
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    weights = numpy_helper.to_array(constants[node.input[1]])
    kernel = np.ascontiguousarray(weights if transposed else weights.T)[:, :, np.newaxis, np.newaxis]
    graph.initializer.append(numpy_helper.from_array(kernel, f"{output}_kernel"))
    inputs = [f"{output}_pixel", f"{output}_kernel"]
    if len(node.input) > 2:
        # A bias may be given once for all outputs.
        bias = np.broadcast_to(numpy_helper.to_array(constants[node.input[2]]).reshape(-1), (len(kernel),))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(bias), f"{output}_bias"))
        inputs.append(f"{output}_bias")
    graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), f"{output}_axes"))
    yield helper.make_node("Unsqueeze", [node.input[0], f"{output}_axes"], [inputs[0]], name=f"{name}_pixel")
    yield helper.make_node("Conv", inputs, [f"{output}_image"], name=name)
    yield helper.make_node("Flatten", [f"{output}_image"], [output], name=f"{name}_flat", axis=1)
