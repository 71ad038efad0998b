"""The kernels that a compiler makes of an ONNX graph, and what each costs: operations and elements moved.

    part.onnx --shapes--> nodes --fused as TensorRT does--> Layer, Layer, ...      (planning.roofline)

Fused: elementwise operators into the kernel whose output nobody else reads (a convolution with its activation, the
addition of a shortcut with the convolution before it). Without a kernel: operators that only name the same elements
anew, and concatenation, whose inputs are written where they belong. An operator that is not known here counts with
the elements it moves and without operations, and the layer says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bottlekit.errors import BundleError
from bottlekit.planning.roofline import Layer

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

ELEMENTWISE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where",
}  # fmt: skip
# No kernel: the same elements under another shape, or written where they belong in the first place.
FREE = {
    "Concat", "Constant", "ConstantOfShape", "Dropout", "Flatten", "Gather", "Identity", "Reshape", "Shape",
    "Squeeze", "Unsqueeze",
}  # fmt: skip
MOVED = {
    "Expand", "Pad", "Resize", "Slice", "Split", "Tile", "Transpose", "Upsample",
}  # fmt: skip
REDUCED = {
    "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization", "LRN", "LayerNormalization", "LogSoftmax",
    "ReduceMax", "ReduceMean", "ReduceSum", "Softmax",
}  # fmt: skip


def layers_from_file(path: Path) -> tuple[Layer, ...]:
    """The kernels of the ONNX graph in `path` for one image. BundleError if it is no ONNX."""
    import onnx

    try:
        model = onnx.load_model(str(path))
    # protobuf's DecodeError is no ValueError; whatever a damaged file raises, it is no graph.
    except Exception as error:
        raise BundleError(f"{path} cannot be read as ONNX: {error}") from None
    return layers_from_onnx(model, str(path))


def layers_from_onnx(model: onnx.ModelProto, where: str = "the graph") -> tuple[Layer, ...]:
    """The kernels of a graph for one image, in the order they run.

    Raises BundleError naming the tensor whose shape cannot be inferred.
    """
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {**weights, **_inferred_shapes(model)}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    constants = set(weights)
    made_by: dict[str, int] = {}
    layers: list[Layer] = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type in FREE or all(name in constants for name in inputs):
            if all(name in constants for name in inputs):
                constants.update(node.output)
            continue

        def size(name: str, node: onnx.NodeProto = node) -> float:
            if name not in shapes:
                raise BundleError(
                    f"{where}: the shape of {name!r}, which {node.name or node.op_type} reads or writes, cannot be "
                    "inferred; export the network with fixed shapes"
                )
            return float(math.prod(shapes[name]))

        layer = _layer(node, shapes, constants, size)
        into = _kernel_to_fuse_into(node, inputs, made_by, readers)
        if into is None:
            made_by.update(dict.fromkeys(node.output, len(layers)))
            layers.append(layer)
        else:
            before = layers[into]
            passed_on = sum(size(name) for name in inputs if made_by.get(name) == into)
            layers[into] = Layer(
                before.name,
                f"{before.operator}+{layer.operator}",
                before.flops + layer.flops,
                before.read + layer.read - passed_on,
                layer.written,
                before.weights + layer.weights,
                before.known,
                before.winograd,
            )
            made_by.update(dict.fromkeys(node.output, into))
    return tuple(layers)


def unknown_operators(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """The operators that count with the elements they move only, each once."""
    return tuple(sorted({layer.operator.partition("+")[0] for layer in layers if not layer.known}))


def _kernel_to_fuse_into(
    node: onnx.NodeProto, inputs: list[str], made_by: Mapping[str, int], readers: Mapping[str, int]
) -> int | None:
    """The last kernel that only this elementwise node reads; None if there is none."""
    if node.op_type not in ELEMENTWISE:
        return None
    candidates = [made_by[name] for name in inputs if name in made_by and readers[name] == 1]
    return max(candidates, default=None)


def _layer(
    node: onnx.NodeProto, shapes: Mapping[str, Shape], constants: set[str], size: Callable[[str], float]
) -> Layer:
    inputs = [name for name in node.input if name]
    read = sum(size(name) for name in inputs if name not in constants)
    weights = sum(size(name) for name in inputs if name in constants)
    written = sum(size(name) for name in node.output if name)
    flops = _flops(node, shapes, read, written)
    known = flops is not None
    return Layer(
        node.name or f"node_of_{node.output[0]}",
        node.op_type,
        flops or 0.0,
        read,
        written,
        weights,
        known,
        _can_be_winograd(node, shapes),
    )


def _can_be_winograd(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> bool:
    """Whether it is a convolution of 3 x 3 with stride 1 over all channels: those have a cheaper algorithm."""
    if node.op_type != "Conv" or shapes[node.input[1]][2:] != (3, 3):
        return False
    options = {item.name: list(item.ints) or item.i for item in node.attribute}
    return all(options.get(name, [1, 1]) == [1, 1] for name in ("strides", "dilations")) and (
        options.get("group", 1) == 1
    )


def _flops(node: onnx.NodeProto, shapes: Mapping[str, Shape], read: float, written: float) -> float | None:
    """Floating-point operations, two a multiply-accumulate; None for an operator that is not known."""
    operator = node.op_type
    if operator == "Conv":
        return 2.0 * written * math.prod(shapes[node.input[1]][1:])
    if operator == "ConvTranspose":
        return 2.0 * read * math.prod(shapes[node.input[1]][1:])
    if operator in ("Gemm", "MatMul"):
        left = shapes[node.input[0]]
        transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return 2.0 * written * (left[0] if transposed else left[-1])
    if operator in ("MaxPool", "AveragePool"):
        kernel = next(item.ints for item in node.attribute if item.name == "kernel_shape")
        return written * float(math.prod(kernel))
    if operator in MOVED:
        return 0.0
    if operator in ELEMENTWISE:
        return written
    return read if operator in REDUCED else None


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shape of every tensor for one image, as far as it can be inferred."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for tensor in fixed.graph.input:
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = 1
    for tensor in fixed.graph.output:
        tensor.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {}
    for tensor in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = tensor.type.tensor_type.shape.dim
        if tensor.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[tensor.name] = tuple(dim.dim_value for dim in dims)
    return shapes
