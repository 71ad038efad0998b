"""The kernels counted in an ONNX graph, on graphs whose costs are known by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.build.layers import layers_from_file, layers_from_onnx, unknown_operators
from bottlekit.device.bundle import fleet_from_path
from bottlekit.errors import BundleError

FLEET = Path(__file__).parents[1] / "data/tiny_fleet"


def graph(
    nodes: list[Any], weights: dict[str, tuple[int, ...]], out: str, dims: tuple[Any, ...] = ("n", 4, 8, 8)
) -> Any:
    values = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            values,
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )


def conv(name: str, source: str, **options: Any) -> Any:
    return helper.make_node("Conv", [source, f"{name}_w"], [name], name=name, **options)


SAME: Any = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def test_a_convolution_counts_two_operations_a_multiply_accumulate() -> None:
    (layer,) = layers_from_onnx(graph([conv("c", "x", **SAME)], {"c_w": (6, 4, 3, 3)}, "c"))
    assert layer.flops == 2 * (6 * 8 * 8) * (4 * 3 * 3)
    assert (layer.read, layer.written, layer.weights) == (4 * 64, 6 * 64, 6 * 4 * 9)
    assert (layer.name, layer.operator, layer.known, layer.winograd) == ("c", "Conv", True, True)


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({**SAME, "strides": [2, 2]}, (6, 4, 3, 3)),
        ({**SAME, "dilations": [2, 2], "pads": [2, 2, 2, 2]}, (6, 4, 3, 3)),
        ({**SAME, "group": 4}, (4, 1, 3, 3)),
        ({"kernel_shape": [1, 1]}, (6, 4, 1, 1)),
    ],
)
def test_winograd_is_for_3_by_3_with_stride_1_over_all_channels(options: Any, weight: tuple[int, ...]) -> None:
    (layer,) = layers_from_onnx(graph([conv("c", "x", **options)], {"c_w": weight}, "c"))
    assert not layer.winograd
    assert layer.flops == 2 * layer.written * np.prod(weight[1:])


def test_a_shortcut_is_fused_into_the_convolution_before_it() -> None:
    nodes = [
        conv("a", "x", **SAME),
        helper.make_node("Relu", ["a"], ["r"]),
        conv("b", "r", **SAME),
        helper.make_node("Add", ["b", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["t"]),
    ]
    layers = layers_from_onnx(graph(nodes, {"a_w": (4, 4, 3, 3), "b_w": (4, 4, 3, 3)}, "t"))
    assert [layer.operator for layer in layers] == ["Conv+Relu", "Conv+Add+Relu"]
    # The second reads what the first wrote, and the shortcut.
    assert [layer.read for layer in layers] == [256, 512]
    assert [layer.written for layer in layers] == [256, 256]


def test_what_somebody_else_reads_is_written() -> None:
    nodes = [
        conv("a", "x", **SAME),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "a"], ["s"]),
    ]
    layers = layers_from_onnx(graph(nodes, {"a_w": (4, 4, 3, 3)}, "s"))
    # Relu cannot be fused, since the addition reads what is before it, too; the addition can be, into Relu.
    assert [layer.operator for layer in layers] == ["Conv", "Relu+Add"]
    assert layers[1].read == 512


def test_an_output_of_the_graph_is_not_fused_away() -> None:
    model = graph([conv("a", "x", **SAME), helper.make_node("Relu", ["a"], ["r"])], {"a_w": (4, 4, 3, 3)}, "r")
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    assert [layer.operator for layer in layers_from_onnx(model)] == ["Conv", "Relu"]


def test_renamed_elements_need_no_kernel_and_gemm_counts() -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    layers = layers_from_onnx(graph(nodes, {"w": (10, 4), "b": (10,)}, "y"))
    assert [layer.operator for layer in layers] == ["GlobalAveragePool", "Gemm"]
    assert layers[1].flops == 2 * 10 * 4
    assert (layers[1].read, layers[1].written, layers[1].weights) == (4, 10, 50)


def test_an_operator_of_unknown_cost_is_named_and_counts_its_elements() -> None:
    layers = layers_from_onnx(graph([helper.make_node("Hardmax", ["x"], ["h"])], {}, "h"))
    assert unknown_operators(layers) == ("Hardmax",)
    assert (layers[0].flops, layers[0].read, layers[0].written) == (0.0, 256, 256)


def test_a_shape_that_cannot_be_inferred_is_named() -> None:
    model = graph([helper.make_node("Mystery", ["x"], ["m"], domain="com.example", name="odd")], {}, "m")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(BundleError, match="the shape of 'm', which odd reads or writes, cannot be inferred"):
        layers_from_onnx(model)


def test_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.onnx"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match=r"head\.onnx cannot be read as ONNX"):
        layers_from_file(path)


def test_the_halves_of_a_bundle_count_what_the_whole_counts() -> None:
    for bundle in fleet_from_path(str(FLEET)):
        model = onnx.load(bundle.onnx_path("full"))
        halves = [layer for part in ("head", "tail") for layer in layers_from_file(Path(bundle.onnx_path(part)))]
        assert sum(layer.flops for layer in halves) == sum(layer.flops for layer in layers_from_onnx(model))
