"""Each rule on a graph that breaks it and on its repaired twin; and what bottlekit exports passes everywhere."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.export.lint import RULES, ParserFacts, known_operators, lint

TX2 = ParserFacts(tensorrt=(8, 2), opset_ceiling=13, uint8_edges=False)
GTX1080TI = ParserFacts(tensorrt=(8, 6), opset_ceiling=17)
ORIN = ParserFacts(tensorrt=(10, 3), opset_ceiling=20)
TODAY = ParserFacts(tensorrt=(11, 4), opset_ceiling=25)
ONNX_RUNTIME = ParserFacts(tensorrt=None, opset_ceiling=15)
ALL = (TX2, GTX1080TI, ORIN, TODAY, ONNX_RUNTIME)


def graph(nodes, initialisers=(), shape=(1, 3, 8, 8), kind=TensorProto.FLOAT, opset=13, out="y", out_kind=None):
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info(out, kind if out_kind is None else out_kind, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in initialisers]
    body = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])


def conv(weight_input):
    return helper.make_node("Conv", ["x", weight_input], ["y"])


WEIGHT = ("w", np.ones((4, 3, 1, 1), np.float32))
AXES = ("axes", np.array([2, 3], np.int64))
SCALE = ("s", np.float32(0.1))


def quantize(zero):
    inputs = ["x", "s"] if zero is None else ["x", "s", "z"]
    tensors = [SCALE] if zero is None else [SCALE, ("z", np.int8(zero))]
    return graph([helper.make_node("QuantizeLinear", inputs, ["y"])], tensors, out_kind=TensorProto.INT8)


def clip(low):
    bounds = [("low", np.float32(0)), ("high", np.float32(6))]
    nodes = [helper.make_node("Identity", ["low"], ["computed"])] if low == "computed" else []
    return graph([*nodes, helper.make_node("Clip", ["x", low, "high"], ["y"])], bounds)


def int8_conv(kernel, bias):
    tensors = [WEIGHT, ("b", np.ones(4, np.float32)), SCALE, ("z", np.int8(0))]
    nodes = []
    for name in ("w", "b"):
        nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"quantized_{name}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"quantized_{name}", "s", "z"], [f"dequantized_{name}"]))
    nodes.append(helper.make_node("Conv", ["x", kernel, bias.replace("bias", "b")], ["y"]))
    return graph(nodes, tensors)


def external():
    model = graph([conv("w")], [WEIGHT])
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return model


RELU = [helper.make_node("Relu", ["x"], ["y"])]
TO_UINT8 = [helper.make_node("Cast", ["x"], ["u"], to=TensorProto.UINT8)]
BACK = [helper.make_node("Cast", ["u"], ["y"], to=TensorProto.FLOAT)]

CASES = [
    ("opset-ceiling", TX2, graph(RELU, opset=17), graph(RELU, opset=13)),
    ("opset-ceiling", GTX1080TI, graph(RELU, opset=18), graph(RELU, opset=17)),
    (
        "unknown-operator",
        TX2,
        graph([helper.make_node("HardSwish", ["x"], ["y"])], opset=13),
        graph([helper.make_node("HardSigmoid", ["x"], ["y"])]),
    ),
    (
        "unknown-operator",
        TODAY,
        graph([helper.make_node("QuantizeTile", ["x"], ["y"], domain="my.domain")]),
        graph(RELU),
    ),
    (
        "reduce-axes-input",
        GTX1080TI,
        graph([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], [AXES], opset=17),
        graph([helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3])], opset=17),
    ),
    ("uint8", TX2, graph(RELU, kind=TensorProto.UINT8), graph(RELU)),
    ("uint8", TODAY, graph(TO_UINT8 + BACK), graph(RELU)),
    (
        "uint8",
        TX2,
        graph(TO_UINT8, out="u", out_kind=TensorProto.UINT8),
        graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32)], out_kind=TensorProto.INT32),
    ),
    (
        "cast-type",
        TX2,
        graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)], out_kind=TensorProto.INT64),
        graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], out_kind=TensorProto.FLOAT16),
    ),
    (
        "fp16-initialiser",
        TX2,
        graph([conv("w")], [("w", WEIGHT[1].astype(np.float16))], kind=TensorProto.FLOAT16),
        graph([conv("w")], [WEIGHT]),
    ),
    (
        "conv-weights",
        GTX1080TI,
        graph([helper.make_node("Identity", ["w"], ["i"]), conv("i")], [WEIGHT]),
        graph([conv("w")], [WEIGHT]),
    ),
    ("conv-weights", TX2, int8_conv("w", "dequantized_bias"), int8_conv("dequantized_w", "b")),
    ("clip-bounds", TX2, clip("computed"), clip("low")),
    ("quantize-zero-point", TX2, quantize(None), quantize(0)),
    ("quantize-zero-point", TX2, quantize(3), quantize(0)),
    (
        "dynamic-without-profile",
        ParserFacts((8, 2), 13, has_profile=False),
        graph(RELU, shape=("n", 3, 8, 8)),
        graph(RELU),
    ),
    ("external-data", TODAY, external(), graph([conv("w")], [WEIGHT])),
]


@pytest.mark.parametrize(("rule", "facts", "broken", "repaired"), CASES)
def test_a_rule_finds_the_broken_graph_and_only_that(rule, facts, broken, repaired):
    found = lint(broken, facts)
    assert {finding.rule for finding in found} == {rule}
    assert all(finding.advice and finding.where for finding in found)
    assert lint(repaired, facts) == []


def test_every_rule_has_a_case():
    rules = {finding.rule for _, facts, broken, _ in CASES for finding in lint(broken, facts)}
    assert rules == {rule for rule, *_ in CASES}
    assert all(any(list(rule(broken, facts)) for _, facts, broken, _ in CASES) for rule in RULES)


def test_what_old_parsers_refuse_new_ones_take():
    for rule, facts, broken, _ in CASES:
        if facts is TX2 and rule not in ("uint8", "unknown-operator"):
            assert lint(broken, TODAY) == [], rule


def test_onnx_runtime_takes_what_old_parsers_refuse():
    found = {finding.rule for _, _, broken, _ in CASES for finding in lint(broken, ONNX_RUNTIME)}
    assert found == {"opset-ceiling", "external-data"}


def test_uint8_outputs_are_allowed_from_8_5():
    model = graph(TO_UINT8, out="u", out_kind=TensorProto.UINT8)
    assert lint(model, GTX1080TI) == []
    assert lint(model, TX2) != []


def test_free_dimensions_are_fine_with_a_profile():
    assert lint(graph(RELU, shape=("n", 3, 8, 8)), TX2) == []


def test_the_parsers_only_learn():
    assert known_operators((8, 2)) < known_operators((8, 6)) < known_operators((10, 0)) == known_operators((11, 4))
    assert known_operators((8, 4)) == known_operators((8, 2))


def test_a_finding_reads_as_one_line():
    (finding,) = lint(graph(RELU, opset=17), TX2)
    assert "\n" not in str(finding)
    assert "opset 17" in str(finding)


@pytest.mark.parametrize("facts", ALL)
def test_what_bottlekit_exports_passes_everywhere(small_bundle, facts):
    for part in small_bundle.parts:
        assert lint(onnx.load(small_bundle.onnx_path(part)), facts) == []
