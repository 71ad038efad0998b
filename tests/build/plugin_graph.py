"""What the double of TensorRT makes of a graph with the project's own nodes: ONNX Runtime and the reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
import reference
from tensorrt_double import _creators_in_this_process, _Graph

DOMAIN = "bottlekit"


class PluginGraph(_Graph):  # type: ignore[misc]
    """A graph whose head's end or tail's beginning may be a plugin; as TensorRT, it needs the library for that."""

    def __init__(self, content: bytes) -> None:
        model = onnx.load_from_string(content)
        node = next((node for node in model.graph.node if node.domain == DOMAIN), None)
        if node is None:
            super().__init__(content)
            return
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        assert (attributes["plugin_namespace"], attributes["plugin_version"]) == (b"bottlekit", b"1")
        if node.op_type not in _creators_in_this_process():
            raise RuntimeError(f"getPluginCreator could not find plugin: {node.op_type} version: 1")
        inputs, outputs = ([_row(value) for value in edge] for edge in (model.graph.input, model.graph.output))
        model.graph.node.remove(node)
        inner = helper.make_tensor_value_info("feature", onnx.TensorProto.FLOAT, None)
        is_head = node.op_type == "QuantizeTile"
        if is_head:
            del model.graph.output[:]
            model.graph.output.append(inner)
        else:
            shape = ["n", *(attributes[name] for name in ("channels", "height", "width"))]
            del model.graph.input[:]
            model.graph.input.append(helper.make_tensor_value_info("feature", onnx.TensorProto.FLOAT, shape))
            logits = [value for value in model.graph.output if value.name != "status"]
            del model.graph.output[:]
            model.graph.output.extend(logits)
        super().__init__(model.SerializeToString())
        self.inputs, self.outputs = inputs, outputs
        self.session = (_Head if is_head else _Tail)(self.session, attributes)


def _row(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...], str]:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return value.name, shape, onnx.TensorProto.DataType.Name(kind.elem_type)


class _Head:
    def __init__(self, session: Any, attributes: dict[str, Any]) -> None:
        self.session, self.bits = session, attributes["bits"]
        self.value_range = (attributes["low"], attributes["high"]) if attributes["static_range"] else None

    def run(self, _names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        (feature,) = self.session.run(None, feeds)
        canvases, ranges, status = reference.quantize_tile(feature, self.bits, self.value_range)
        return [canvases.view(np.int32), ranges, status]


class _Tail:
    def __init__(self, session: Any, attributes: dict[str, Any]) -> None:
        self.session, self.bits = session, attributes["bits"]
        self.shape = tuple(attributes[name] for name in ("channels", "height", "width"))

    def run(self, _names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        canvases = np.ascontiguousarray(feeds["words"]).view(np.uint8)
        feature, status = reference.untile_dequantize(canvases, feeds["range"], self.shape, self.bits)
        return [*self.session.run(None, {"feature": feature}), status]
