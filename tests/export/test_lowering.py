"""FP16-typed graphs: FP32 at the edges, FP16 inside, and nearly the same numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.errors import EngineError
from bottlekit.export.graphs import onnx_from_module, write_onnx
from bottlekit.export.lowering import check_lowered, compare_lowered, fp16_model
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
def test_fp16_computes_nearly_the_same(part: str, small_bundle: Bundle, tmp_path: Path) -> None:
    original = Path(small_bundle.onnx_path(part))
    lowered = tmp_path / "lowered.onnx"
    onnx.save(fp16_model(onnx.load(original)), lowered)
    inputs = small_bundle.golden()["image" if part == "head" else "decoded"]
    comparison = compare_lowered(original, lowered, inputs, batch=None)
    assert comparison.passed
    assert 0 < comparison.mean_abs <= comparison.tolerance
    assert comparison.samples == 10
    assert (comparison.top1_agreement is None) == (part == "head")
    assert compare_lowered(original, lowered, inputs, batch=1).passed


def test_another_network_is_seen(small_bundle: Bundle, tmp_path: Path) -> None:
    original = Path(small_bundle.onnx_path("head"))
    model = onnx.load(original)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.05), tensor.name))
    onnx.save(fp16_model(model), tmp_path / "other.onnx")
    images = small_bundle.golden()["image"]
    assert not compare_lowered(original, tmp_path / "other.onnx", images, batch=None).passed


def test_edges_can_be_fp16_too(small_bundle: Bundle) -> None:
    lowered = fp16_model(onnx.load(small_bundle.onnx_path("head")), keep_io_types=False)
    assert edge_types(lowered) == [TensorProto.FLOAT16, TensorProto.FLOAT16]
    assert "Cast" not in {node.op_type for node in lowered.graph.node}


@pytest.mark.parametrize(
    ("backbone", "split"), [("mobilenet_v2", "b3"), ("efficientnet_b0", "b3"), ("mnasnet0_5", "b3")]
)
def test_clips_sigmoids_and_means_are_lowered(
    backbone: str,
    split: str,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    tmp_path: Path,
) -> None:
    images = photographs(64)
    unit = BottleneckSpec("butterfly", split, channels=4, spatial=1)
    network = make_network(ModelSpec(backbone, 10, 64), unit, CodecSpec("raw"), images)
    for part, example in (("head", torch.zeros(1, 3, 64, 64)), ("tail", torch.zeros(1, *network.feature_shape))):
        names = ("image", "feature") if part == "head" else ("feature", "logits")
        model = onnx_from_module(getattr(network, part), example, *names, dynamic_batch=True)
        write_onnx(model, tmp_path / f"{part}.onnx")
        lowered = fp16_model(model)
        assert float32_tensors(lowered) == []
        onnx.save(lowered, tmp_path / f"{part}16.onnx")
    assert compare_lowered(tmp_path / "head.onnx", tmp_path / "head16.onnx", images, None).passed
    with torch.no_grad():
        feature = network.head(torch.from_numpy(images)).numpy()
    assert compare_lowered(tmp_path / "tail.onnx", tmp_path / "tail16.onnx", feature, None).passed


def one_convolution(weights: npt.NDArray[np.float32]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["feature"], name="conv")],
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [numpy_helper.from_array(weights.reshape(1, 1, 1, 1), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


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


def test_a_layer_left_in_fp32_is_named() -> None:
    model = one_convolution(np.float32([1.0]))
    with pytest.raises(EngineError, match="conv; build with --precision fp32"):
        check_lowered(model)
