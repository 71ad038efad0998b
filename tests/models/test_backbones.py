from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from bottlekit.errors import UnknownNameError
from bottlekit.models.backbones import BACKBONES, SPLIT_POINTS, backbone_from_name, backbone_on_meta
from bottlekit.models.macs import macs
from bottlekit.models.torchvision_import import torchvision_models

# The class of a block, for each family; VGG and AlexNet have none.
_BLOCK_CLASSES = (
    *("BasicBlock", "Bottleneck", "ResBottleneckBlock", "InvertedResidual", "_InvertedResidual"),
    *("MBConv", "FusedMBConv", "CifarBlock"),
)


def test_the_backbones_are_those_promised() -> None:
    assert set(BACKBONES) == {
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "vgg11", "vgg13", "vgg16", "vgg19"),
        *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
        *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
        *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"),
        *("efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf"),
        *("mnasnet0_5", "mnasnet1_0", "alexnet"),
        *("cifar_resnet8", "cifar_resnet14", "cifar_resnet20", "cifar_resnet32"),
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_declared_split_points_are_exactly_the_blocks(name: str) -> None:
    """The table against torchvision's own structure: every block once, in order, nothing else."""
    network = backbone_on_meta(name, 10)
    blocks = [path for path, module in network.named_modules() if type(module).__name__ in _BLOCK_CLASSES]
    if name.startswith("vgg"):
        blocks = [path for path, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
    if name == "alexnet":
        features = list(network.get_submodule("features").children())
        pools = [i for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
        relus = [i for i, module in enumerate(features) if isinstance(module, nn.ReLU) and i + 1 not in pools]
        blocks = [f"features.{i}" for i in sorted(pools + relus)]
    assert list(SPLIT_POINTS[name].values()) == blocks


@pytest.mark.parametrize("name", BACKBONES)
def test_split_points_are_numbered_from_one(name: str) -> None:
    residual = name.startswith(("res", "wide", "regnet", "cifar"))
    prefix = "rb" if residual else "b"
    assert list(SPLIT_POINTS[name]) == [f"{prefix}{i + 1}" for i in range(len(SPLIT_POINTS[name]))]


def test_resnet50_has_the_papers_sixteen_residual_blocks() -> None:
    points = SPLIT_POINTS["resnet50"]
    assert len(points) == 16
    assert (points["rb1"], points["rb4"], points["rb8"], points["rb14"], points["rb16"]) == (
        *("layer1.0", "layer2.0", "layer3.0", "layer4.0"),
        "layer4.2",
    )


def test_the_hybrid_papers_resnet32_has_its_multiply_accumulates_and_blocks() -> None:
    assert list(SPLIT_POINTS["cifar_resnet32"]) == [f"rb{number}" for number in range(1, 16)]
    assert round(macs(backbone_on_meta("cifar_resnet32", 10), (1, 3, 32, 32)) / 1e6, 2) == 69.12


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "regnet_y_400mf", "mnasnet0_5"])
def test_a_backbone_gives_logits_and_has_torchvisions_names(name: str) -> None:
    network = backbone_from_name(name, 7).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    reference = getattr(torchvision_models(), name)(weights=None, num_classes=7)
    assert list(network.state_dict()) == list(reference.state_dict())


def test_random_weights_follow_the_seed() -> None:
    torch.manual_seed(3)
    first = backbone_from_name("resnet18", 4).state_dict()["fc.weight"]
    torch.manual_seed(3)
    again = backbone_from_name("resnet18", 4).state_dict()["fc.weight"]
    assert torch.equal(first, again)
    assert not torch.equal(first, backbone_from_name("resnet18", 4).state_dict()["fc.weight"])


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf"])
def test_meta_backbones_leave_the_random_generator_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = backbone_on_meta(name, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert all(tensor.is_meta for tensor in network.state_dict().values())


def test_an_unknown_backbone_is_refused_with_the_list() -> None:
    with pytest.raises(UnknownNameError, match="backbone 'resnet51' does not exist; there are: resnet18, resnet34"):
        backbone_from_name("resnet51", 10)


def test_a_torchvision_name_outside_the_table_is_refused() -> None:
    assert inspect.isfunction(torchvision_models().googlenet)
    with pytest.raises(UnknownNameError):
        backbone_from_name("googlenet", 10)
