"""INT8 is written into the graph as every TensorRT since 8.2 reads it, and computes nearly the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.device.golden import compare_with_golden, golden_input, tolerance_from_name
from bottlekit.errors import EngineError
from bottlekit.export.int8 import int8_model
from bottlekit.export.lint import ParserFacts, lint
from bottlekit.export.sessions import ModelRunner, function_from_model

Array = npt.NDArray[np.float32]
WEIGHTS = np.float32([[1.0, 0.01], [-0.02, 0.03]]).reshape(2, 2, 1, 1)


def one_layer(operator: str = "Conv", weights: Array = WEIGHTS) -> onnx.ModelProto:
    edges = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 4, 4]) for name in ("image", "feature")
    ]
    bias = np.float32([5.0, -7.0])
    names = ["image", "w", "b"] if operator == "Conv" else ["image"]
    body = helper.make_graph(
        [helper.make_node(operator, names, ["feature"], name="layer")], "one", edges[:1], edges[1:],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")] if operator == "Conv" else [],
    )  # fmt: skip
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def images(largest: float = 2.0) -> Array:
    values = np.random.default_rng(0).uniform(-1, 1, (4, 2, 4, 4)).astype(np.float32)
    values[0, 0, 0, 0] = -largest
    return values


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("parser", [(8, 2), (8, 6), (10, 3), (11, 0)])
def test_every_parser_takes_the_graph(small_bundle: Bundle, part: str, parser: tuple[int, int]) -> None:
    model = onnx.load(small_bundle.onnx_path(part))
    quantised = int8_model(model, golden_input(small_bundle, part)[:2])
    onnx.checker.check_model(quantised, full_check=True)
    assert lint(quantised, ParserFacts(parser, 13, uint8_edges=False)) == []
    assert quantised.graph.input == model.graph.input
    assert [value.name for value in quantised.graph.output] == [value.name for value in model.graph.output]


@pytest.mark.parametrize("part", PARTS)
def test_every_weighted_layer_is_int8_and_nothing_else(small_bundle: Bundle, part: str) -> None:
    model = onnx.load(small_bundle.onnx_path(part))
    before = model.SerializeToString()
    quantised = int8_model(model, golden_input(small_bundle, part)[:2])
    assert model.SerializeToString() == before, "the FP32 model was changed"
    maker = {name: node for node in quantised.graph.node for name in node.output}
    values = constants(quantised)
    for node in quantised.graph.node:
        dequantised = [maker[name].op_type == "DequantizeLinear" for name in node.input if name in maker]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            assert dequantised == [True, True], "input and weights; the bias stays as it is"
            kernel = maker[node.input[1]]
            channels = values[kernel.input[1]].size
            assert channels == values[maker[kernel.input[0]].input[0]].shape[axis_of(kernel)]
        elif node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert all(name not in values or values[name].dtype == np.float32 for name in node.input)
    pairs = ("QuantizeLinear", "DequantizeLinear")
    left = [node.op_type for node in quantised.graph.node if node.op_type not in pairs]
    assert sorted(left) == sorted(node.op_type for node in model.graph.node)
    outputs = {value.name for value in quantised.graph.output}
    assert all(maker[name].op_type != "DequantizeLinear" for name in outputs)


def axis_of(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


@pytest.mark.parametrize("part", PARTS)
def test_int8_computes_nearly_the_same(small_bundle: Bundle, part: str) -> None:
    quantised = int8_model(onnx.load(small_bundle.onnx_path(part)), golden_input(small_bundle, part)[:8])
    with ModelRunner(quantised) as runner:
        report = compare_with_golden(runner, small_bundle, part, tolerance_from_name("int8"))
        assert report["mean_abs"] > 0
        with pytest.raises(EngineError):
            compare_with_golden(runner, small_bundle, part, tolerance_from_name("fp32"))


def test_scales_are_the_largest_magnitudes_over_127() -> None:
    quantised = int8_model(one_layer(), images(largest=2.0))
    values = constants(quantised)
    pairs = {node.input[0]: node for node in quantised.graph.node if node.op_type == "QuantizeLinear"}
    assert values[pairs["image"].input[1]] == pytest.approx(2.0 / 127, rel=1e-6)
    np.testing.assert_allclose(values[pairs["w"].input[1]], np.float32([1.0, 0.03]) / 127, rtol=1e-6)
    for node in pairs.values():
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()


def test_the_numbers_are_those_of_int8() -> None:
    sample = images()[:1]
    scale = np.float32(2.0 / 127)
    rounded = np.clip(np.round(sample / scale), -128, 127) * scale
    steps = np.float32([[1.0], [0.03]]) / 127
    kernel = np.round(WEIGHTS[..., 0, 0] / steps) * steps
    expected = np.einsum("oi,nihw->nohw", kernel, rounded) + np.float32([5, -7]).reshape(1, 2, 1, 1)
    actual = function_from_model(int8_model(one_layer(), images()), None, optimised=False)(sample)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_same_samples_give_the_same_graph() -> None:
    first, second, other = (int8_model(one_layer(), images(largest)) for largest in (2.0, 2.0, 3.0))
    assert first.SerializeToString() == second.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()


def test_a_channel_without_weights_is_no_trouble() -> None:
    weights = WEIGHTS.copy()
    weights[0] = 0
    sample = images()
    actual = function_from_model(int8_model(one_layer(weights=weights), sample), None)(sample)
    np.testing.assert_array_equal(actual[:, 0], 5.0)


def test_a_graph_with_nothing_to_quantise_is_refused() -> None:
    with pytest.raises(EngineError, match="no convolution and no matrix product"):
        int8_model(one_layer("Relu"), images())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    samples = images()
    samples[1, 1, 1, 1] = bad
    with pytest.raises(EngineError, match="the samples to calibrate with hold NaN or infinity"):
        int8_model(one_layer(), samples)


def test_a_layer_that_gives_infinity_is_refused() -> None:
    model = one_layer()
    large = numpy_helper.from_array(np.full((2, 2, 1, 1), 3e38, np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["middle"], name="layer"),
        helper.make_node("Conv", ["middle", "w", "b"], ["feature"], name="next"),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer[0].CopyFrom(large)
    with pytest.raises(EngineError, match="calibrat") as caught:
        int8_model(model, images())
    assert "\n" not in str(caught.value)


def test_quantising_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    int8_model(one_layer(), images())
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.messages) == ("", "", [])


@pytest.mark.parametrize("make", [lambda model: None, lambda model: model.graph.node.pop()])
def test_a_model_runner_runs_it_as_it_is(make: Callable[[onnx.ModelProto], object]) -> None:
    model = one_layer()
    make(model)
    if not model.graph.node:
        with pytest.raises(EngineError, match="ONNX Runtime cannot load the graph 'one': "):
            ModelRunner(model).__enter__()
        return
    with ModelRunner(model) as runner:
        assert runner.inputs[0].shape == (None, 2, 4, 4)
        output = runner.run({"image": images()})["feature"]
    np.testing.assert_array_equal(output, function_from_model(model, None, optimised=False)(images()))
