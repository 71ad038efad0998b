"""Matrix products become convolutions that compute the same; other forms stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.device.golden import golden_input
from bottlekit.export.products import without_gemm
from bottlekit.export.sessions import function_from_model

RANDOM = np.random.default_rng(0)
FEATURE = RANDOM.standard_normal((5, 6), dtype=np.float32)


def gemm(bias: npt.NDArray[np.float32] | None = None, **attributes: float) -> onnx.ModelProto:
    """(n, 6) -> Gemm -> (n, 4)."""
    shape = (4, 6) if attributes.get("transB") else (6, 4)
    tensors = {"w": RANDOM.standard_normal(shape, dtype=np.float32), **({} if bias is None else {"b": bias})}
    body = helper.make_graph(
        [helper.make_node("Gemm", ["feature", *tensors], ["logits"], name="fc", **attributes)],
        "product",
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, np.float32([1, 2, 3, 4]), np.float32([7]), np.float32([[1, 2, 3, 4]])])
@pytest.mark.parametrize("plain", [{}, {"alpha": 1.0, "beta": 1.0, "transA": 0}])
def test_a_product_is_a_convolution(
    transposed: int, bias: npt.NDArray[np.float32] | None, plain: dict[str, float]
) -> None:
    model = gemm(bias, transB=transposed, **plain)
    changed = without_gemm(model)
    assert [node.op_type for node in changed.graph.node] == ["Unsqueeze", "Conv", "Flatten"]
    assert changed.graph.node[1].name == "fc"
    assert "w" not in {tensor.name for tensor in changed.graph.initializer}
    for batch in (1, None):
        np.testing.assert_allclose(
            function_from_model(changed, batch)(FEATURE), function_from_model(model, batch)(FEATURE), atol=1e-5
        )


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}])
def test_products_with_factors_stay(attributes: dict[str, float]) -> None:
    model = gemm(np.float32([1, 2, 3, 4]), **attributes)
    assert [node.op_type for node in without_gemm(model).graph.node] == ["Gemm"]


@pytest.mark.parametrize("part", PARTS)
def test_a_real_network_computes_the_same(small_bundle: Bundle, part: str) -> None:
    model = onnx.load(small_bundle.onnx_path(part))
    before = model.SerializeToString()
    changed = without_gemm(model)
    assert model.SerializeToString() == before
    assert "Gemm" not in {node.op_type for node in changed.graph.node}
    inputs = golden_input(small_bundle, part)
    reference = function_from_model(model, None)(inputs)
    np.testing.assert_allclose(
        function_from_model(changed, None)(inputs), reference, atol=1e-5 * float(np.abs(reference).max())
    )
