"""Layers stay FP32 where FP16 breaks the outputs, only there, and the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.bundle import Bundle
from bottlekit.device.golden import golden_input
from bottlekit.errors import EngineError
from bottlekit.export.fall_back import Lowered, fp32_layers_for, lowered_model
from bottlekit.export.lowering import fp16_model, layers_of
from bottlekit.export.rounding import Tensors, compare_lowered, simulated_model
from bottlekit.export.sessions import function_from_model

Array = npt.NDArray[np.float32]
IMAGES = np.random.default_rng(1).uniform(0.5, 1.5, (4, 2, 4, 4)).astype(np.float32)


def graph(*nodes: onnx.NodeProto, **weights: object) -> onnx.ModelProto:
    """A graph image (n, 2, 4, 4) -> feature (n, 2, 4, 4) of these nodes."""
    edges = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 4, 4]) for name in ("image", "feature")
    ]
    tensors = [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()]
    body = helper.make_graph(list(nodes), "constructed", edges[:1], edges[1:], tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def node(operator: str, name: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], name=name)


def kernel(value: float, seed: int = 0) -> Array:
    """A 1 x 1 convolution of 2 channels whose weights are near `value`."""
    return (value * np.random.default_rng(seed).uniform(0.8, 1.2, (2, 2, 1, 1))).astype(np.float32)


def benign() -> onnx.ModelProto:
    return graph(
        node("Conv", "one", "image v", "a"), node("Relu", "two", "a", "b"), node("Conv", "three", "b w", "feature"),
        v=kernel(0.5), w=kernel(-2.0, 1),
    )  # fmt: skip


def large_and_back() -> onnx.ModelProto:
    """conv gives 1e5 and more, which a later convolution brings back; both ends are harmless."""
    return graph(
        node("Conv", "before", "image v", "a"), node("Conv", "large", "a w", "b"), node("Relu", "relu", "b", "c"),
        node("Mul", "back", "c s", "d"), node("Conv", "after", "d v", "feature"),
        v=kernel(0.5), w=kernel(1e5 / 2), s=1e-5,
    )  # fmt: skip


def large_with_two_readers() -> onnx.ModelProto:
    return graph(
        node("Conv", "large", "image w", "a"), node("Mul", "left", "a s", "b"), node("Mul", "right", "a t", "c"),
        node("Add", "add", "b c", "d"), node("Relu", "after", "d", "feature"),
        w=kernel(6e4), s=1e-5, t=2e-5,
    )  # fmt: skip


def tiny_and_back() -> onnx.ModelProto:
    """Weights and a tensor far below what FP16 can say."""
    return graph(
        node("Conv", "before", "image v", "a"), node("Conv", "tiny", "a w", "b"), node("Mul", "up", "b s", "c"),
        node("Mul", "more", "c s", "d"), node("Relu", "after", "d", "feature"),
        v=kernel(0.5), w=kernel(1e-8), s=1e4,
    )  # fmt: skip


def weights_too_large() -> onnx.ModelProto:
    """Weights that FP16 cannot hold, of a layer whose output it can."""
    return graph(
        node("Mul", "down", "image s", "a"), node("Conv", "large", "a w", "b"),
        node("Relu", "after", "b", "feature"),
        w=kernel(1e5), s=0.01,
    )  # fmt: skip


def small_difference() -> onnx.ModelProto:
    """Two tensors near 1000 whose difference is the result: nothing is out of range, and FP16 rounds it away."""
    return graph(
        node("Conv", "before", "image v", "a"), node("Add", "left", "a k", "b"), node("Conv", "other", "a w", "c"),
        node("Add", "right", "c k", "d"), node("Sub", "difference", "b d", "e"),
        node("Conv", "after", "e v", "feature"),
        v=kernel(0.05), w=kernel(0.05, 1), k=1000.0,
    )  # fmt: skip


CASES: list[tuple[Callable[[], onnx.ModelProto], list[str]]] = [
    (benign, []),
    (large_and_back, ["large", "relu", "back"]),
    (large_with_two_readers, ["large", "left", "right"]),
    (tiny_and_back, ["tiny", "up"]),
    (weights_too_large, ["large"]),
    (small_difference, ["left", "right", "difference"]),
]


def lowered(model: onnx.ModelProto, batch: int | None = None) -> Lowered:
    return lowered_model(model, IMAGES, batch, "constructed")


def passes(model: onnx.ModelProto, kept: Iterable[str]) -> bool:
    reference = function_from_model(model, None)(IMAGES)
    return compare_lowered("test", reference, fp16_model(model, list(kept)), IMAGES, None).passed


@pytest.mark.parametrize(("build", "expected"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_exactly_the_layers_that_need_it_stay(build: Callable[[], onnx.ModelProto], expected: list[str]) -> None:
    model = build()
    found = lowered(model)
    assert list(found.fp32_layers) == expected
    assert found.comparison.passed
    assert found.layers == len(model.graph.node)
    assert passes(model, expected)
    if "weights" not in build.__name__:
        assert not any(passes(model, [name for name in expected if name != left_out]) for left_out in expected)
    assert found.to_dict()["fp32_layers"] == expected
    assert found.to_dict()["passed"] is True


@pytest.mark.parametrize(("build", "expected"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_one_sample_at_a_time_and_from_a_file_it_is_the_same(
    build: Callable[[], onnx.ModelProto], expected: list[str], tmp_path: Path
) -> None:
    onnx.save(build(), tmp_path / "graph.onnx")
    assert list(fp32_layers_for(tmp_path / "graph.onnx", IMAGES, 1)) == expected
    assert list(fp32_layers_for(str(tmp_path / "graph.onnx"), IMAGES)) == expected


def test_the_graph_that_comes_out_is_fp16_but_for_those_layers() -> None:
    found = lowered(large_and_back())
    types = {tensor.name: tensor.data_type for tensor in found.model.graph.initializer}
    assert types == {
        "v_fp16": TensorProto.FLOAT16,
        "w": TensorProto.FLOAT,
        "s": TensorProto.FLOAT,
    }


def test_a_layer_that_is_not_needed_goes_back() -> None:
    # The tensor is out of range, and clipping makes infinity what it has to be.
    model = graph(
        node("Conv", "large", "image w", "a"), node("Clip", "clip", "a low high", "b"),
        node("Mul", "half", "b s", "feature"),
        w=kernel(6e4), low=0.0, high=6.0, s=0.5,
    )  # fmt: skip
    assert lowered(model).fp32_layers == ()


def test_where_nothing_survives_everything_stays() -> None:
    model = graph(
        node("Conv", "one", "image w", "a"), node("Relu", "two", "a", "b"), node("Neg", "three", "b", "feature"),
        w=kernel(6e4),
    )  # fmt: skip
    found = lowered(model)
    assert found.fp32_layers == layers_of(model) == ("one", "two", "three")
    assert found.model == model
    assert (found.comparison.passed, found.comparison.max_abs) == (True, 0.0)


def test_a_long_graph_takes_more_than_one_step() -> None:
    # Each subtraction needs itself and the two before it; nothing of it is out of range.
    nodes, tensor = [], "image"
    for step in range(5):
        nodes += [
            node("Add", f"left{step}", f"{tensor} k", f"l{step}"),
            node("Mul", f"scaled{step}", f"{tensor} s", f"m{step}"),
            node("Add", f"right{step}", f"m{step} k", f"r{step}"),
            node("Sub", f"minus{step}", f"l{step} r{step}", f"o{step}"),
            node("Mul", f"relax{step}", f"o{step} t", "feature" if step == 4 else f"x{step}"),
        ]
        tensor = f"x{step}"
    model = graph(*nodes, k=2000.0, s=0.5, t=2.0)
    found = lowered(model)
    needed = {f"{name}{step}" for step in range(5) for name in ("left", "right", "minus")}
    assert found.comparison.passed
    assert set(found.fp32_layers) == needed
    assert found.fp32_layers == lowered(model).fp32_layers


def test_a_network_that_gives_nan_by_itself_is_refused() -> None:
    model = graph(node("Log", "log", "image", "a"), node("Sqrt", "root", "a", "feature"))
    with pytest.raises(
        EngineError, match="constructed gives NaN or infinity for its golden inputs in FP32 already"
    ):
        lowered(model)


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_a_real_network_keeps_nothing(small_bundle: Bundle, part: str) -> None:
    assert fp32_layers_for(small_bundle.onnx_path(part), golden_input(small_bundle, part)) == ()


def test_a_real_network_keeps_what_was_scaled_out_of_range(small_bundle: Bundle) -> None:
    """One convolution gives 1e5 times as much, and the next one takes it back: the network stays what it is."""
    model = onnx.load(small_bundle.onnx_path("head"))
    images = golden_input(small_bundle, "head")
    before = function_from_model(model, None)(images)
    scale(model, "/reduce/channel/conv/Conv", 1e5, with_bias=True)
    scale(model, "/reduce/spatial/conv/Conv", 1e-5, with_bias=False)
    np.testing.assert_allclose(function_from_model(model, None)(images), before, atol=1e-4)
    found = lowered_model(model, images, None, "head")
    assert found.fp32_layers == (
        "/reduce/channel/conv/Conv",
        "/reduce/channel/relu/Relu",
        "/reduce/spatial/conv/Conv",
    )
    assert found.layers == len(model.graph.node)


def scale(model: onnx.ModelProto, layer: str, factor: float, with_bias: bool) -> None:
    one = next(one for one in model.graph.node if one.name == layer)
    for tensor in model.graph.initializer:
        if tensor.name in one.input[1 : 3 if with_bias else 2]:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def test_rounding_happens_where_onnx_runtime_leaves_it_out() -> None:
    model = large_and_back()
    typed = fp16_model(model)
    assert np.isfinite(function_from_model(typed, None)(IMAGES)).all(), "ONNX Runtime computes FP16 now: simplify"
    assert np.isinf(function_from_model(simulated_model(typed), None)(IMAGES)).any()


def test_simulated_numbers_are_those_of_fp16() -> None:
    typed = fp16_model(benign())
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    sample = IMAGES[:1]
    values = Tensors(simulated_model(typed)).of(sample)
    half = sample.astype(np.float16)
    a = np.einsum("oi,nihw->nohw", weights["v_fp16"][..., 0, 0].astype(np.float32), half.astype(np.float32))
    np.testing.assert_array_equal(values["image_fp16"], half.astype(np.float32))
    np.testing.assert_array_equal(values["a"], a.astype(np.float16).astype(np.float32))
    for name in ("a", "b", "feature"):
        np.testing.assert_array_equal(values[name], values[name].astype(np.float16).astype(np.float32))


def test_a_graph_without_fp16_is_simulated_as_it_is() -> None:
    model = benign()
    np.testing.assert_array_equal(
        function_from_model(simulated_model(model), None)(IMAGES), function_from_model(model, None)(IMAGES)
    )


def test_only_the_tensors_that_are_wanted_are_computed() -> None:
    assert set(Tensors(benign()).of(IMAGES[:1])) == {"image", "a", "b", "feature"}
    assert set(Tensors(benign(), only=["b"]).of(IMAGES[:1])) == {"image", "b", "feature"}
