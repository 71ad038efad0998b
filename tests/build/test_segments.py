"""Cutting ONNX into layers, profiling them, and planning from the profile."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bottlekit.build.layer_profile import layers_from_classifier
from bottlekit.build.segments import segmented_from_file, segmented_from_onnx
from bottlekit.device.ort_runner import import_onnxruntime
from bottlekit.errors import BundleError, EngineError, ReportError, UsageError
from bottlekit.planning import LINKS
from bottlekit.planning.layers import group_table, problem_from_layers, schedule_document
from bottlekit.planning.schedule import Bounds


def residual_net() -> onnx.ModelProto:
    """conv1 relu | conv2 | conv3 + shortcut | pool flatten | fc; an Identity gives two layers the same weights."""
    generator = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32) / 4, name)

    nodes = [
        helper.make_node("Identity", ["w2_shared"], ["w2"]),
        helper.make_node("Conv", ["image", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="conv3", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w3"], ["logits"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [weight("w1", 4, 3, 3, 3), weight("w2_shared", 4, 4, 3, 3), weight("w3", 4, 5)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(residual_net(), str(path))
    return path


def test_layers_and_what_crosses_between_them() -> None:
    graph = segmented_from_onnx(residual_net())
    assert [(layer.name, layer.kind) for layer in graph.layers] == [
        ("conv1", "Conv"),
        ("conv2", "Conv"),
        ("conv3", "Conv"),
        ("pool", "GlobalAveragePool"),
        ("fc", "Gemm"),
    ]
    assert {one.name: (one.source, one.readers) for one in graph.tensors} == {
        "image": (0, (0,)),
        "b": (1, (1, 2)),
        "c": (2, (2,)),
        "e": (3, (3,)),
        "g": (4, (4,)),
        "logits": (5, (5,)),
    }


def test_a_cut_that_more_than_one_tensor_crosses_names_them() -> None:
    graph = segmented_from_onnx(residual_net())
    assert graph.only_crossing(1) == "b"
    with pytest.raises(UsageError, match=r"2 tensors cross the boundary before layer 2 \(b, c\)"):
        graph.only_crossing(2)


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 3), (1, 2, 3, 4), (3,)])
def test_segments_one_after_another_are_the_network(cuts: tuple[int, ...]) -> None:
    graph = segmented_from_onnx(residual_net())
    runtime = import_onnxruntime()

    def run(model: onnx.ModelProto, values: dict[str, Any]) -> None:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        fed = {one.name: values[one.name] for one in session.get_inputs()}
        values.update(zip(names, session.run(names, fed), strict=True))

    image = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)
    whole, parts = {"image": image}, {"image": image}
    run(residual_net(), whole)
    for first, end in zip((0, *cuts), (*cuts, 5), strict=True):
        run(graph.segment(first, end - 1), parts)
    np.testing.assert_allclose(parts["logits"], whole["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (2, 1), (0, 5)])
def test_segments_that_do_not_exist(first: int, last: int) -> None:
    with pytest.raises(UsageError, match=r"they are 0\.\.4"):
        segmented_from_onnx(residual_net()).segment(first, last)


def test_control_flow_is_refused_with_its_node() -> None:
    model = residual_net()
    branch = helper.make_graph(
        [helper.make_node("Relu", ["e"], ["h"])], "then", [], [helper.make_tensor_value_info("h", 1, None)]
    )
    choose = helper.make_node("If", ["yes"], ["z"], name="chooser", then_branch=branch, else_branch=branch)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(choose)
    with pytest.raises(BundleError, match="the node 'chooser' is a If, and control flow"):
        segmented_from_onnx(model)


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(BundleError, match="cannot be read as ONNX"):
        segmented_from_file(path)
    with pytest.raises(BundleError, match="cannot be read as ONNX"):
        layers_from_classifier(tmp_path / "absent.onnx")
    model = residual_net()
    model.graph.input.append(helper.make_tensor_value_info("more", 1, [1]))
    with pytest.raises(BundleError, match=r"has 2 inputs \(image, more\)"):
        segmented_from_onnx(model)
    model = residual_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    onnx.save(model, str(path))
    with pytest.raises(BundleError, match="no fixed shape"):
        layers_from_classifier(path)


# Profiling


@pytest.mark.parametrize("sample", [False, True])
def test_a_profile_measures_groups_and_plans(classifier: Path, sample: bool) -> None:
    profile = layers_from_classifier(classifier, sample=sample, samples=5, codec="png", threads=1)
    profile = json.loads(json.dumps(profile, allow_nan=False))
    assert len(profile["groups"]) == (12 if sample else 15)
    assert all(len(group["samples_ms"]) == 5 for group in profile["groups"])
    sizes = {one["name"]: (one["raw_bytes"], one["wire_bytes"]) for one in profile["tensors"]}
    assert sizes["image"][0] == 3 * 8 * 8 * 4
    assert sizes["b"][1] < sizes["b"][0]
    assert sizes["logits"] == (20, 20)
    problem, guessed = problem_from_layers(
        profile, profile, LINKS["wifi"], "latency", Bounds(), device_power_mw=1000.0
    )
    assert guessed == {"device": 3 if sample else 0, "server": 3 if sample else 0}
    document = schedule_document(problem, "jointdnn", profile, {})
    costs = [other["latency_ms"] for other in document["planners"].values() if other]
    assert document["schedule"]["latency_ms"] == min(costs)


def test_too_few_samples_are_refused(classifier: Path) -> None:
    with pytest.raises(UsageError, match="--samples must be at least 5"):
        layers_from_classifier(classifier, samples=4)


def test_nothing_is_timed_that_is_not_the_same(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottlekit.build.layer_profile.TOLERANCE", -1.0)
    with pytest.raises(EngineError, match="nothing is timed that is not the same"):
        layers_from_classifier(classifier, samples=5)


def made_up(times: dict[tuple[int, int], float], count: int = 3) -> dict[str, Any]:
    return {
        "format": "bottlekit-layers",
        "version": 1,
        "model": {"name": "net", "sha256": "a" * 64},
        "codec": "none",
        "layers": [{"name": str(number), "kind": "Conv"} for number in range(count)],
        "tensors": [
            {"name": f"t{at}", "source": at, "readers": [at], "wire_bytes": 100} for at in range(count + 1)
        ],
        "groups": [
            {"first": first, "last": last, "summary": {"p50_ms": ms}} for (first, last), ms in times.items()
        ],
    }


SAMPLED = {(0, 0): 2.0, (1, 1): 4.0, (2, 2): 6.0, (3, 3): 8.0, (0, 1): 3.0, (0, 2): 6.0, (0, 3): 20.0,
           (1, 3): 9.0, (2, 3): 14.0}  # fmt: skip


def test_groups_between_are_interpolated() -> None:
    table, guessed = group_table(made_up(SAMPLED, 4), "p.json")
    # Layers 1..2 take 10 ms alone; 0..2 takes half of its sum, 1..3 half of its.
    assert table[1, 2] == pytest.approx(10.0 * (0.5 + 0.5) / 2)
    assert guessed == 1
    assert table[0, 3] == 20.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["groups"][0]["summary"].update(p50_ms=float("nan")), r"p50_ms of the layers 0\.\.0 is nan"),
        (lambda p: p["groups"][0]["summary"].update(p50_ms=0), "p50_ms of the layers 0..0 is 0"),
        (lambda p: p["groups"].pop(0), "layer 0 was not measured alone"),
        (lambda p: p["groups"][0].update(last=9), r"a group of the layers 0\.\.9, there are 0\.\.3"),
        (lambda p: p.update(groups=[]), "p.json has no groups"),
        (lambda p: p["tensors"][0].pop("wire_bytes"), "a tensor is damaged"),
        (lambda p: p.update(format="bottlekit-profile"), "p.json is no layer profile"),
    ],
)
def test_a_damaged_profile_is_refused(change: Any, message: str) -> None:
    profile = made_up(SAMPLED, 4)
    change(profile)
    with pytest.raises(ReportError, match=message):
        problem_from_layers(
            profile, profile, LINKS["wifi"], "latency", Bounds(), device_power_mw=1.0, where="p.json"
        )


def test_profiles_of_two_networks_do_not_go_together() -> None:
    device, server = made_up(SAMPLED, 4), copy.deepcopy(made_up(SAMPLED, 4))
    server["model"]["sha256"] = "b" * 64
    with pytest.raises(ReportError, match="profiles of two different networks"):
        problem_from_layers(device, server, LINKS["wifi"], "latency", Bounds(), device_power_mw=1.0)
