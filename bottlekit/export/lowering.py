"""From an FP32 graph to one typed FP16, for compilers that take the precision from the graph.

::

    FP32 nodes (kept)   image --------> Conv --> a --> Relu --> b           no cast between two of a kind
                                                                |
    FP16 nodes                                          Cast <--+
                                                         b_fp16 --> Conv --> logits_fp16 --> Cast --> logits

TensorRT up to 10 is given the FP32 graph and a flag. TensorRT 11 and TensorRT-RTX have no such flag: what shall
run in FP16 must be FP16 in the ONNX. Input and output stay FP32, so that whoever feeds an engine need not know how
it was lowered. A machine that builds has no torch: nothing here needs it.

onnxconverter-common does the same for whole graphs; with nodes kept in FP32 it leaves a pair of casts to FP16 and
back between two of them where a tensor has two readers, and an FP16 output where the last node is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bottlekit.errors import EngineError

# Operators whose second and third inputs TensorRT 8.2 takes as true initialisers only.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")

FP16_MAX = 65504.0
FP16_SMALLEST = 2.0**-24


def layer_name(node: onnx.NodeProto) -> str:
    """A node's name, or the one that TensorRT's parser gives to a node without."""
    return node.name or f"node_of_{node.output[0]}"


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the nodes that `fp16_model` turns into FP16 unless told otherwise, in the graph's order."""
    typed = _with_types(model)
    types = _types(typed)
    opset = _opset(typed)
    return tuple(layer_name(node) for node in typed.graph.node if any(_half_slots(node, types, opset)))


def fp16_model(model: onnx.ModelProto, fp32_layers: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of an FP32 `model` that computes in FP16, except in the `fp32_layers` (names of nodes).

    Casts stand where a tensor passes from one kind to the other; inputs and outputs of the graph stay FP32. What
    an operator's definition allows in FP32 only (the scales of Resize) stays so. Weights nearer to zero than FP16
    can say (2^-24) become that smallest value.

    Raises EngineError if a weight of an FP16 layer is too large for FP16, or a layer does not exist.
    """
    typed = _with_types(model)
    unknown = set(fp32_layers) - {layer_name(node) for node in typed.graph.node}
    if unknown:
        raise EngineError(f"the graph has no layers {', '.join(sorted(unknown))} to keep in FP32")
    types, opset = _types(typed), _opset(typed)
    writer = _Writer(typed.graph)
    for node in typed.graph.node:
        inputs, outputs = (set(), set()) if layer_name(node) in fp32_layers else _half_slots(node, types, opset)
        writer.write(node, inputs, outputs)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(typed)
    del lowered.graph.node[:], lowered.graph.initializer[:], lowered.graph.value_info[:]
    lowered.graph.node.extend(writer.nodes)
    lowered.graph.initializer.extend(writer.weights)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"the graph cannot be typed FP16; build with --precision fp32 ({reason})") from error
    return lowered


def fp16_values(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Weights in FP16: rounded, and what is nearer to zero than the smallest value there is becomes that value."""
    tiny = (values != 0) & (np.abs(values) < FP16_SMALLEST)
    return np.where(tiny, np.copysign(np.float32(FP16_SMALLEST), values), values).astype(np.float16)


def fits_fp16(values: npt.NDArray[np.float32]) -> bool:
    """Whether every value is finite and at most as large as FP16's largest."""
    return bool(np.max(np.abs(values), initial=0.0) <= FP16_MAX)


def constants_of(model: onnx.ModelProto) -> list[TensorProto]:
    """The constants of a graph, whether they are initialisers or what nodes say."""
    return [*model.graph.initializer, *(_constant(node) for node in model.graph.node if node.op_type == "Constant")]


def _constant(node: onnx.NodeProto) -> TensorProto:
    """What a Constant node gives; EngineError for the forms of it that hold no tensor."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            return tensor
    raise EngineError(f"the constant '{node.output[0]}' is no tensor; export the graph again")


class _Writer:
    """Writes nodes one after the other, with the casts and weights that they need before them.

    Each tensor has the name it had, in the type it is made in; `self._made` says which. The other type is made
    by a cast when the first node asks for it, and is then there for the next.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        # (tensor, whether in FP16) -> the name under which it can be read.
        self._made: dict[tuple[str, bool], str] = {(value.name, False): value.name for value in graph.input}

    def write(self, node: onnx.NodeProto, inputs: set[int], outputs: set[int]) -> None:
        """Write `node` with the inputs and the outputs at these places in FP16, all others as they are."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.name = layer_name(node)
        for place, name in enumerate(node.input):
            if name:
                new.input[place] = self._read(str(name), place in inputs)
        after = []
        for place, name in enumerate(node.output):
            half = place in outputs
            # An output of the graph keeps its name and FP32: what is made in FP16 is cast to it.
            edge = half and name in self._outputs
            new.output[place] = f"{name}_fp16" if edge else name
            self._made[name, half] = new.output[place]
            if edge:
                after.append(self._cast(name, f"{name}_fp16", half=False, target=name))
        self.nodes += [new, *after]

    def _read(self, name: str, half: bool) -> str:
        """The name under which a tensor can be read in this type; made if nobody asked for it before."""
        if (name, half) not in self._made:
            if name in self._constants:
                self._made[name, half] = self._weight(name, half)
            elif (name, not half) in self._made:
                self.nodes.append(self._cast(name, self._made[name, not half], half))
            else:
                return name
        return self._made[name, half]

    def _weight(self, name: str, half: bool) -> str:
        tensor = self._constants[name]
        if not half:
            self.weights.append(tensor)
            return name
        values = numpy_helper.to_array(tensor)
        if not fits_fp16(values):
            raise EngineError(
                f"the weights {name} reach {float(np.max(np.abs(values))):.3g}, and FP16 ends at {FP16_MAX:.0f}; "
                "build with --precision fp32"
            )
        self.weights.append(numpy_helper.from_array(fp16_values(values), f"{name}_fp16"))
        return f"{name}_fp16"

    def _cast(self, name: str, source: str, half: bool, target: str | None = None) -> onnx.NodeProto:
        """The cast of the tensor `name`, made as `source`, to the other type, where it is called `target`."""
        target = target or f"{name}_{'fp16' if half else 'fp32'}"
        self._made[name, half] = target
        to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=to)


def _half_slots(node: onnx.NodeProto, types: dict[str, int], opset: int) -> tuple[set[int], set[int]]:
    """The places of a node's inputs and outputs that are FP16 when it runs in FP16; both empty if it cannot.

    An input can if its type in the operator's definition is a variable (T) that may be FP16; an output if its
    variable is that of such an input. A Cast has two variables, and so stays as it is.
    """
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return set(), set()
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    allowed = {one.type_param_str for one in schema.type_constraints if "tensor(float16)" in one.allowed_type_strs}
    inputs = {
        place: variable
        for place, name in enumerate(node.input)
        if types.get(name) == TensorProto.FLOAT and (variable := _variable(schema.inputs, place)) in allowed
    }
    outputs = {place for place in range(len(node.output)) if _variable(schema.outputs, place) in inputs.values()}
    return (set(inputs), outputs) if outputs else (set(), set())


def _variable(formal: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> str:
    """The type of the input or output at a place in an operator's definition; the last one may be repeated."""
    return str(formal[min(place, len(formal) - 1)].type_str)


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every tensor's type and shape inferred, and its constant nodes turned into initialisers."""
    copy = onnx.shape_inference.infer_shapes(model)
    for node in [node for node in copy.graph.node if node.op_type == "Constant"]:
        copy.graph.node.remove(node)
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(constants_of(model))
    return copy


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor that has a known one."""
    return dict(_named_types(model.graph))


def _named_types(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        yield value.name, value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.name, tensor.data_type


def _opset(model: onnx.ModelProto) -> int:
    return next(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
