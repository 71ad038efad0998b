"""A hybrid network from training to two processes' worth of socket: the graphs, the bundle, the decisions."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.early_exit import ComputedHead, EarlyExit, offload_to_server
from bottlekit.device.exit_rules import entropy, first_sure, leaves_early
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.server import server_from_fleet
from bottlekit.errors import EquivalenceError, UnknownNameError, UsageError
from bottlekit.export.equivalence import require
from bottlekit.export.hybrid import bundle_from_hybrid, compare_rounding, held_out_images, write_hybrid_graphs
from bottlekit.models.hybrid.checkpoint import load_hybrid_checkpoint
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec, ModelSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import in_a_thread


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "net.safetensors"
    data = dataset_from_name("digits", input_size=16)
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=3e-3, optimizer="adamw")
    train_backbone(path, "cifar_resnet8", data, recipe, quiet=True)
    return path


@pytest.fixture(scope="module", params=[1, 4], ids=["binary", "4bit"])
def trained(request: pytest.FixtureRequest, source: Path) -> Path:
    """A checkpoint in which some images leave and some stay."""
    path = source.parent / f"hybrid{request.param}.safetensors"
    unit = BottleneckSpec("bottlenet", "rb2", 4)
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=3e-3, optimizer="adamw")
    spec = HybridSpec("rb2", request.param, ("rb2",), bottleneck=unit)
    train_hybrid(path, source, spec, HybridPlan((0.5,), allowed_drop=0.05), recipe, quiet=True)
    return path


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Bundle:
    return bundle_from_hybrid(trained, trained.with_suffix(".bundle"))


@contextlib.contextmanager
def serving(bundle: Bundle) -> Iterator[tuple[str, int]]:
    with server_from_fleet([bundle], port=0) as server, in_a_thread(server):
        yield server.address


@pytest.mark.slow
def test_edge_and_cloud_over_a_socket_are_the_torch_network(bundle: Bundle, trained: Path) -> None:
    """Image by image, at three thresholds: who leaves, and what is answered."""
    checkpoint = load_hybrid_checkpoint(trained)
    network, images = checkpoint.network(), held_out_images(checkpoint, limit=60)
    inputs = images.inputs(range(len(images)))
    with torch.inference_mode():
        exit_logits, cloud_logits = (answer.numpy() for answer in network.every_answer(torch.from_numpy(inputs)))
    computed = ComputedHead()
    with (
        serving(bundle) as (host, port),
        OnnxRuntimeRunner(bundle.onnx_path("head"), spin=False) as head,
        SplitClient(bundle, host, port, head_runner=computed) as client,
    ):
        device = EarlyExit(bundle, head, offload_to_server(client, computed))
        groups = set()
        for threshold in (0.0, 0.7, 2.3):
            device.threshold = threshold
            early = leaves_early(exit_logits, "entropy", threshold)
            groups.add(int(early.sum()))
            expected = np.where(early, exit_logits.argmax(1), cloud_logits.argmax(1))
            for place in range(len(images)):
                answer = device.infer_input(inputs[place : place + 1])
                assert (answer.early, answer.class_index) == (early[place], expected[place])
                assert (answer.framed_bytes > answer.payload_bytes > 0) != answer.early
    assert len(groups) == 3, "the thresholds do not tell images apart"


def between(doubts: np.ndarray) -> float:
    """A threshold that some images pass and some do not, as far as can be from any: a code that rounds otherwise in
    the graph than in torch changes no decision."""
    middle = np.sort(doubts)[len(doubts) // 4 : 3 * len(doubts) // 4]
    widest = int(np.diff(middle).argmax())
    return float(middle[widest] + middle[widest + 1]) / 2


@pytest.mark.slow
def test_with_several_exits_the_first_that_is_sure_answers_as_in_torch(source: Path, tmp_path: Path) -> None:
    """Image by image over a socket, with one threshold for both exits and with one for each."""
    path = tmp_path / "hybrid.safetensors"
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=3e-3, optimizer="adamw")
    spec = HybridSpec("rb2", 4, ("rb1", "rb2"), bottleneck=BottleneckSpec("bottlenet", "rb2", 4))
    train_hybrid(path, source, spec, HybridPlan((0.2, 0.3), allowed_drop=0.05), recipe, quiet=True)
    with pytest.raises(UnknownNameError, match="exit 'rb3' does not exist; there are: rb1, rb2"):
        bundle_from_hybrid(path, tmp_path / "no", exits=("rb1", "rb3"))
    with pytest.raises(UsageError, match="--exits must name different blocks in their order, not rb2,rb1"):
        bundle_from_hybrid(path, tmp_path / "no", exits=("rb2", "rb1"))
    both = bundle_from_hybrid(path, tmp_path / "both", exits=("rb1", "rb2"))
    section = both.manifest["exit"]
    assert [one["output"] for one in section["exits"]] == ["exit_logits_rb1", "exit_logits"]
    assert {record["name"] for record in section["work"] if record["place"] == "exit"} == {
        "exits.0.linear",
        "exits.1.linear",
    }
    assert section["calibration"]["images"] == 120
    assert both.golden()["exit_logits_rb1"].shape == both.golden()["exit_logits"].shape
    last = bundle_from_hybrid(path, tmp_path / "last").manifest["exit"]
    assert [record["name"] for record in last["work"] if record["place"] == "exit"] == ["exits.1.linear"]

    checkpoint = load_hybrid_checkpoint(path)
    network, images = checkpoint.network(), held_out_images(checkpoint, limit=40)
    inputs = images.inputs(range(len(images)))
    with torch.inference_mode():
        *exits, cloud = (answer.numpy() for answer in network.every_answer(torch.from_numpy(inputs)))
    computed, seen = ComputedHead(), set()
    with (
        serving(both) as (host, port),
        OnnxRuntimeRunner(both.onnx_path("head"), spin=False) as head,
        SplitClient(both, host, port, head_runner=computed) as client,
    ):
        device = EarlyExit(both, head, offload_to_server(client, computed))
        first, last = (between(entropy(one)) for one in exits)
        for thresholds in ([last, last], [first, last], [0.0, last]):
            device.thresholds = thresholds
            for place in range(len(images)):
                answer = device.infer_input(inputs[place : place + 1])
                sure = first_sure([one[place] for one in exits], "entropy", thresholds)
                expected = cloud[place] if sure is None else exits[sure][place]
                assert (answer.exit, answer.class_index) == (
                    None if sure is None else spec.exits[sure],
                    int(expected.argmax()),
                )
                seen.add(answer.exit)
    assert seen == {"rb1", "rb2", None}, "the thresholds do not tell images apart"


@pytest.mark.slow
def test_the_bundle_tells_what_leaving_early_gives(bundle: Bundle, trained: Path) -> None:
    exit_section = bundle.manifest["exit"]
    accuracy = exit_section["accuracy"]
    checkpoint = load_hybrid_checkpoint(trained)
    assert accuracy["images"] == 240
    assert accuracy["decisions_unlike_torch"] <= 2
    assert accuracy["hybrid"] == pytest.approx(checkpoint.accuracy["hybrid"], abs=0.01)
    assert exit_section["threshold"] == checkpoint.threshold
    always = exit_section["payload_bytes"]["always_offloading"]
    assert exit_section["payload_bytes"]["mean_over_all"] <= always == bundle.manifest["payload_bytes"]["mean"]
    assert len(exit_section["curve"]) <= 64
    assert all(one["passed"] for one in bundle.manifest["equivalence"])
    json.dumps(exit_section, allow_nan=False)


@pytest.mark.slow
def test_who_knows_no_exits_has_an_ordinary_bundle(bundle: Bundle, trained: Path) -> None:
    golden = bundle.golden()
    assert golden["exit_logits"].shape == golden["logits"].shape
    with local_split_from_bundle(bundle) as split:
        outcome = split.infer(golden["image"][:1])
    assert np.allclose(outcome.logits, golden["logits"][0], atol=1e-4)


def make(bits: int, folder: Path) -> tuple[HybridNetwork, onnx.ModelProto]:
    torch.manual_seed(0)
    network = HybridNetwork(ModelSpec("cifar_resnet8", 10, 16), HybridSpec("rb2", bits, ("rb1",))).eval()
    baseline = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(392, 10))
    write_hybrid_graphs(network, baseline, folder, dynamic_batch=True)
    return network, onnx.load(folder / "head.onnx")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_2_to_8_bits_are_quantised_pairs_around_every_low_bit_convolution(bits: int, tmp_path: Path) -> None:
    _, head = make(bits, tmp_path)
    kinds = [node.op_type for node in head.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 2 * 4
    assert kinds.count("Clip") == 4
    assert [output.name for output in head.graph.output] == ["feature", "exit_logits"]
    assert {(entry.domain, entry.version) for entry in head.opset_import} == {("", 13)}


def test_binary_layers_are_plain_convolutions_with_two_weights_a_filter(tmp_path: Path) -> None:
    network, head = make(1, tmp_path)
    kinds = {node.op_type for node in head.graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear"}
    assert kinds <= {
        *("Conv", "BatchNormalization", "Less", "Where", "Relu", "Add", "AveragePool", "Flatten", "Gemm"),
    }
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in head.graph.initializer}
    low = [w for w in weights.values() if w.ndim == 4 and all(len(np.unique(np.abs(f))) == 1 for f in w)]
    assert len(low) >= len(network.low_bit_paths)


def test_a_wrong_scale_is_found_and_another_rounding_is_not() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(10, 8)).astype(np.float32)
    rounding = reference.copy()
    rounding[0, 0] += 0.25
    assert compare_rounding("head", reference, rounding, low_bit=True).passed
    assert not compare_rounding("head", reference, rounding, low_bit=False).passed
    wrong = compare_rounding("head", reference, reference * np.float32(1.05), low_bit=True)
    with pytest.raises(EquivalenceError, match="head: differs"):
        require([wrong])
    with pytest.raises(EquivalenceError, match="no numbers"):
        compare_rounding("head", reference, reference * np.nan, low_bit=True)


def test_a_backbones_checkpoint_is_not_exported_as_a_hybrid(source: Path, tmp_path: Path) -> None:
    from bottlekit.errors import CheckpointError

    with pytest.raises(CheckpointError, match="no hybrid checkpoint"):
        bundle_from_hybrid(source, tmp_path / "out")
    with pytest.raises(UsageError, match="together below 1"):
        HybridPlan((0.6, 0.6))
