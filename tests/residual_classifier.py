"""A small classifier as ONNX with two residual connections, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_residual_classifier(path: Path, seed: int = 1) -> Path:
    """Nine layers: conv | conv | conv + skip | conv | conv | conv + skip | pool | fc | fc, for (n, 3, 32, 32)."""
    generator = np.random.default_rng(seed)
    weights, nodes = [], []

    def weight(*shape: int) -> str:
        value = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(weights)}"))
        return str(weights[-1].name)

    def conv(source: str, name: str, channels: int, stride: int = 1, skip: str = "") -> str:
        shape = {"image": 3}.get(source, 8)
        nodes.append(
            helper.make_node(
                "Conv",
                [source, weight(channels, shape, 3, 3)],
                [f"{name}_c"],
                name=name,
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            )
        )
        if skip:
            nodes.append(helper.make_node("Add", [f"{name}_c", skip], [f"{name}_a"]))
        nodes.append(helper.make_node("Relu", [f"{name}_a" if skip else f"{name}_c"], [name]))
        return name

    one = conv("image", "one", 8, 2)
    three = conv(conv(one, "two", 8), "three", 8, skip=one)
    four = conv(three, "four", 8, 2)
    six = conv(conv(four, "five", 8), "six", 8, skip=four)
    nodes += [
        helper.make_node("GlobalAveragePool", [six], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", weight(8, 16)], ["hidden"], name="fc1"),
        helper.make_node("Gemm", ["hidden", weight(16, 10)], ["logits"], name="fc2"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
