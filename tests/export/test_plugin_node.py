"""The plugins' nodes in a graph: what crosses, what the node says, what the lint says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.tiling import canvas_shape
from bottlekit.errors import EngineError
from bottlekit.export.lint import ParserFacts, lint
from bottlekit.export.lowering import fp16_model
from bottlekit.export.plugin_node import with_plugin

FLEET = fleet_from_path(str(Path(__file__).parents[1] / "data" / "tiny_fleet"))
TX2 = ParserFacts(tensorrt=(8, 2), opset_ceiling=13, uint8_edges=False, plugins=True)


def edge(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[int | str]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


@pytest.mark.parametrize("bundle", FLEET, ids=lambda bundle: bundle.name)
@pytest.mark.parametrize("lowered", [False, True])
def test_codes_cross_in_place_of_the_feature(bundle, lowered):  # type: ignore[no-untyped-def]
    height, width = canvas_shape(*bundle.codec.shape)
    words = -(-height * width // 4)
    codes = {"words": (TensorProto.INT32, ["n", words]), "range": (TensorProto.FLOAT, ["n", 2])}
    status = {"status": (TensorProto.INT32, ["n"])}
    for part in ("head", "tail"):
        plain = onnx.load(bundle.onnx_path(part))
        model = with_plugin(fp16_model(plain) if lowered else plain, part, bundle.codec)
        onnx.checker.check_model(model, full_check=True)
        assert lowered or lint(model, TX2) == []
        assert {opset.domain: opset.version for opset in model.opset_import}["bottlekit"] == 1
        inputs, outputs = edge(model.graph.input), edge(model.graph.output)
        if part == "head":
            assert (list(inputs), outputs) == (["image"], {**codes, **status})
        else:
            assert inputs == codes
            assert list(outputs) == ["logits", "status"]
            assert outputs["status"] == status["status"]
        (node,) = [node for node in model.graph.node if node.domain == "bottlekit"]
        said = attributes(node)
        assert (said["plugin_version"], said["plugin_namespace"]) == (b"1", b"bottlekit")
        assert said["bits"] == bundle.codec.bits
        # The graph that was given is as it was.
        assert "feature" in {**edge(plain.graph.input), **edge(plain.graph.output)}


def feature_graph(kind: int = TensorProto.FLOAT, name: str = "feature", batch: int | str = "n") -> onnx.ModelProto:
    x = helper.make_tensor_value_info("image", kind, [batch, 3, 4, 5])
    y = helper.make_tensor_value_info(name, kind, [batch, 3, 4, 5])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], [name])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def test_a_static_range_and_a_fixed_batch_are_in_the_graph() -> None:
    spec = {"name": "raw", "bits": 3, "quality": 20, "range": "static"}
    codec = codec_from_spec(spec, (3, 4, 5), {"range": np.array([-1.5, 2.0], np.float32)})
    assert codec.value_range == (-1.5, 2.0)
    model = with_plugin(feature_graph(batch=2), "head", codec)
    said = attributes(model.graph.node[-1])
    assert (said["bits"], said["static_range"], said["low"], said["high"]) == (3, 1, -1.5, 2.0)
    assert edge(model.graph.output)["words"] == (TensorProto.INT32, [2, 20])
    assert np.prod(canvas_shape(3, 4, 5)) == 80


CODEC = codec_from_spec({"name": "raw", "bits": 8, "quality": 20}, (3, 4, 5))


@pytest.mark.parametrize(
    "model",
    [feature_graph(TensorProto.FLOAT16), feature_graph(name="logits")],
    ids=["FP16", "no feature"],
)
def test_a_graph_without_such_an_edge_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(EngineError, match="the head has no feature in FP32 at its edge"):
        with_plugin(model, "head", CODEC)


def test_a_head_with_an_early_exit_keeps_its_feature() -> None:
    model = feature_graph()
    model.graph.output.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 4, 5]))
    with pytest.raises(EngineError, match="a head with an early exit keeps its feature; build it without --plugin"):
        with_plugin(model, "head", CODEC)


def test_one_node_is_enough() -> None:
    once = with_plugin(feature_graph(), "head", CODEC)
    with pytest.raises(EngineError, match="has nodes of the domain bottlekit already"):
        with_plugin(once, "head", CODEC)


def rules(model: onnx.ModelProto, plugins: bool) -> list[str]:
    facts = ParserFacts(tensorrt=(8, 6), opset_ceiling=17, plugins=plugins)
    return [finding.rule for finding in lint(model, facts)]


def test_the_lint_knows_the_nodes_and_says_that_they_need_the_library() -> None:
    model = with_plugin(feature_graph(), "head", CODEC)
    assert rules(model, plugins=True) == []
    assert rules(model, plugins=False) == ["plugin-library"]
    model.graph.node[-1].op_type = "QuantizeTiles"
    assert rules(model, plugins=True) == ["unknown-operator"]
    other = with_plugin(feature_graph(), "head", CODEC)
    next(one for one in other.opset_import if one.domain == "bottlekit").version = 2
    assert rules(other, plugins=True) == ["unknown-operator"]
