"""Bundles: complete, proved, reproducible; and nothing at all when something is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bottlekit.device.bundle import Bundle
from bottlekit.device.codecs import CODEC_NAMES
from bottlekit.device.files import sha256_of_file
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.errors import BundleError, DataError, EquivalenceError, UsageError
from bottlekit.export import bundle_writer
from bottlekit.export.bundle_writer import bundle_from_checkpoint
from bottlekit.export.codec_fit import CodecRequest
from bottlekit.export.held_out import held_out_from_checkpoint
from bottlekit.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing
from bottlekit.training.data import dataset_from_name

MODEL = ModelSpec("mobilenet_v3_small", 10, 32)
UNIT = BottleneckSpec("bottlenet", "b3", channels=4)


@pytest.fixture(scope="module")
def network(lived_in: Callable[[nn.Module, torch.Tensor], nn.Module]) -> SplitNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = SplitNetwork(MODEL, UNIT, CodecSpec("jpeg", quality=20))
        digits = dataset_from_name("digits", input_size=32).val
        real = torch.stack([digits[index][0] for index in range(0, 360, 20)])
        lived_in(network, torch.cat([real, torch.randn(6, 3, 32, 32)]))
    return network


@pytest.fixture(scope="module")
def save(network: SplitNetwork, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The function (data, accuracy, with_baseline) -> the network's checkpoint file."""

    def save_as(data: str = "digits", accuracy: dict[str, Any] | None = None, with_baseline: bool = True) -> Path:
        checkpoint = Checkpoint.from_network(
            network,
            MODEL,
            classes=tuple("0123456789"),
            preprocessing=Preprocessing(resize=32, crop=32),
            data=data,
            accuracy=accuracy or {},
            baseline=network.backbone if with_baseline else None,
        )
        path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
        save_checkpoint(path, checkpoint)
        return path

    return save_as


@pytest.fixture(scope="module")
def trained(save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle measured on 60 held-out digits."""
    return bundle_from_checkpoint(save(), tmp_path_factory.mktemp("out") / "bundle", images=60)


def test_a_bundle_holds_what_it_says(small_bundle: Bundle, small_checkpoint: Path) -> None:
    manifest = small_bundle.manifest
    assert small_bundle.name == "resnet18-rb1"
    assert small_bundle.parts == ("head", "tail", "full", "baseline")
    assert small_bundle.feature_shape == (4, 8, 8)
    assert small_bundle.dynamic_batch
    assert manifest["untrained"] is True
    assert manifest["accuracy"] is None
    assert manifest["command"] == "a fixture of the tests"
    assert manifest["checkpoint_sha256"] == sha256_of_file(str(small_checkpoint))
    assert manifest["versions"].keys() == {"python", "torch", "onnx", "onnxruntime"}
    assert sorted(path.name for path in Path(small_bundle.path).iterdir()) == [
        "baseline.onnx", "bundle.json", "full.onnx", "golden.npz", "head.onnx", "tail.onnx",
    ]  # fmt: skip
    assert [entry.get("opset") for _, entry in sorted(manifest["files"].items())] == [13, 13, None, 13, 13]
    assert list(Path(small_bundle.path).parent.iterdir()) == [Path(small_bundle.path)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CODEC_NAMES)
def test_every_codec_is_proved_and_shipped_with_what_it_learned(
    name: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    request = CodecRequest(name, bits=5 if name == "learned" else None, range="static")
    bundle = bundle_from_checkpoint(save(), tmp_path / "bundle", images=20, codec=request)
    assert bundle.manifest["codec"]["name"] == name
    assert bundle.manifest["codec"]["version"] == 1
    assert bundle.codec.value_range is not None
    assert "codec.npz" in bundle.manifest["files"]
    assert bundle.manifest["payload_bytes"]["max"] <= bundle.codec.max_payload_bytes
    golden = bundle.golden()
    with local_split_from_bundle(bundle, threads=1) as split:
        for place in range(3):
            outcome = split.infer(golden["image"][place : place + 1])
            assert np.array_equal(outcome.logits, golden["logits"][place])
            assert outcome.payload_bytes == len(bundle.codec.encode(golden["feature"][place]))


def test_without_data_a_codec_learns_from_random_inputs_and_that_is_told(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    said: list[str] = []
    checkpoint = save(data="folder:/gone")
    bundle = bundle_from_checkpoint(checkpoint, tmp_path / "bundle", codec=CodecRequest("learned"), say=said.append)
    assert any("calibrated on random inputs" in line for line in said)
    assert bundle.codec.name == "learned"
    with pytest.raises(UsageError, match="auto chooses by the accuracy on held-out images, and there are none"):
        bundle_from_checkpoint(checkpoint, tmp_path / "other", codec=CodecRequest("auto"))
    assert not (tmp_path / "other").exists()


def test_the_macs_are_those_of_the_parts(small_bundle: Bundle) -> None:
    macs = small_bundle.manifest["macs"]
    assert 0 < macs["head"] < macs["baseline"]
    # RB1's unit: 64 -> 4 channels at 16 x 16, 3 x 3 with stride 2, and back.
    unit = 2 * (64 * 4 * 16 * 16) + 2 * (4 * 4 * 9 * 8 * 8)
    assert macs["head"] + macs["tail"] == macs["baseline"] + unit


def test_the_golden_arrays_are_what_devices_compute(small_bundle: Bundle) -> None:
    golden = small_bundle.golden()
    assert golden["image"].shape == (10, 3, 64, 64)
    with local_split_from_bundle(small_bundle) as split:
        for place in range(10):
            outcome = split.infer(golden["image"][place : place + 1])
            np.testing.assert_array_equal(outcome.logits, golden["logits"][place])
    codec = small_bundle.codec
    for feature, decoded in zip(golden["feature"], golden["decoded"], strict=True):
        np.testing.assert_array_equal(codec.decode(codec.encode(feature)), decoded)
    assert golden["codes"].reshape(10, -1).max(axis=1).tolist() == [255] * 10


def test_real_images_come_first_in_golden(small_bundle: Bundle, small_checkpoint: Path) -> None:
    golden = small_bundle.golden()["image"]
    held_out = held_out_from_checkpoint(load_checkpoint(small_checkpoint), None, 40, print)
    assert held_out is not None
    np.testing.assert_array_equal(golden[0], held_out.inputs(range(1))[0])
    np.testing.assert_array_equal(golden[1], held_out.inputs(range(5, 6))[0])
    assert abs(golden[8:].mean()) < 0.05
    assert abs(golden[8:].std() - 1) < 0.05


def test_equivalence_is_recorded(small_bundle: Bundle) -> None:
    comparisons = small_bundle.manifest["equivalence"]
    assert len(comparisons) == 16
    assert all(one["passed"] and one["samples"] == 10 for one in comparisons)
    assert {one["batch"] for one in comparisons} == {1, 10}


def test_accuracy_is_that_of_the_graphs_on_held_out_images(trained: Bundle, network: SplitNetwork) -> None:
    checkpoint = Checkpoint.from_network(
        network, MODEL, tuple("0123456789"), Preprocessing(resize=32, crop=32), "digits", {}
    )
    held_out = held_out_from_checkpoint(checkpoint, None, 60, print)
    assert held_out is not None
    inputs, labels = torch.from_numpy(held_out.inputs(range(60))), np.array(held_out.labels)
    with torch.no_grad():
        split = network(inputs).argmax(1).numpy()
        baseline = network.backbone(inputs).argmax(1).numpy()
    accuracy = trained.manifest["accuracy"]
    assert accuracy["data"] == "digits"
    assert accuracy["images"] == 60
    assert accuracy["measured_on"] == "onnx"
    assert accuracy["split"] == np.mean(split == labels)
    assert accuracy["baseline"] == np.mean(baseline == labels)
    assert trained.manifest["untrained"] is False


def test_payload_and_jpeg_statistics(trained: Bundle) -> None:
    payload = trained.manifest["payload_bytes"]
    assert payload["images"] == 60
    assert payload["data"] == "digits"
    assert 0 < payload["p50"] <= payload["p99"] <= payload["max"] <= trained.codec.max_payload_bytes
    jpeg = trained.manifest["input_jpeg_bytes"]
    assert jpeg["quality"] == 90
    assert jpeg["mean"] > payload["mean"]
    assert 0 <= jpeg["accuracy"] <= 1


def test_the_same_command_gives_the_same_bytes(trained: Bundle, save: Callable[..., Path], tmp_path: Path) -> None:
    again = bundle_from_checkpoint(save(), tmp_path / "again", images=60)
    names = [name for name in trained.manifest["files"] if name.endswith(".onnx")]
    assert [again.manifest["files"][name] for name in names] == [trained.manifest["files"][name] for name in names]
    assert again.manifest["payload_bytes"] == trained.manifest["payload_bytes"]


def test_a_fixed_batch_is_one_image(save: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bundle_from_checkpoint(save(), tmp_path / "fixed", images=20, dynamic_batch=False)
    assert not bundle.dynamic_batch
    assert {one["batch"] for one in bundle.manifest["equivalence"]} == {1}
    dims = onnx.load(bundle.onnx_path("head")).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 32, 32]


def test_a_checkpoint_without_its_baseline_gives_no_baseline(save: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bundle_from_checkpoint(save(with_baseline=False), tmp_path / "bundle", images=20)
    assert bundle.parts == ("head", "tail", "full")
    assert "baseline_logits" not in bundle.golden()
    assert bundle.manifest["accuracy"]["baseline"] is None
    assert bundle.manifest["input_jpeg_bytes"]["accuracy"] is None
    assert bundle.manifest["macs"]["baseline"] is None


def test_without_the_data_training_is_believed_and_it_is_said(save: Callable[..., Path], tmp_path: Path) -> None:
    notes: list[str] = []
    accuracy = {"data": "folder:/nowhere", "images": 100, "baseline": 0.9, "split": 0.8, "payload_bytes_mean": 1}
    path = save(data="folder:/nowhere", accuracy=accuracy)
    bundle = bundle_from_checkpoint(path, tmp_path / "bundle", say=notes.append)
    assert bundle.manifest["accuracy"] == {
        "data": "folder", "images": 100, "baseline": 0.9, "split": 0.8, "measured_on": "checkpoint",
    }  # fmt: skip
    assert bundle.manifest["payload_bytes"]["data"] == "random"
    assert bundle.manifest["input_jpeg_bytes"] is None
    assert bundle.golden()["image"].shape[0] == 10
    assert len(notes) == 1
    assert re.search(r"random inputs.*nowhere", notes[0])
    assert "/nowhere" not in json.dumps(bundle.manifest)


def test_without_data_and_without_accuracy_none_is_claimed(save: Callable[..., Path], tmp_path: Path) -> None:
    bundle = bundle_from_checkpoint(save(data="folder:/nowhere"), tmp_path / "bundle")
    assert bundle.manifest["accuracy"] is None
    assert bundle.manifest["untrained"] is False


def test_graphs_that_do_worse_than_training_said_are_told(save: Callable[..., Path], tmp_path: Path) -> None:
    notes: list[str] = []
    bundle_from_checkpoint(save(accuracy={"split": 0.99}), tmp_path / "bundle", images=20, say=notes.append)
    assert len(notes) == 1
    assert "training reported 99.00%: is it the same data?" in notes[0]


def test_a_data_root_that_cannot_be_read_is_an_error(save: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        bundle_from_checkpoint(save(data="folder:/moved"), tmp_path / "bundle", data_root=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def perturb(path: Path) -> None:
    """Scale the first filter of the first convolution (or the first row of the first fully connected layer)."""
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    name = next(node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    values = numpy_helper.to_array(weights[name]).copy()
    values[0] *= 1.05
    weights[name].CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, path)


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_a_graph_with_another_weight_stops_the_export(
    part: str, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graphs = bundle_writer.write_graphs

    def write_and_perturb(
        network: SplitNetwork, baseline: nn.Module | None, folder: Path, *rest: Any
    ) -> dict[str, int]:
        opsets = write_graphs(network, baseline, folder, *rest)
        perturb(folder / f"{part}.onnx")
        return opsets

    monkeypatch.setattr(bundle_writer, "write_graphs", write_and_perturb)
    with pytest.raises(EquivalenceError, match=rf"nothing was written: .*{part}\.onnx.*differs by up to"):
        bundle_from_checkpoint(save(), tmp_path / "bundle", images=10)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_bundle(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").write_text("kept")

    def fail(*_arguments: Any) -> None:
        raise EquivalenceError("differs")

    monkeypatch.setattr(bundle_writer, "prove", fail)
    with pytest.raises(EquivalenceError):
        bundle_from_checkpoint(save(), tmp_path / "bundle", images=10, force=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "old"]


def test_a_folder_that_exists_is_only_replaced_by_force(save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").write_text("old")
    with pytest.raises(UsageError, match=r"exists already.*--force"):
        bundle_from_checkpoint(save(), tmp_path / "bundle", images=10)
    assert (tmp_path / "bundle" / "old").read_text() == "old"
    bundle_from_checkpoint(save(), tmp_path / "bundle", images=10, force=True)
    assert not (tmp_path / "bundle" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["head.onnx", "tail.onnx", "full.onnx", "baseline.onnx", "golden.npz"])
def test_a_file_that_was_changed_after_export_is_named(name: str, trained: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained.path, copy)
    Bundle.load(str(copy))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{re.escape(name)} was changed after export"):
        Bundle.load(str(copy))
