"""The graphs export writes: names, shapes, opset, and what TensorRT's oldest parser needs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bottlekit.errors import EquivalenceError, UsageError
from bottlekit.export.graphs import (
    check_model,
    check_opset,
    fold_identities,
    initialisers_from_constants,
    onnx_from_module,
    write_onnx,
)
from bottlekit.export.sessions import graph_from_file


class TwinNorms(nn.Module):
    """Bit-identical convolutions and fresh batch norms, dropout, ReLU6: what the exporter plays with."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second.weight.data.copy_(torch.ones(4, 4, 3, 3))
        self.third = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.third.weight.data.copy_(torch.ones(4, 4, 3, 3))
        self.second_norm = nn.BatchNorm2d(4)
        self.clip = nn.ReLU6()
        self.dropout = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.clip(self.first_norm(self.first(image)))
        x = self.clip(self.second_norm(self.third(self.second(x))))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return TwinNorms()


def _export(module: nn.Module, dynamic_batch: bool = True, batch: int = 1) -> onnx.ModelProto:
    return onnx_from_module(module, torch.randn(batch, 3, 8, 8), "image", "logits", dynamic_batch)


def _dims(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_names_shapes_and_opset(module: nn.Module, tmp_path: Path) -> None:
    model = _export(module)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert _dims(model.graph.input[0]) == ["n", 3, 8, 8]
    assert _dims(model.graph.output[0]) == ["n", 5]
    assert write_onnx(model, tmp_path / "full.onnx") == 13
    read = onnx.load(tmp_path / "full.onnx")
    assert [(entry.domain, entry.version) for entry in read.opset_import] == [("", 13)]
    assert [path.name for path in tmp_path.iterdir()] == ["full.onnx"]


def test_a_fixed_batch_is_fixed_in_input_and_output(module: nn.Module) -> None:
    model = _export(module, dynamic_batch=False, batch=3)
    assert _dims(model.graph.input[0]) == [3, 3, 8, 8]
    assert _dims(model.graph.output[0]) == [3, 5]


def test_the_graph_computes_what_the_module_computes_in_evaluation_mode(module: nn.Module, tmp_path: Path) -> None:
    module.train()
    write_onnx(_export(module), tmp_path / "full.onnx")
    assert module.training, "the module was left in another mode"
    module.eval()
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = module(images).numpy()
    with graph_from_file(tmp_path / "full.onnx", None) as graph:
        np.testing.assert_allclose(graph(images.numpy()), expected, atol=1e-6)
    with graph_from_file(tmp_path / "full.onnx", 2) as graph:
        np.testing.assert_allclose(graph(images.numpy()), expected, atol=1e-6)


def test_no_identity_and_no_constant_is_left(module: nn.Module) -> None:
    operators = {node.op_type for node in _export(module).graph.node}
    assert operators == {"Conv", "Clip", "GlobalAveragePool", "Flatten", "Gemm"}


def test_a_graph_is_the_same_bytes_every_time(module: nn.Module) -> None:
    assert _export(module).SerializeToString() == _export(module).SerializeToString()


def test_a_traced_module_exports(module: nn.Module) -> None:
    traced = torch.fx.symbolic_trace(module.eval())
    model = onnx_from_module(traced, torch.randn(1, 3, 8, 8), "image", "logits", dynamic_batch=True)
    assert _dims(model.graph.output[0]) == ["n", 5]


def test_what_opset_13_cannot_say_is_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"opset 13 .*\(1, 3, 8, 8\).*adaptive_avg_pool2d") as caught:
        _export(nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(1)))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def _graph(nodes: list[onnx.NodeProto], initialisers: list[onnx.TensorProto], opset: int = 13) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["n", 4, 8, 8])],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def _weights(name: str = "w", dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones((4, 3, 1, 1), dtype), name)


def test_identities_of_initialisers_are_folded_through_chains_and_others_stay() -> None:
    model = _graph(
        [
            helper.make_node("Identity", ["w"], ["w2"]),
            helper.make_node("Identity", ["w2"], ["w3"]),
            helper.make_node("Identity", ["image"], ["same"]),
            helper.make_node("Conv", ["same", "w3"], ["feature"]),
        ],
        [_weights()],
    )
    fold_identities(model.graph)
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [
        ("Identity", ["image"]),
        ("Conv", ["same", "w"]),
    ]
    check_model(model, "image", "feature", dynamic_batch=True)


def test_constants_become_initialisers() -> None:
    model = _graph(
        [
            helper.make_node("Constant", [], ["w"], value=_weights("")),
            helper.make_node("Conv", ["image", "w"], ["feature"]),
        ],
        [],
    )
    initialisers_from_constants(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), np.ones((4, 3, 1, 1)))
    check_model(model, "image", "feature", dynamic_batch=True)


def test_check_model_accepts_a_good_graph() -> None:
    check_model(
        _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()]), "image", "feature", True
    )


def test_check_model_refuses_another_opset() -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()], opset=18)
    with pytest.raises(EquivalenceError, match=r"'ai\.onnx': 18"):
        check_model(model, "image", "feature", True)


def test_check_opset_refuses_operators_of_other_makers() -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(EquivalenceError, match=r"com\.microsoft"):
        check_opset(model, "a graph")


@pytest.mark.parametrize(("input_name", "output_name"), [("picture", "feature"), ("image", "logits")])
def test_check_model_refuses_other_names(input_name: str, output_name: str) -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()])
    with pytest.raises(EquivalenceError, match=r"picture|logits"):
        check_model(model, input_name, output_name, True)


def test_check_model_refuses_another_batch_dimension() -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()])
    with pytest.raises(EquivalenceError, match="batch dimension of image is n, not fixed"):
        check_model(model, "image", "feature", False)


def test_check_model_refuses_computed_weights() -> None:
    model = _graph(
        [
            helper.make_node("Relu", ["w"], ["computed"]),
            helper.make_node("Conv", ["image", "computed"], ["feature"]),
        ],
        [_weights()],
    )
    with pytest.raises(EquivalenceError, match="computed"):
        check_model(model, "image", "feature", True)


def test_check_model_refuses_half_precision_edges() -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights(dtype=np.float16)])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(EquivalenceError, match="FLOAT16"):
        check_model(model, "image", "feature", True)


def test_check_model_refuses_a_graph_that_is_not_valid() -> None:
    with pytest.raises(EquivalenceError, match="not valid ONNX"):
        check_model(_graph([helper.make_node("Conv", ["image", "w"], ["feature"])], []), "image", "feature", True)


def test_write_refuses_another_opset_and_leaves_nothing(tmp_path: Path) -> None:
    model = _graph([helper.make_node("Conv", ["image", "w"], ["feature"])], [_weights()], opset=17)
    with pytest.raises(EquivalenceError, match=r"head\.onnx.*17"):
        write_onnx(model, tmp_path / "head.onnx")
    assert list(tmp_path.iterdir()) == []
