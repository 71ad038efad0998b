from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bottlekit.device.files import sha256_of_file
from bottlekit.errors import BottlekitError, CheckpointError, DataError, UnknownNameError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import load_checkpoint, save_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, Preprocessing, to_dict
from bottlekit.training import loop
from bottlekit.training.bottleneck import BottleneckTraining
from bottlekit.training.data import DataSet, dataset_from_name
from bottlekit.training.evaluate import accuracy
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import data_of_checkpoint, train_backbone, train_bottleneck

BACKBONE = "mobilenet_v3_small"  # small, and with dropout: its dice must be right
UNIT = BottleneckSpec("bottlenet", "b1", channels=2)
CODEC = CodecSpec("jpeg", quality=10)


@pytest.fixture(scope="module")
def once(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, epochs=1, warmup_epochs=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, few: DataSet, once: Recipe) -> Path:
    """A checkpoint of a network that was trained a little, alone in its folder."""
    path = tmp_path_factory.mktemp("trained") / "net.safetensors"
    train_backbone(path, BACKBONE, few, once, seed=1, quiet=True)
    return path


@pytest.fixture
def net(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, alone in a folder of this test's own."""
    assert [path.name for path in trained.parent.iterdir()] == [trained.name]
    return Path(shutil.copy(trained, tmp_path))


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_backbones_checkpoint_says_what_it_is_and_how_it_was_made(
    net: Path, few: DataSet, once: Recipe
) -> None:
    checkpoint = load_checkpoint(net)
    assert checkpoint.model.backbone == BACKBONE
    assert checkpoint.classes == tuple(few.classes)
    assert checkpoint.data == "digits"
    assert checkpoint.accuracy["images"] == 20
    assert checkpoint.accuracy["baseline"] == accuracy(checkpoint.network(), few.val)
    assert checkpoint.training["recipe"] == to_dict(once)
    assert checkpoint.training["seed"] == 1
    assert checkpoint.training["versions"]["torch"] == torch.__version__
    assert len(checkpoint.training["history"]) == 1
    assert sorted(path.name for path in net.parent.iterdir()) == [net.name]


def test_a_bottleneck_keeps_the_uncompressed_network_and_measures_three_ways(
    net: Path, few: DataSet, once: Recipe
) -> None:
    output = net.with_name("split.safetensors")
    train_bottleneck(output, net, UNIT, CODEC, once, few, seed=2, quiet=True)
    before, checkpoint = load_checkpoint(net), load_checkpoint(output)
    network, baseline = checkpoint.network(), checkpoint.baseline()
    assert isinstance(network, SplitNetwork)
    assert baseline is not None
    assert _equal(dict(baseline.state_dict()), dict(before.network().state_dict()))
    assert not _equal(dict(network.backbone.state_dict()), dict(baseline.state_dict())), "trained end to end"
    assert checkpoint.accuracy == {
        "data": "digits",
        "images": 20,
        "baseline": before.accuracy["baseline"],
        "split": accuracy(network, few.val, with_codec=True),
        "split_without_codec": accuracy(network, few.val, with_codec=False),
        "payload_bytes_mean": checkpoint.accuracy["payload_bytes_mean"],
    }
    assert checkpoint.accuracy["payload_bytes_mean"] > 8
    assert checkpoint.training["compression_aware"] is True
    assert checkpoint.training["from"]["sha256"] == sha256_of_file(str(net))
    assert checkpoint.training["from"]["training"]["seed"] == 1
    json.dumps(checkpoint.training, allow_nan=False)


def test_naive_leaves_the_codec_out_of_training_and_evaluates_with_it(
    net: Path, few: DataSet, once: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    true_forward = SplitNetwork.forward

    def spied(network: SplitNetwork, image: Tensor, with_codec: bool = True) -> Tensor:
        modes.append((network.training, with_codec))
        return true_forward(network, image, with_codec)

    monkeypatch.setattr(SplitNetwork, "forward", spied)
    train_bottleneck(
        net.with_name("naive"), net, UNIT, CODEC, once, few, how=BottleneckTraining(naive=True), quiet=True
    )
    assert {with_codec for training, with_codec in modes if training} == {False}
    assert {with_codec for training, with_codec in modes if not training} == {True, False}
    modes.clear()
    train_bottleneck(net.with_name("aware"), net, UNIT, CODEC, once, few, quiet=True)
    assert {with_codec for training, with_codec in modes if training} == {True}


def test_a_seed_reproduces_the_checkpoint(net: Path, few: DataSet, once: Recipe) -> None:
    first = train_backbone(net.with_name("a"), BACKBONE, few, once, seed=1, quiet=True)
    assert _equal(first.tensors, load_checkpoint(net).tensors)
    left = train_bottleneck(net.with_name("b"), net, UNIT, CODEC, once, few, seed=3, quiet=True)
    right = train_bottleneck(net.with_name("c"), net, UNIT, CODEC, once, few, seed=3, quiet=True)
    other = train_bottleneck(net.with_name("d"), net, UNIT, CODEC, once, few, seed=4, quiet=True)
    assert _equal(left.tensors, right.tensors)
    assert not _equal(left.tensors, other.tensors)


def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    net: Path, few: DataSet, once: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = dataclasses.replace(once, epochs=2)
    whole = train_bottleneck(net.with_name("whole"), net, UNIT, CODEC, twice, few, quiet=True)
    output, state = net.with_name("broken"), net.with_name("broken.resume")
    true_loss = loop._loss

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1] == 4:  # the second step of the second epoch
            raise KeyboardInterrupt
        return true_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_bottleneck(output, net, UNIT, CODEC, twice, few, quiet=True)
    assert state.exists()
    assert not output.exists()

    with pytest.raises(UsageError, match="holds an interrupted run: continue it with --resume"):
        train_bottleneck(output, net, UNIT, CODEC, twice, few, quiet=True)
    with pytest.raises(UsageError, match=r"belongs to another run: codec was .*'quality': 10"):
        train_bottleneck(output, net, UNIT, CodecSpec("jpeg", quality=11), twice, few, resume=True, quiet=True)
    resumed = train_bottleneck(output, net, UNIT, CODEC, twice, few, resume=True, quiet=True)
    assert _equal(resumed.tensors, whole.tensors)
    assert resumed.accuracy == whole.accuracy
    assert not state.exists()


def test_ones_own_weights_are_taken_as_they_are(tmp_path: Path, few: DataSet, once: Recipe) -> None:
    torch.manual_seed(5)
    mine = backbone_from_name(BACKBONE, 10)
    torch.save(mine.state_dict(), tmp_path / "mine.pt")
    untouched = dataclasses.replace(once, epochs=0)
    checkpoint = train_backbone(
        tmp_path / "net", BACKBONE, few, untouched, weights=tmp_path / "mine.pt", quiet=True
    )
    assert _equal(dict(checkpoint.network().state_dict()), dict(mine.state_dict()))
    assert checkpoint.training["from"]["sha256"] == sha256_of_file(str(tmp_path / "mine.pt"))


def test_weights_for_other_classes_start_a_training_and_are_no_network_without(
    tmp_path: Path, few: DataSet, once: Recipe
) -> None:
    torch.save(backbone_from_name(BACKBONE, 7).state_dict(), tmp_path / "seven.pt")
    train_backbone(tmp_path / "net", BACKBONE, few, once, weights=tmp_path / "seven.pt", quiet=True)
    untouched = dataclasses.replace(once, epochs=0)
    with pytest.raises(CheckpointError, match="7 classes, and 10 were asked for"):
        train_backbone(tmp_path / "x", BACKBONE, few, untouched, weights=tmp_path / "seven.pt", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net", "seven.pt"]


def test_weights_of_another_architecture_are_refused(tmp_path: Path, few: DataSet, once: Recipe) -> None:
    torch.save(backbone_from_name("mnasnet0_5", 10).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=f"does not hold the weights of {BACKBONE}"):
        train_backbone(tmp_path / "x", BACKBONE, few, once, weights=tmp_path / "other.pt", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


def test_unknown_names_list_the_known(net: Path, few: DataSet, once: Recipe) -> None:
    with pytest.raises(UnknownNameError, match="backbone 'resnet51' does not exist; there are: resnet18"):
        train_backbone(net.with_name("x"), "resnet51", few, once, quiet=True)
    wrong = dataclasses.replace(UNIT, split="rb1")
    with pytest.raises(UnknownNameError, match=r"'rb1' does not exist; there are: b1, b2"):
        train_bottleneck(net.with_name("x"), net, wrong, CODEC, once, few, quiet=True)
    with pytest.raises(UnknownNameError, match="there are: "):
        train_bottleneck(net.with_name("x"), net, UNIT, CodecSpec("avif"), once, few, quiet=True)
    assert [path.name for path in net.parent.iterdir()] == [net.name]


def test_an_input_that_the_backbone_cannot_take_is_refused(tmp_path: Path, few: DataSet, once: Recipe) -> None:
    with pytest.raises(UsageError, match="alexnet cannot take --input-size 32"):
        train_backbone(tmp_path / "x", "alexnet", few, once, quiet=True)


def test_a_run_that_diverges_writes_no_checkpoint(tmp_path: Path, few: DataSet, once: Recipe) -> None:
    wild = dataclasses.replace(once, learning_rate=1e30)
    with pytest.raises(BottlekitError, match="training diverged in epoch 1"):
        train_backbone(tmp_path / "x", BACKBONE, few, wild, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_other_data_than_the_networks_is_refused(net: Path, few: DataSet, shades: Path, once: Recipe) -> None:
    other = dataset_from_name("folder", shades, input_size=32)
    with pytest.raises(UsageError, match="has 2 classes .* was trained for 10"):
        train_bottleneck(net.with_name("x"), net, UNIT, CODEC, once, other, quiet=True)
    larger = dataclasses.replace(few, preprocessing=Preprocessing(40, 40))
    with pytest.raises(UsageError, match="prepares images with"):
        train_bottleneck(net.with_name("x"), net, UNIT, CODEC, once, larger, quiet=True)


def test_a_split_checkpoint_starts_from_its_uncompressed_network(net: Path, few: DataSet, once: Recipe) -> None:
    split = net.with_name("split.safetensors")
    checkpoint = train_bottleneck(split, net, UNIT, CODEC, once, few, quiet=True)
    again = train_bottleneck(net.with_name("again"), split, UNIT, CODEC, once, few, quiet=True)
    assert _equal(again.tensors, checkpoint.tensors)

    bare = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("baseline.")}
    save_checkpoint(split, dataclasses.replace(checkpoint, tensors=bare))
    with pytest.raises(CheckpointError, match="does not carry the network without its bottleneck"):
        train_bottleneck(net.with_name("x"), split, UNIT, CODEC, once, few, quiet=True)


def test_the_data_of_a_checkpoint_is_found_again_even_if_it_moved(
    tmp_path: Path, shades: Path, once: Recipe
) -> None:
    data = dataset_from_name("folder", shades, input_size=32)
    checkpoint = train_backbone(tmp_path / "net", BACKBONE, data, once, quiet=True)
    assert checkpoint.data == f"folder:{shades}"
    assert data_of_checkpoint(checkpoint).val.labels == data.val.labels
    moved = shades.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        data_of_checkpoint(checkpoint)
    assert data_of_checkpoint(checkpoint, moved).val.labels == data.val.labels


def test_the_output_cannot_be_a_folder(tmp_path: Path, few: DataSet, once: Recipe) -> None:
    with pytest.raises(UsageError, match="is a folder; -o must name the checkpoint file"):
        train_backbone(tmp_path, BACKBONE, few, once, quiet=True)


def test_a_corrupt_image_ends_the_run_and_leaves_nothing(tmp_path: Path, shades: Path, once: Recipe) -> None:
    (shades / "train" / "dark" / "5.jpg").write_bytes(b"no image")
    data = dataset_from_name("folder", shades, input_size=32)
    with pytest.raises(DataError, match=r"dark/5\.jpg"):
        train_backbone(tmp_path / "net", BACKBONE, data, once, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == [shades.name]
