"""FP16-typed graphs: FP32 at the edges, FP16 inside, and nearly the same numbers."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.errors import EngineError
from bottlekit.export.graphs import onnx_from_module
from bottlekit.export.lowering import fp16_model, layers_of
from bottlekit.export.rounding import compare_lowered
from bottlekit.export.sessions import function_from_model
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

Array = npt.NDArray[np.float32]


def edge_types(model: onnx.ModelProto) -> list[int]:
    return [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]


def float32_tensors(model: onnx.ModelProto) -> list[str]:
    """What is still FP32 between the casts at the edges."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    edges = {value.name for value in (*inferred.input, *inferred.output)}
    inside = [value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT]
    weights = [tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT]
    return [name for name in inside + weights if name not in edges]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_a_bundle_is_fp16_inside_and_fp32_outside(part: str, small_bundle: Bundle) -> None:
    model = onnx.load(small_bundle.onnx_path(part))
    before = model.SerializeToString()
    lowered = fp16_model(model)
    assert edge_types(lowered) == [TensorProto.FLOAT, TensorProto.FLOAT]
    assert [value.name for value in (*lowered.graph.input, *lowered.graph.output)] == [
        value.name for value in (*model.graph.input, *model.graph.output)
    ]
    assert float32_tensors(lowered) == []
    assert [node.op_type for node in lowered.graph.node].count("Cast") == 2
    assert lowered.ByteSize() < 0.52 * model.ByteSize()
    assert model.SerializeToString() == before, "the FP32 model was changed"


@pytest.mark.parametrize("part", ["head", "tail"])
@pytest.mark.parametrize("batch", [None, 1])
def test_fp16_computes_nearly_the_same(part: str, batch: int | None, small_bundle: Bundle) -> None:
    model = onnx.load(small_bundle.onnx_path(part))
    inputs = small_bundle.golden()["image" if part == "head" else "decoded"]
    reference = function_from_model(model, batch)(inputs)
    comparison = compare_lowered(part, reference, fp16_model(model), inputs, batch)
    assert comparison.passed
    assert 0 < comparison.mean_abs <= comparison.tolerance
    assert comparison.samples == 10
    assert (comparison.top1_agreement is None) == (part == "head")


def test_another_network_is_seen(small_bundle: Bundle) -> None:
    model = onnx.load(small_bundle.onnx_path("head"))
    images = small_bundle.golden()["image"]
    reference = function_from_model(model, None)(images)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))
    assert not compare_lowered("head", reference, fp16_model(model), images, None).passed


@pytest.mark.parametrize(
    ("backbone", "split"), [("mobilenet_v2", "b3"), ("efficientnet_b0", "b3"), ("mnasnet0_5", "b3")]
)
def test_clips_sigmoids_and_means_are_lowered(
    backbone: str,
    split: str,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
) -> None:
    images = photographs(64)
    unit = BottleneckSpec("butterfly", split, channels=4, spatial=1)
    network = make_network(ModelSpec(backbone, 10, 64), unit, CodecSpec("raw"), images)
    inputs = images
    for part, example in (("head", torch.zeros(1, 3, 64, 64)), ("tail", torch.zeros(1, *network.feature_shape))):
        names = ("image", "feature") if part == "head" else ("feature", "logits")
        model = onnx_from_module(getattr(network, part), example, *names, dynamic_batch=True)
        lowered = fp16_model(model)
        assert float32_tensors(lowered) == []
        reference = function_from_model(model, None)(inputs)
        comparison = compare_lowered(part, reference, lowered, inputs, None)
        # Random weights make more of a rounding error than trained ones, which are held to less.
        assert comparison.mean_abs <= 0.02 * np.abs(reference).mean()
        inputs = reference


def float_value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.generic]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "one",
        [float_value("image", ["n", 1, 4, 4])],
        [float_value("feature", ["n", 1, 4, 4])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def one_convolution(weights: npt.NDArray[np.float32]) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["image", "w"], ["feature"], name="conv")
    return model_of([node], {"w": weights.reshape(1, 1, 1, 1)})


def weight_of(model: onnx.ModelProto) -> float:
    return float(numpy_helper.to_array(model.graph.initializer[0]).reshape(()))


@pytest.mark.parametrize("value", [65504.0, -65504.0, 1e-3, 0.0])
def test_weights_that_fit_are_kept(value: float) -> None:
    assert weight_of(fp16_model(one_convolution(np.float32([value])))) == pytest.approx(value, rel=1e-3)


def test_weights_too_near_to_zero_become_the_smallest_there_is() -> None:
    assert weight_of(fp16_model(one_convolution(np.float32([1e-12])))) == 2.0**-24
    assert weight_of(fp16_model(one_convolution(np.float32([-1e-12])))) == -(2.0**-24)


@pytest.mark.parametrize("value", [7e4, -7e4, np.inf, np.nan])
def test_weights_that_do_not_fit_are_refused_and_named(value: float) -> None:
    with pytest.raises(EngineError, match=r"weights w reach .* FP16 ends at 65504; build with --precision fp32"):
        fp16_model(one_convolution(np.float32([value])))
    assert weight_of(fp16_model(one_convolution(np.float32([value])), ["conv"])) == pytest.approx(
        value, nan_ok=True
    )


def casts_of(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(node.input[0], node.output[0]) for node in model.graph.node if node.op_type == "Cast"]


def residual() -> onnx.ModelProto:
    """image -> conv -> a -> relu -> r -> conv -> b; r + b -> sum -> relu -> feature. One weight for both."""
    return model_of(
        [
            helper.make_node("Conv", ["image", "w"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w"], ["b"], name="second"),
            helper.make_node("Add", ["r", "b"], ["sum"], name="add"),
            helper.make_node("Relu", ["sum"], ["feature"]),
        ],
        {"w": np.full((1, 1, 1, 1), 0.1, np.float32)},
    )


@pytest.mark.parametrize(
    ("kept", "casts"),
    [
        ([], [("image", "image_fp16"), ("feature_fp16", "feature")]),
        # Between two layers of a kind there is no cast, however many read the tensor; and each tensor has one.
        (["relu", "second", "add"], [("image", "image_fp16"), ("a", "a_fp32"), ("sum", "sum_fp16"),
                                     ("feature_fp16", "feature")]),
        (["relu"], [("image", "image_fp16"), ("a", "a_fp32"), ("r", "r_fp16"), ("feature_fp16", "feature")]),
        (["first"], [("a", "a_fp16"), ("feature_fp16", "feature")]),
        (["node_of_feature"], [("image", "image_fp16"), ("sum", "sum_fp32")]),
        (["first", "relu", "second", "add", "node_of_feature"], []),
    ],
)  # fmt: skip
def test_layers_that_stay_fp32_are_cast_to_and_from(kept: list[str], casts: list[tuple[str, str]]) -> None:
    lowered = fp16_model(residual(), kept)
    assert casts_of(lowered) == casts
    assert edge_types(lowered) == [TensorProto.FLOAT, TensorProto.FLOAT]
    weights = {tensor.name: tensor.data_type for tensor in lowered.graph.initializer}
    half = {node.input[1] for node in lowered.graph.node if node.op_type == "Conv" and node.name not in kept}
    full = {node.input[1] for node in lowered.graph.node if node.op_type == "Conv" and node.name in kept}
    assert {weights[name] for name in half} <= {TensorProto.FLOAT16}
    assert {weights[name] for name in full} <= {TensorProto.FLOAT}
    assert len(weights) == bool(half) + bool(full)


def test_the_layers_are_the_nodes_that_can_be_fp16() -> None:
    assert layers_of(residual()) == ("first", "relu", "second", "add", "node_of_feature")
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], name="shape"),
        helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["image", "scale"], ["m"], name="mul"),
        helper.make_node("Reshape", ["m", "shape"], ["feature"], name="reshape"),
    ]
    model = model_of(nodes, {})
    assert layers_of(model) == ("mul", "reshape")
    assert casts_of(fp16_model(model)) == [("image", "image_fp16"), ("feature_fp16", "feature")]


def test_what_an_operator_has_in_fp32_only_stays_so() -> None:
    nodes = [
        helper.make_node("Resize", ["image", "", "scales"], ["big"], name="resize", mode="nearest"),
        helper.make_node("MaxPool", ["big"], ["feature"], kernel_shape=[2, 2], strides=[2, 2], name="pool"),
    ]
    lowered = fp16_model(model_of(nodes, {"scales": np.float32([1, 1, 2, 2])}))
    assert lowered.graph.initializer[0].data_type == TensorProto.FLOAT
    assert next(node for node in lowered.graph.node if node.name == "resize").input[0] == "image_fp16"
    image = np.random.default_rng(0).standard_normal((2, 1, 4, 4), dtype=np.float32)
    np.testing.assert_allclose(function_from_model(lowered, None)(image), image, rtol=1e-3)


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(EngineError, match="the graph has no layers third to keep in FP32"):
        fp16_model(residual(), ["first", "third"])


def test_a_graph_inside_a_graph_is_refused() -> None:
    inner = [
        helper.make_graph([helper.make_node(op, ["r"], ["i"])], op, [], [float_value("i", ["n", 1, 4, 4])])
        for op in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("Relu", ["image"], ["r"], name="relu"),
        helper.make_node("If", ["yes"], ["feature"], then_branch=inner[0], else_branch=inner[1]),
    ]
    with pytest.raises(EngineError, match="cannot be typed FP16; build with --precision fp32") as caught:
        fp16_model(model_of(nodes, {"yes": np.array(True)}))
    assert "\n" not in str(caught.value)
