from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bottlekit.errors import CheckpointError
from bottlekit.models.backbones import backbone_on_meta
from bottlekit.models.foreign import (
    backbone_from_file,
    backbone_from_state,
    backbone_state_from_file,
    classifier_of,
)
from bottlekit.specs import ModelSpec

MODEL = ModelSpec("resnet18", 10, 64)
Lively = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def resnet(lively: Lively) -> nn.Module:
    return lively("resnet18")


def _same_network(found: nn.Module, expected: nn.Module) -> bool:
    pairs = zip(found.state_dict().items(), expected.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_torchvision_state_dict(suffix: str, tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(resnet.state_dict(), path)
    else:
        torch.save(resnet.state_dict(), path)
    loaded = backbone_from_file(path, MODEL)
    assert _same_network(loaded, resnet)
    assert not loaded.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()},
        lambda state: {name: tensor.double() for name, tensor in state.items() if "num_batches" not in name},
    ],
    ids=["state_dict", "model", "model_state_dict", "module", "both", "parameters", "double-without-counters"],
)
def test_wrappings_that_training_programs_use(
    wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path, resnet: nn.Module
) -> None:
    path = tmp_path / "w.pt"
    torch.save(wrap(dict(resnet.state_dict())), path)
    loaded = backbone_from_file(path, MODEL)
    for name, tensor in resnet.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded.state_dict()[name], tensor), name
            assert loaded.state_dict()[name].dtype == torch.float32


def test_the_old_format_of_torch_save(tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "w.pth"
    torch.save(resnet.state_dict(), path, _use_new_zipfile_serialization=False)
    assert _same_network(backbone_from_file(path, MODEL), resnet)


@pytest.mark.parametrize("name", ["mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "alexnet"])
def test_other_families(name: str, tmp_path: Path, lively: Lively) -> None:
    network = lively(name)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert _same_network(backbone_from_file(tmp_path / "w.pt", ModelSpec(name, 10, 64)), network)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "alexnet", "mnasnet0_5"])
def test_another_number_of_classes(name: str, lively: Lively) -> None:
    network = lively(name, 17)
    model = ModelSpec(name, 10, 64)
    with pytest.raises(CheckpointError) as caught:
        backbone_from_state(network.state_dict(), model, "w.pt")
    assert str(caught.value).startswith("w.pt has weights for 17 classes, and 10 were asked for; ask for 17")
    replaced = backbone_from_state(network.state_dict(), model, "w.pt", replace_classifier=True)
    last = classifier_of(network)
    assert replaced.get_parameter(f"{last}.weight").shape[0] == 10
    for key, tensor in replaced.state_dict().items():
        if not key.startswith(last):
            assert torch.equal(tensor, network.state_dict()[key]), key


def test_a_new_classifier_follows_the_seed_and_learns(lively: Lively, images: Tensor) -> None:
    state = lively("resnet18", 17).state_dict()
    weights = []
    for _ in range(2):
        torch.manual_seed(4)
        weights.append(backbone_from_state(state, MODEL, "w.pt", replace_classifier=True))
    assert _same_network(weights[0], weights[1])
    weights[0](images).sum().backward()
    assert weights[0].get_parameter("fc.weight").grad is not None


def test_the_right_number_of_classes_keeps_the_classifier(resnet: nn.Module) -> None:
    kept = backbone_from_state(resnet.state_dict(), MODEL, "w.pt", replace_classifier=True)
    assert _same_network(kept, resnet)


@pytest.mark.parametrize("replace_classifier", [False, True])
def test_another_architecture_is_named(replace_classifier: bool, lively: Lively) -> None:
    state = lively("resnet34", 1000).state_dict()
    with pytest.raises(CheckpointError) as caught:
        backbone_from_state(state, MODEL, "w.pt", replace_classifier)
    message = str(caught.value)
    assert message.startswith("w.pt does not hold the weights of resnet18 for 1000 classes: has unknown layer1.2.")
    assert message.endswith("; these weights fit resnet34")


def test_weights_of_no_backbone_we_know() -> None:
    with pytest.raises(CheckpointError) as caught:
        backbone_from_state({"x": torch.zeros(1)}, MODEL, "w.pt")
    assert "lacks conv1.weight, bn1.weight, bn1.bias and " in str(caught.value)
    assert "fit" not in str(caught.value)


class _Bomb:
    """Unpickled carelessly, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    bomb = _Bomb(tmp_path / "exploded")
    for number, save in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        path = tmp_path / f"bomb{number}.pt"
        save({"state_dict": bomb}, path)
        with pytest.raises(
            CheckpointError, match="holds more than weights, and loading it could run the code in it"
        ):
            backbone_state_from_file(path)
    assert not (tmp_path / "exploded").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path, resnet: nn.Module) -> None:
    torch.save(resnet, tmp_path / "network.pt")
    with pytest.raises(CheckpointError, match=r"save the weights alone with torch.save\(network.state_dict\(\)"):
        backbone_state_from_file(tmp_path / "network.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.00001, 0.3, 0.9999])
def test_truncated_files(suffix: str, keep: float, tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(resnet.state_dict(), path)
    else:
        save_file(resnet.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=rf"w\{suffix} is no (whole|file of weights)"):
        backbone_state_from_file(path)


@pytest.mark.parametrize("keep", [0.001, 0.3, 0.9999])
def test_truncated_files_of_the_old_format(keep: float, tmp_path: Path, resnet: nn.Module) -> None:
    path = tmp_path / "w.pt"
    torch.save(resnet.state_dict(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match="is no whole torch"):
        backbone_state_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"w\.pt is no file of weights"),
        (b"this is not a network", r"w\.pt is no file of weights"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"w\.pt is no file of weights"),
        (b"PK\x03\x04" + bytes(100), r"w\.pt is no whole torch\.save file"),
        (b"\x80\x02eeee.", r"w\.pt is no whole torch\.save file"),
    ],
)
def test_files_of_another_kind(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        backbone_state_from_file(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(1)], "holds a list that is no state dict"),
        (torch.zeros(3), "holds a Tensor that is no state dict"),
        ({}, "holds a dict that is no state dict"),
        ({"epoch": 3, "lr": 0.1}, "is no state dict: epoch, lr is no tensor"),
        (collections.OrderedDict(a=torch.zeros(1), b="x"), "is no state dict: b is no tensor"),
    ],
)
def test_values_that_are_no_state_dict(value: Any, message: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=message):
        backbone_state_from_file(tmp_path / "w.pt")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights at .*: there is no such file"):
        backbone_state_from_file(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="there is no such file"):
        backbone_state_from_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", "fc"),
        ("regnet_x_400mf", "fc"),
        ("vgg11", "classifier.6"),
        ("mobilenet_v3_small", "classifier.3"),
    ],
)
def test_where_the_classifier_is(name: str, last: str) -> None:
    assert classifier_of(backbone_on_meta(name, 10)) == last
