"""The backbones and, as declared data, the places where each can be cut.

A split point is a name and the path of the module whose output crosses the cut. Residual networks count their
residual blocks rb1..rbN in the order of execution (ResNet-50: rb1 is layer1.0, rb16 is layer4.2, as in BottleNet,
table 4); the others count their blocks b1..bN. A test builds every backbone and holds this table against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from bottlekit.errors import UnknownNameError
from bottlekit.models.cifar_resnet import CIFAR_RESNET_STAGES, CifarResNet
from bottlekit.models.torchvision_import import torchvision_models

# Residual blocks in layer1..layer4.
_RESNET_STAGES = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "wide_resnet50_2": (3, 4, 6, 3),
    "wide_resnet101_2": (3, 4, 23, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
}
# Residual blocks in trunk_output.block1..block4.
_REGNET_STAGES = {
    "regnet_x_400mf": (1, 2, 7, 12),
    "regnet_y_400mf": (1, 3, 6, 6),
    "regnet_y_800mf": (1, 3, 8, 2),
    "regnet_y_1_6gf": (2, 6, 17, 2),
}
# Convolutions before each of the five poolings; a block ends with its pooling.
_VGG_STAGES = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
# Blocks in features.1, features.2, ...
_EFFICIENTNET_STAGES = {
    "efficientnet_b0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_b1": (2, 3, 3, 4, 4, 5, 2),
    "efficientnet_b2": (2, 3, 3, 4, 4, 5, 2),
    "efficientnet_b3": (2, 3, 3, 5, 5, 6, 2),
    "efficientnet_b4": (2, 4, 4, 6, 6, 8, 2),
    "efficientnet_v2_s": (2, 4, 4, 6, 9, 15),
}
# Blocks in layers.8 .. layers.13.
_MNASNET_STAGES = {"mnasnet0_5": (3, 3, 3, 2, 4, 1), "mnasnet1_0": (3, 3, 3, 2, 4, 1)}
# Inverted residual blocks, features.1 .. features.N.
_MOBILENET_BLOCKS = {"mobilenet_v2": 17, "mobilenet_v3_small": 11, "mobilenet_v3_large": 15}
# Pooled or plain outputs of AlexNet's five convolutions.
_ALEXNET_BLOCKS = ("features.2", "features.5", "features.7", "features.9", "features.12")


def _numbered(prefix: str, modules: Iterable[str]) -> dict[str, str]:
    return {f"{prefix}{number}": module for number, module in enumerate(modules, start=1)}


def _staged(pattern: str, stages: tuple[int, ...], first: int = 1) -> list[str]:
    """Module paths of all blocks; `pattern` has {stage} and {block}, stages count from `first`, blocks from 0."""
    return [
        pattern.format(stage=stage, block=block)
        for stage, blocks in enumerate(stages, start=first)
        for block in range(blocks)
    ]


def _vgg_poolings(stages: tuple[int, ...], modules_per_convolution: int) -> list[str]:
    """Paths of VGG's poolings; each convolution is followed by its ReLU, and in the _bn variants its norm."""
    paths, position = [], 0
    for convolutions in stages:
        position += convolutions * modules_per_convolution
        paths.append(f"features.{position}")
        position += 1
    return paths


SPLIT_POINTS: dict[str, dict[str, str]] = {
    **{name: _numbered("rb", _staged("layer{stage}.{block}", s)) for name, s in _RESNET_STAGES.items()},
    **{
        name: _numbered("rb", _staged("trunk_output.block{stage}.block{stage}-{block}", s))
        for name, s in _REGNET_STAGES.items()
    },
    **{name: _numbered("b", _vgg_poolings(s, 2)) for name, s in _VGG_STAGES.items()},
    **{f"{name}_bn": _numbered("b", _vgg_poolings(s, 3)) for name, s in _VGG_STAGES.items()},
    **{name: _numbered("b", [f"features.{i}" for i in range(1, n + 1)]) for name, n in _MOBILENET_BLOCKS.items()},
    **{name: _numbered("b", _staged("features.{stage}.{block}", s)) for name, s in _EFFICIENTNET_STAGES.items()},
    **{name: _numbered("b", _staged("layers.{stage}.{block}", s, 8)) for name, s in _MNASNET_STAGES.items()},
    "alexnet": _numbered("b", _ALEXNET_BLOCKS),
    **{name: _numbered("rb", _staged("layer{stage}.{block}", s)) for name, s in CIFAR_RESNET_STAGES.items()},
}
"""Backbone -> {split point: path of the module whose output crosses the cut}, in the order of execution."""

BACKBONES: tuple[str, ...] = tuple(SPLIT_POINTS)


def backbone_from_name(name: str, num_classes: int) -> nn.Module:
    """A backbone with random weights, drawn from torch's global generator; nothing is downloaded.

    It maps images (n, 3, h, w) to logits (n, num_classes), and its state dict has torchvision's names.
    Raises UnknownNameError, which lists the backbones.
    """
    if name not in SPLIT_POINTS:
        raise UnknownNameError("backbone", name, BACKBONES)
    if name in CIFAR_RESNET_STAGES:
        return CifarResNet(CIFAR_RESNET_STAGES[name], num_classes)
    return cast(nn.Module, getattr(torchvision_models(), name)(weights=None, num_classes=num_classes))


def backbone_on_meta(name: str, num_classes: int) -> nn.Module:
    """The same network on the meta device, in evaluation mode: shapes without numbers, and without the time
    that random numbers take. torch's global generator is left as it was."""
    if name in _REGNET_STAGES:
        # RegNet computes its widths with tensors, which the meta device cannot do.
        with torch.random.fork_rng(devices=[]):
            return backbone_from_name(name, num_classes).to("meta").eval()
    with torch.device("meta"):
        return backbone_from_name(name, num_classes).eval()
