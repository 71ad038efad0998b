from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bottlekit.errors import CheckpointError
from bottlekit.models.checkpoint import Checkpoint, is_checkpoint, load_checkpoint, save_checkpoint
from bottlekit.models.foreign import backbone_state_from_file
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing

MODEL = ModelSpec("resnet18", 3, 64)
UNIT = BottleneckSpec("bottlenet", "rb2", 4, 2, 3)
CODEC = CodecSpec("jpeg", 8, 20)
CLASSES = ("cat", "dog", "fish")
ACCURACY = {"data": "digits", "images": 360, "baseline": 0.98, "split": 0.97}
Randomise = Callable[[nn.Module], nn.Module]


def _split_checkpoint(randomise: Randomise, lively: Callable[..., nn.Module], baseline: bool = True) -> Checkpoint:
    network = randomise(SplitNetwork(MODEL, UNIT, CODEC))
    uncompressed = lively("resnet18", 3) if baseline else None
    return Checkpoint.from_network(network, MODEL, CLASSES, Preprocessing(64, 64), "digits", ACCURACY, uncompressed)


@pytest.fixture
def split(randomise: Randomise, lively: Callable[..., nn.Module]) -> Checkpoint:
    return _split_checkpoint(randomise, lively)


@pytest.fixture
def plain(lively: Callable[..., nn.Module]) -> Checkpoint:
    return Checkpoint.from_network(lively("resnet18", 3), MODEL, CLASSES, Preprocessing(64, 64), "digits", {})


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


def test_a_split_network_comes_back_equal(
    tmp_path: Path, randomise: Randomise, lively: Callable[..., nn.Module], images: Tensor
) -> None:
    network = randomise(SplitNetwork(MODEL, UNIT, CODEC))
    baseline = randomise(lively("resnet18", 3))
    written = Checkpoint.from_network(network, MODEL, CLASSES, Preprocessing(70, 64), "digits", ACCURACY, baseline)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, written)
    read = load_checkpoint(path)
    for field in dataclasses.fields(Checkpoint):
        if field.name not in ("tensors", "source"):
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    again = read.network()
    assert isinstance(again, SplitNetwork)
    assert not again.training
    assert not again.head.training
    assert torch.equal(_logits(again, images), _logits(network, images))
    assert torch.equal(_logits(again.head, images), _logits(network.head, images))
    uncompressed = read.baseline()
    assert uncompressed is not None
    assert torch.equal(_logits(uncompressed, images), _logits(baseline, images))


STATIC = CodecSpec("learned", 2, range="static")


def test_a_static_range_comes_back(tmp_path: Path, randomise: Randomise) -> None:
    network = randomise(SplitNetwork(MODEL, UNIT, STATIC, value_range=(0.0, 2.5)))
    written = Checkpoint.from_network(network, MODEL, CLASSES, Preprocessing(64, 64), "digits", ACCURACY)
    assert written.tensors["codec.range"].tolist() == [0.0, 2.5]
    save_checkpoint(tmp_path / "c.safetensors", written)
    again = load_checkpoint(tmp_path / "c.safetensors").network()
    assert isinstance(again, SplitNetwork)
    assert (again.codec, again.codec_layer.codec.value_range) == (STATIC, (0.0, 2.5))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (None, "lacks codec.range"),
        ([0.0, 1.0, 2.0], "codec.range is 3 instead of 2"),
        ([1.0, 1.0], r"codec.range must hold the low and high end .*, not \[1.0, 1.0\]"),
        ([2.0, 1.0], "codec.range must hold the low and high end"),
        ([0.0, float("inf")], "codec.range must hold the low and high end"),
        ([0.0, float("nan")], "codec.range must hold the low and high end"),
    ],
)
def test_a_damaged_static_range_is_refused(
    split: Checkpoint, ends: list[float] | None, message: str, tmp_path: Path
) -> None:
    tensors = dict(split.tensors) | ({} if ends is None else {"codec.range": torch.tensor(ends)})
    with pytest.raises(CheckpointError, match=message):
        dataclasses.replace(split, codec=STATIC, tensors=tensors)


def test_a_range_that_no_codec_needs_is_refused(split: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="has unknown codec.range"):
        dataclasses.replace(split, tensors=split.tensors | {"codec.range": torch.zeros(2)})


def test_a_plain_backbone_comes_back_equal_and_is_its_own_baseline(
    tmp_path: Path, plain: Checkpoint, lively: Callable[..., nn.Module], images: Tensor
) -> None:
    save_checkpoint(tmp_path / "c.safetensors", plain)
    read = load_checkpoint(tmp_path / "c.safetensors")
    assert (read.bottleneck, read.codec) == (None, None)
    baseline = read.baseline()
    assert baseline is not None
    expected = _logits(lively("resnet18", 3), images)
    assert torch.equal(_logits(read.network(), images), expected)
    assert torch.equal(_logits(baseline, images), expected)


def test_no_baseline_where_none_was_saved(randomise: Randomise, lively: Callable[..., nn.Module]) -> None:
    assert _split_checkpoint(randomise, lively, baseline=False).baseline() is None


def test_a_checkpoint_is_a_snapshot(lively: Callable[..., nn.Module]) -> None:
    network = lively("resnet18", 3)
    taken = Checkpoint.from_network(network, MODEL, CLASSES, Preprocessing(64, 64), "digits", {})
    network.get_parameter("fc.weight").data.zero_()
    assert (taken.tensors["backbone.fc.weight"] != 0).any()


def test_training_what_it_gives_does_not_change_it(split: Checkpoint, images: Tensor) -> None:
    first = split.network()
    expected = _logits(first, images)
    for parameter in first.parameters():
        assert parameter.requires_grad
        parameter.data.zero_()
    assert torch.equal(_logits(split.network(), images), expected)


def test_the_tensors_have_the_documented_names(split: Checkpoint, plain: Checkpoint) -> None:
    assert {name.split(".")[0] for name in split.tensors} == {"backbone", "unit", "baseline"}
    assert {name.split(".")[0] for name in plain.tensors} == {"backbone"}
    assert "backbone.layer1.0.conv1.weight" in plain.tensors


@pytest.mark.parametrize("backbone", ["mnasnet0_5", "regnet_y_400mf", "mobilenet_v3_small"])
def test_other_families(backbone: str, tmp_path: Path, lively: Callable[..., nn.Module], images: Tensor) -> None:
    network = lively(backbone, 3)
    model = ModelSpec(backbone, 3, 64)
    written = Checkpoint.from_network(network, model, CLASSES, Preprocessing(64, 64), "digits", {})
    save_checkpoint(tmp_path / "c.safetensors", written)
    assert torch.equal(
        _logits(load_checkpoint(tmp_path / "c.safetensors").network(), images), _logits(network, images)
    )


def test_weights_of_a_checkpoint_can_start_another_training(tmp_path: Path, split: Checkpoint) -> None:
    """The uncompressed network, if the file carries it."""
    save_checkpoint(tmp_path / "c.safetensors", split)
    state = backbone_state_from_file(tmp_path / "c.safetensors")
    assert torch.equal(state["conv1.weight"], split.tensors["baseline.conv1.weight"])
    assert len(state) == 122


def test_only_the_expected_network_is_accepted(tmp_path: Path, plain: Checkpoint) -> None:
    save_checkpoint(tmp_path / "c.safetensors", plain)
    assert load_checkpoint(tmp_path / "c.safetensors", MODEL).model == MODEL
    for other in (ModelSpec("resnet50", 3, 64), ModelSpec("resnet18", 4, 64), ModelSpec("resnet18", 3, 96)):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / "c.safetensors", other)
        assert "holds resnet18 for 3 classes at 64 pixels, asked was" in str(caught.value)


def test_is_checkpoint(tmp_path: Path, plain: Checkpoint) -> None:
    save_checkpoint(tmp_path / "ours.safetensors", plain)
    save_file({"a": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.pt")
    assert is_checkpoint(tmp_path / "ours.safetensors")
    for name in ("theirs.safetensors", "theirs.pt", "missing.safetensors"):
        assert not is_checkpoint(tmp_path / name), name


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, plain: Checkpoint) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, plain)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, dataclasses.replace(plain, accuracy={"split": float("nan")}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _rewritten(path: Path, **changes: Any) -> None:
    """The same tensors under a changed header; a change to ... removes the field."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["bottlekit"])
    header.update(changes)
    header = {name: value for name, value in header.items() if value is not ...}
    save_file(load_file(path), path, metadata={"bottlekit": json.dumps(header)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "a header that is no bottlekit-checkpoint"),
        ({"version": 2}, "a checkpoint of version 2, and this bottlekit reads 1"),
        ({"surprise": 1}, r"unknown fields \['surprise'\]"),
        ({"classes": ...}, r"lacks \['classes'\]"),
        ({"model": {"backbone": "resnet18"}}, r"lacks \['input_size', 'num_classes'\]"),
        (
            {"model": {"backbone": "resnet99", "num_classes": 3, "input_size": 64}},
            "backbone 'resnet99' does not exist",
        ),
        ({"model": {"backbone": "resnet18", "num_classes": "3", "input_size": 64}}, "does not make sense"),
        ({"model": {"backbone": 7, "num_classes": 3, "input_size": 64}}, "does not make sense|backbone '7'"),
        ({"model": "resnet18"}, "an object was expected where it has 'resnet18'"),
        ({"classes": ["cat", "dog"]}, "2 class names for a network with 3 classes"),
        ({"classes": "cat"}, "a list of names was expected where it has 'cat'"),
        ({"classes": [1, 2, 3]}, "a list of names was expected"),
        ({"accuracy": []}, r"an object was expected where it has \[\]"),
        ({"codec": None}, "a bottleneck and a codec come together or not at all"),
        ({"codec": {"name": "jpeg", "bits": 80, "quality": 20}}, "--bits must be 1..8"),
        ({"codec": {"name": "avif", "bits": 8, "quality": 20}}, "avif"),
        ({"bottleneck": None, "codec": None}, r"resnet18 for 3 classes: has unknown (unit|baseline)\."),
        ({"bottleneck": {"kind": "bottlenet", "split": "rb9", "channels": 4, "spatial": 2, "kernel": 3}}, "'rb9'"),
        (
            {"bottleneck": {"kind": "bottlenet", "split": "rb2", "channels": 5, "spatial": 2, "kernel": 3}},
            r"unit at rb2 \(channels 5, spatial 2\): shape: unit\.reduce\.channel\.conv\.weight is 4x64x1x1",
        ),
    ],
)
def test_headers_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path, split: Checkpoint) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, split)
    _rewritten(path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_header_that_claims_another_backbone(tmp_path: Path, plain: Checkpoint) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, plain)
    _rewritten(path, model={"backbone": "resnet34", "num_classes": 3, "input_size": 64})
    with pytest.raises(
        CheckpointError, match=r"weights of resnet34 for 3 classes: lacks backbone\.layer1\.2\..* and \d"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("unit.reduce.channel.norm.bias"), r"lacks unit\.reduce\.channel\.norm\.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has unknown extra"),
        (lambda tensors: tensors.pop("baseline.fc.bias"), r"lacks baseline\.fc\.bias"),
        (
            lambda tensors: tensors.update({"backbone.fc.bias": torch.zeros(5)}),
            r"shape: backbone\.fc\.bias is 5 instead of 3",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path, split: Checkpoint
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, split)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_checkpoint_that_makes_no_sense_cannot_be_made(plain: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="2 class names for a network with 3 classes"):
        dataclasses.replace(plain, classes=("a", "b"))
    with pytest.raises(CheckpointError, match="lacks backbone"):
        dataclasses.replace(plain, tensors={})


@pytest.mark.parametrize("keep", [0.0, 0.00001, 0.5, 0.99999])
def test_truncated_files(keep: float, tmp_path: Path, plain: Checkpoint) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, plain)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match="is no bottlekit checkpoint"):
        load_checkpoint(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", metadata={"bottlekit": "{"})
    save_file({"a": torch.zeros(1)}, tmp_path / "deep.safetensors", metadata={"bottlekit": "[" * 200_000})
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", metadata={"bottlekit": "[]"})
    for name, message in {
        "weights.safetensors": "holds weights but is no bottlekit checkpoint; train from it",
        "weights.pt": "is no bottlekit checkpoint",
        "bad.safetensors": "has an unreadable header",
        "deep.safetensors": "has an unreadable header",
        "list.safetensors": "has a header that is no bottlekit-checkpoint",
        "missing.safetensors": "there is no such file",
        ".": "there is no such file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)
