"""Any ONNX classifier as a chain of layers, and any contiguous group of them as a graph of its own.

    nodes   Conv BatchNorm Relu | Conv Add Relu | GlobalAveragePool Flatten | Gemm
    layers         0                   1                   2                   3

A layer is a node with the cheap ones behind it: activations, additions, reshapes. Between two layers any number of
tensors may cross (a residual connection is one more); a group's graph has those it reads as inputs and those that
are read behind it as outputs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from bottlekit.build.layers import ELEMENTWISE, FREE
from bottlekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    import onnx


@dataclasses.dataclass(frozen=True)
class LayerNodes:
    """A layer: the name of its first node, that node's operator, and the places of its nodes in the graph."""

    name: str
    kind: str
    nodes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CrossingTensor:
    """A tensor between layers: made before boundary `source`, read by layers; n is the application."""

    name: str
    source: int
    readers: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentedGraph:
    """A graph, its layers in the order they run, and the tensors that cross boundaries 0..n."""

    model: onnx.ModelProto
    layers: tuple[LayerNodes, ...]
    tensors: tuple[CrossingTensor, ...]

    def crossing(self, boundary: int) -> tuple[str, ...]:
        """The names of the tensors made before `boundary` and read behind it."""
        return tuple(one.name for one in self.tensors if one.source <= boundary <= max(one.readers))

    def only_crossing(self, boundary: int) -> str:
        """The one tensor that crosses; UsageError naming all of them if there are more."""
        names = self.crossing(boundary)
        if len(names) != 1:
            raise UsageError(
                f"{len(names)} tensors cross the boundary before layer {boundary} ({', '.join(names)}); "
                "a head and a tail need one: cut elsewhere, or plan with --switches, which sends all of them"
            )
        return names[0]

    def edges(self, first: int, last: int) -> tuple[list[str], list[str]]:
        """What the layers first..last read from outside, and what of theirs is read behind them."""
        if not 0 <= first <= last < len(self.layers):
            raise UsageError(f"there are no layers {first}..{last}; they are 0..{len(self.layers) - 1}")
        inputs = [
            one.name
            for one in self.tensors
            if one.source <= first and any(first <= reader <= last for reader in one.readers)
        ]
        outputs = [one.name for one in self.tensors if first < one.source <= last + 1 and max(one.readers) > last]
        return inputs, outputs

    def segment(self, first: int, last: int) -> onnx.ModelProto:
        """The layers first..last, both included, as a model: inputs and outputs are the tensors that cross."""
        from onnx import helper

        inputs, outputs = self.edges(first, last)
        graph = self.model.graph
        nodes = [graph.node[at] for layer in self.layers[first : last + 1] for at in layer.nodes]
        read = {name for node in nodes for name in node.input}
        kinds = _element_types(self.model)
        part = helper.make_graph(
            nodes,
            f"{graph.name}_{first}_{last}",
            [helper.make_tensor_value_info(name, kinds[name], None) for name in inputs],
            [helper.make_tensor_value_info(name, kinds[name], None) for name in outputs],
            [initializer for initializer in graph.initializer if initializer.name in read],
        )
        return helper.make_model(part, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)


def segmented_from_file(path: Path) -> SegmentedGraph:
    """The graph in `path`; BundleError if it is no ONNX or cannot be cut."""
    import onnx

    try:
        # By its suffix ONNX would take a file for another format than its own.
        model = onnx.load_model(str(path), format="protobuf")
    # protobuf's DecodeError is no ValueError; whatever a damaged file raises, it is no graph.
    except Exception as error:
        raise BundleError(f"{path} cannot be read as ONNX: {error}") from None
    return segmented_from_onnx(model, str(path))


def segmented_from_onnx(model: onnx.ModelProto, where: str = "the graph") -> SegmentedGraph:
    """The layers of a graph. BundleError for control flow (which names the node) and for several inputs."""
    import onnx

    model = onnx.shape_inference.infer_shapes(_with_constants_as_weights(model))
    graph = model.graph
    for node in graph.node:
        if _holds_graphs(node):
            raise BundleError(
                f"{where} cannot be cut into layers: the node '{node.name or node.output[0]}' is a {node.op_type}, "
                "and control flow decides at run time what runs; export the network without it"
            )
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [one.name for one in graph.input if one.name not in weights]
    if len(inputs) != 1:
        raise BundleError(f"{where} has {len(inputs)} inputs ({', '.join(inputs)}); a classifier has one")
    layers = _layers(graph)
    if not layers:
        raise BundleError(f"{where} has no nodes")
    layer_of = {at: number for number, layer in enumerate(layers) for at in layer.nodes}
    made = {name: layer_of[at] + 1 for at, node in enumerate(graph.node) for name in node.output if name}
    made[inputs[0]] = 0
    readers: dict[str, set[int]] = {}
    for at, node in enumerate(graph.node):
        for name in node.input:
            if name in made and made[name] <= layer_of[at]:
                readers.setdefault(name, set()).add(layer_of[at])
    for output in graph.output:
        readers.setdefault(output.name, set()).add(len(layers))
    kinds = _element_types(model)
    unknown = [name for name in readers if name not in kinds]
    if unknown:
        raise BundleError(f"{where}: the type of the tensor {unknown[0]} cannot be inferred; export it with shapes")
    tensors = [CrossingTensor(name, made[name], tuple(sorted(readers[name]))) for name in made if name in readers]
    return SegmentedGraph(model, layers, tuple(sorted(tensors, key=lambda one: one.source)))


def _layers(graph: onnx.GraphProto) -> tuple[LayerNodes, ...]:
    found: list[LayerNodes] = []
    for at, node in enumerate(graph.node):
        if found and node.op_type in ELEMENTWISE | FREE:
            found[-1] = dataclasses.replace(found[-1], nodes=(*found[-1].nodes, at))
        else:
            found.append(LayerNodes(node.name or node.output[0], node.op_type, (at,)))
    return tuple(found)


def _with_constants_as_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the nodes that read weights alone: what they give is a weight, which crosses no boundary."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in copy.graph.initializer}
    kept = []
    for node in copy.graph.node:
        if any(name not in weights for name in node.input if name) or _holds_graphs(node):
            kept.append(node)
            continue
        opsets = {one.domain: one.version for one in copy.opset_import}
        feeds = {name: weights[name] for name in node.input if name}
        for name, value in zip(node.output, ReferenceEvaluator(node, opsets=opsets).run(None, feeds), strict=True):
            weights[name] = value
            copy.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _holds_graphs(node: onnx.NodeProto) -> bool:
    """If, Loop, Scan: nodes with graphs of their own."""
    from onnx import AttributeProto

    return any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for one in node.attribute)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    return {
        one.name: one.type.tensor_type.elem_type
        for one in (*graph.input, *graph.value_info, *graph.output)
        if one.type.tensor_type.elem_type
    }
