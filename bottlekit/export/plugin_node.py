"""The bottleneck's edge work as a node in the graph: TensorRT runs it as a plugin, and only codes cross.

::

    head  image --...--> feature --QuantizeTile--> words (n, padded / 4) INT32, range (n, 2) FLOAT, status (n) INT32
    tail  words, range --UntileDequantize--> feature --...--> logits;  status (n) INT32

The nodes are of the ONNX domain `bottlekit`, version 1. TensorRT's parser looks for a plugin by the node's type and
by its attributes `plugin_version` and `plugin_namespace`; the others are the plugin's own (plugins/*/README.md).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from bottlekit.device.codecs import Codec
from bottlekit.device.codes import FEATURE, RANGE, STATUS, WORDS, words_per_image
from bottlekit.device.plugins import DOMAIN, DOMAIN_VERSION, NODES
from bottlekit.errors import EngineError

_ATTRIBUTES = {"plugin_version": str(DOMAIN_VERSION), "plugin_namespace": DOMAIN}


def with_plugin(model: onnx.ModelProto, part: str, codec: Codec) -> onnx.ModelProto:
    """A copy of a head or a tail whose edge is codes; EngineError where the graph has no such edge.

    What is in the graph already is left as it is: it may be lowered to FP16, as long as the feature is FP32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if any(opset.domain == DOMAIN for opset in copy.opset_import):
        raise EngineError(f"the {part} has nodes of the domain {DOMAIN} already")
    edge = copy.graph.output if part == "head" else copy.graph.input
    feature = next((value for value in edge if value.name == FEATURE), None)
    if part not in NODES or feature is None or feature.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise EngineError(f"the {part} has no {FEATURE} in FP32 at its edge that a plugin could take or give")
    if part == "head" and len(copy.graph.output) != 1:
        raise EngineError("a head with an early exit keeps its feature; build it without --plugin")
    batch = _batch_of(feature)
    if part == "head":
        copy.graph.node.append(_quantize_tile(codec))
        _replace(copy.graph.output, feature, _edge(batch, codec, status=True))
    else:
        copy.graph.node.insert(0, _untile_dequantize(codec))
        _replace(copy.graph.input, feature, _edge(batch, codec, status=False))
        # Inside the graph now, and the parser may want to know what it is.
        inner = helper.make_tensor_value_info(FEATURE, TensorProto.FLOAT, [batch, *codec.shape])
        copy.graph.value_info.append(inner)
        copy.graph.output.append(helper.make_tensor_value_info(STATUS, TensorProto.INT32, [batch]))
    copy.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    try:
        onnx.checker.check_model(copy)
    except onnx.checker.ValidationError as error:
        raise EngineError(f"the {part} cannot take a plugin: {' '.join(str(error).split())}") from error
    return copy


def _quantize_tile(codec: Codec) -> onnx.NodeProto:
    low, high = codec.value_range or (0.0, 0.0)
    return helper.make_node(
        NODES["head"],
        [FEATURE],
        [WORDS, RANGE, STATUS],
        name="bottlekit_quantize_tile",
        domain=DOMAIN,
        bits=codec.bits,
        static_range=int(codec.value_range is not None),
        low=float(low),
        high=float(high),
        **_ATTRIBUTES,
    )


def _untile_dequantize(codec: Codec) -> onnx.NodeProto:
    channels, height, width = codec.shape
    return helper.make_node(
        NODES["tail"],
        [WORDS, RANGE],
        [FEATURE, STATUS],
        name="bottlekit_untile_dequantize",
        domain=DOMAIN,
        bits=codec.bits,
        channels=channels,
        height=height,
        width=width,
        **_ATTRIBUTES,
    )


def _edge(batch: int | str, codec: Codec, status: bool) -> list[onnx.ValueInfoProto]:
    """The tensors that cross in place of the feature, their shapes declared."""
    values = [
        helper.make_tensor_value_info(WORDS, TensorProto.INT32, [batch, words_per_image(codec.shape)]),
        helper.make_tensor_value_info(RANGE, TensorProto.FLOAT, [batch, 2]),
    ]
    return [*values, helper.make_tensor_value_info(STATUS, TensorProto.INT32, [batch])] if status else values


def _batch_of(feature: onnx.ValueInfoProto) -> int | str:
    """The first dimension of the feature: a number, or the name of a free one."""
    first = feature.type.tensor_type.shape.dim[0]
    return int(first.dim_value) if first.HasField("dim_value") else str(first.dim_param or "n")


def _replace(edge: list[onnx.ValueInfoProto], old: onnx.ValueInfoProto, new: list[onnx.ValueInfoProto]) -> None:
    """Put values in the place of one among a graph's inputs or outputs."""
    rest = [value for value in edge if value.name != old.name]
    del edge[:]
    edge.extend([*new, *rest])
