"""Q/DQ written with other operators computes the same, to the bit where the scale is a power of two."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.errors import EngineError
from bottlekit.export.pairs import pairs_of, without_pairs
from bottlekit.export.sessions import function_from_model


def low_bit_model(step: float = 0.25, zero: int = 0, per_channel_input: bool = False) -> onnx.ModelProto:
    """image --Q--DQ--> Conv <--DQ--Q-- weights, as a hybrid bundle's head has it."""
    dice = np.random.default_rng(0)
    weights = dice.normal(size=(4, 3, 3, 3)).astype(np.float32)
    scales = (np.abs(weights).reshape(4, -1).max(axis=1) / 7).astype(np.float32)
    input_scale = np.full(3 if per_channel_input else 1, step, np.float32).reshape(-1 if per_channel_input else ())
    zeros = np.zeros(4, np.int8)
    constants = {
        "w": weights,
        "w_scale": scales,
        "w_zero": zeros,
        "x_scale": input_scale,
        "x_zero": np.full(input_scale.shape, zero, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "x_scale", "x_zero"], ["x_q"], axis=1),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x"], axis=1),
        helper.make_node("QuantizeLinear", ["w", "w_scale", "w_zero"], ["w_q"], axis=0),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w_dq"], axis=0),
        helper.make_node("Conv", ["x", "w_dq"], ["feature"], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "low bit",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 5, 5])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, [1, 4, 5, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_without_pairs_the_graph_computes_the_same() -> None:
    model = low_bit_model()
    plain = without_pairs(model)
    assert (pairs_of(model), pairs_of(plain)) == (2, 0)
    assert {node.op_type for node in plain.graph.node} == {"Mul", "Round", "Clip", "Conv"}
    assert len({node.name for node in plain.graph.node if node.name}) == 4
    # Beyond the range, on half steps, and anything between.
    images = np.random.default_rng(1).normal(scale=9, size=(6, 1, 3, 5, 5)).astype(np.float32)
    images[1] = np.arange(75).reshape(1, 3, 5, 5) * 0.125 - 4
    images[2] *= 10
    for image in images:
        ours, theirs = (function_from_model(one, 1)(image) for one in (plain, model))
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert pairs_of(model) == 2


def test_weights_become_what_their_pair_makes_of_them() -> None:
    plain = without_pairs(low_bit_model())
    names = {tensor.name for tensor in plain.graph.initializer}
    assert "w" not in names
    (conv,) = [node for node in plain.graph.node if node.op_type == "Conv"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}[conv.input[1]]
    assert all(len(np.unique(filter_)) <= 15 for filter_ in held)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zero": 3}, "'image' is not quantised to symmetric INT8"),
        ({"per_channel_input": True}, "'image' is not quantised to symmetric INT8"),
    ],
)
def test_other_pairs_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        without_pairs(low_bit_model(**options))  # type: ignore[arg-type]


def test_half_a_pair_is_refused() -> None:
    model = low_bit_model()
    del model.graph.node[0]
    with pytest.raises(EngineError, match="'x' is dequantised and was never quantised"):
        without_pairs(model)
