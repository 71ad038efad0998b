"""What a target's TensorRT would choke on, found in the ONNX before anything is sent to a device.

::

    graph + target facts --each rule--> [Finding(rule, where, problem, advice)]

The rules are those behind real failures of TensorRT 8.2 to 11: some stop the parser, the worst (a Reduce with
its axes as an input) gives wrong numbers without a word.
"""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from bottlekit.device.plugins import DOMAIN, DOMAIN_VERSION, LIBRARY, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FLOAT_CASTS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32}
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ParserFacts:
    """What decides which rules apply to a graph.

    tensorrt: the version whose parser reads it, (major, minor); None where ONNX Runtime does.
    opset_ceiling: the newest opset it reads. uint8_edges: inputs and outputs may be UINT8.
    has_profile: the build gives every free dimension a range. plugins: it loads bottlekit's plugin library.
    """

    tensorrt: tuple[int, int] | None
    opset_ceiling: int
    uint8_edges: bool = True
    has_profile: bool = True
    plugins: bool = False

    def before(self, major: int, minor: int) -> bool:
        """Whether a TensorRT older than this version reads the graph."""
        return self.tensorrt is not None and self.tensorrt < (major, minor)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a target cannot take: which rule, where in the graph, what is wrong, what to do."""

    rule: str
    where: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.problem}; {self.advice}"


def lint(model: onnx.ModelProto, facts: ParserFacts) -> list[Finding]:
    """Every finding of every rule, in the order of the rules; empty when the target can take the graph."""
    return [finding for rule in RULES for finding in rule(model, facts)]


def _node_name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name or (node.output[0] if node.output else '?')}'"


def _initialisers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _opset(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    """The parsers do not check the opset: what is too new fails late, or is misread."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > facts.opset_ceiling:
            yield Finding(
                "opset-ceiling",
                "the graph",
                f"opset {opset.version}, and this target reads up to {facts.opset_ceiling}",
                "export again: bottlekit writes opset 13",
            )


@lru_cache(maxsize=1)
def _parser_operators() -> dict[str, frozenset[str]]:
    text = resources.files("bottlekit.targets").joinpath("parser_operators.json").read_text(encoding="utf-8")
    return {version: frozenset(names) for version, names in json.loads(text).items() if version != "about"}


def known_operators(tensorrt: tuple[int, int]) -> frozenset[str]:
    """The operators that a TensorRT version's parser has an importer for."""
    tables = _parser_operators()
    versions = sorted(tables, key=lambda text: tuple(int(part) for part in text.split(".")))
    fitting = [version for version in versions if tuple(int(part) for part in version.split(".")) <= tensorrt]
    return tables[fitting[-1] if fitting else versions[0]]


def _operators(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    if facts.tensorrt is None:
        return
    known = known_operators(facts.tensorrt)
    for node in model.graph.node:
        if node.domain == DOMAIN:
            yield from _plugin_node(model, node, facts)
        elif node.domain not in ("", "ai.onnx"):
            yield Finding(
                "unknown-operator",
                _node_name(node),
                f"the domain '{node.domain}' is no standard ONNX",
                "load the plugin library that brings it, or use standard operators",
            )
        elif node.op_type not in known:
            yield Finding(
                "unknown-operator",
                _node_name(node),
                f"the parser of TensorRT {facts.tensorrt[0]}.{facts.tensorrt[1]} has no such operator",
                "export at opset 13, or write the layer with operators that it has",
            )


def _plugin_node(model: onnx.ModelProto, node: onnx.NodeProto, facts: ParserFacts) -> Iterator[Finding]:
    """A node of bottlekit's own domain: the library brings it, in one version."""
    version = next((opset.version for opset in model.opset_import if opset.domain == DOMAIN), None)
    if node.op_type not in NODES.values() or version != DOMAIN_VERSION:
        yield Finding(
            "unknown-operator",
            _node_name(node),
            f"{LIBRARY} has {' and '.join(NODES.values())} of version {DOMAIN_VERSION}, not this one of {version}",
            "use the bottlekit that wrote the graph",
        )
    elif not facts.plugins:
        yield Finding(
            "plugin-library",
            _node_name(node),
            f"it is a plugin, and the build does not load {LIBRARY}",
            "build with --plugin, from the bundle's own graphs",
        )


def _reduce_axes(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    """Before 10.0 the parser ignores axes given as an input and reduces over all: wrong numbers, no error.

    ReduceSum takes its axes as an input since opset 13, and its importer has read that since 8.0.
    """
    if not facts.before(10, 0):
        return
    for node in model.graph.node:
        if node.op_type in _REDUCTIONS and len(node.input) > 1:
            yield Finding(
                "reduce-axes-input",
                _node_name(node),
                "its axes are an input, which this parser ignores: it would reduce over everything",
                "export at opset 13, where the axes are an attribute",
            )


def _types(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    """UINT8: none at all in 8.2, network inputs and outputs from 8.5 on, never in between."""
    if facts.tensorrt is None:
        return
    edges = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    if not facts.uint8_edges:
        for value in edges.values():
            if value.type.tensor_type.elem_type == TensorProto.UINT8:
                yield Finding(
                    "uint8",
                    f"'{value.name}'",
                    "UINT8 inputs and outputs need TensorRT 8.5",
                    "feed and read FP32; quantise outside the engine",
                )
    for node in model.graph.node:
        if node.op_type != "Cast":
            continue
        to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        if to == TensorProto.UINT8 and not (facts.uint8_edges and node.output[0] in edges):
            yield Finding(
                "uint8",
                _node_name(node),
                "UINT8 inside a graph is never supported",
                "quantise outside the engine: the codec does it",
            )
        elif facts.before(8, 5) and to not in _FLOAT_CASTS and to != TensorProto.UINT8:
            yield Finding(
                "cast-type",
                _node_name(node),
                f"this parser casts only to FLOAT, FLOAT16 and INT32, not to {TensorProto.DataType.Name(to)}",
                "change the network so that the cast is not needed",
            )


def _half_initialisers(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    if not facts.before(8, 4):
        return
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            yield Finding(
                "fp16-initialiser",
                f"'{tensor.name}'",
                "this TensorRT reads no FP16 weights",
                "send the FP32 graph and let the builder choose FP16",
            )


def _conv_weights(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    """Up to 8.x, weights must be initialisers: an Identity in front of them, which exporters write, is too much.

    A DequantizeLinear in front of the kernel is read as what it is, an INT8 kernel; in front of a bias it is not.
    """
    if not facts.before(10, 0):
        return
    constants = _initialisers(model).keys() | _made_by(model, "Constant")
    kernels = constants | _made_by(model, "DequantizeLinear")
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            for place, name in enumerate(node.input):
                if name and place > 0 and name not in (kernels if place == 1 else constants):
                    yield Finding(
                        "conv-weights",
                        _node_name(node),
                        f"its weight '{name}' is computed, not an initialiser",
                        "fold constants before building (bottlekit export does)",
                    )


def _made_by(model: onnx.ModelProto, operator: str) -> set[str]:
    """The tensors that nodes of one operator give."""
    return {node.output[0] for node in model.graph.node if node.op_type == operator}


def _clip_bounds(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    if not facts.before(8, 4):
        return
    initialisers = _initialisers(model)
    constants = _made_by(model, "Constant")
    for node in model.graph.node:
        if node.op_type == "Clip":
            for name in [name for name in node.input[1:] if name]:
                tensor = initialisers.get(name)
                if name in constants or (tensor is not None and tensor.data_type == TensorProto.FLOAT):
                    continue
                yield Finding(
                    "clip-bounds",
                    _node_name(node),
                    f"its bound '{name}' is not an FP32 initialiser",
                    "fold constants before building (bottlekit export does)",
                )


def _quantize_inputs(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    """8.2's QuantizeLinear and DequantizeLinear want three inputs, and zero points of 0."""
    if not facts.before(8, 4):
        return
    initialisers = _initialisers(model)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = initialisers.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or onnx.numpy_helper.to_array(zero).any():
            yield Finding(
                "quantize-zero-point",
                _node_name(node),
                "it needs a zero point as its third input, and that must be 0",
                "quantise symmetrically, with an explicit zero point of 0",
            )


def _dynamic_dimensions(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    if facts.tensorrt is None or facts.has_profile:
        return
    known = _initialisers(model)
    for value in model.graph.input:
        free = [dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim if not dim.HasField("dim_value")]
        if free and value.name not in known:
            yield Finding(
                "dynamic-without-profile",
                f"'{value.name}'",
                f"its size {', '.join(free)} is free, and the build gives it no range",
                "pass --max-batch, or export with --batch 1",
            )


def _external_data(model: onnx.ModelProto, facts: ParserFacts) -> Iterator[Finding]:
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            yield Finding(
                "external-data",
                f"'{tensor.name}'",
                "its values lie in another file, which is not sent along",
                "save the graph in one file",
            )


RULES: tuple[Callable[[onnx.ModelProto, ParserFacts], Iterator[Finding]], ...] = (
    _opset,
    _operators,
    _reduce_axes,
    _types,
    _half_initialisers,
    _conv_weights,
    _clip_bounds,
    _quantize_inputs,
    _dynamic_dimensions,
    _external_data,
)
