from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bottlekit.models.backbones import backbone_on_meta
from bottlekit.models.cut import head_and_tail
from bottlekit.models.macs import macs, macs_until
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

INPUT = (1, 3, 64, 64)


def test_layers_by_hand() -> None:
    assert macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), (1, 3, 10, 10)) == 8 * 10 * 10 * 3 * 9
    assert macs(nn.Conv2d(8, 8, 3, padding=1, groups=4), (1, 8, 10, 10)) == 8 * 10 * 10 * 2 * 9
    assert macs(nn.Linear(20, 5), (3, 20)) == 3 * 20 * 5
    assert macs(nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), (1, 4, 5, 5)) == 4 * 5 * 5 * 2 * 9
    assert macs(nn.ReLU(), (1, 3)) == 0


@pytest.mark.parametrize(
    ("name", "millions"),
    # the papers of ResNet and MobileNetV2, and torchvision's documentation
    [("resnet18", 1814), ("resnet50", 4089), ("mobilenet_v2", 301), ("vgg16", 15470)],
)
def test_well_known_networks_at_224(name: str, millions: int) -> None:
    assert round(macs(backbone_on_meta(name, 1000), (1, 3, 224, 224)) / 1e6) == millions


def test_batches_count_times_their_size() -> None:
    network = backbone_on_meta("resnet18", 10)
    assert macs(network, (5, 3, 64, 64)) == 5 * macs(network, INPUT)


def test_halves_add_up_to_the_whole_and_the_unit() -> None:
    spec = BottleneckSpec("bottlenet", "rb3", 4, 2, 3)
    network = SplitNetwork(ModelSpec("resnet18", 10, 64), spec, CodecSpec("raw")).eval()
    unit = macs(network.unit, (1, 128, 8, 8))
    assert unit == 2 * (128 * 4 * 64) + 2 * (4 * 4 * 9 * 16)
    halves = macs(network.head, INPUT) + macs(network.tail, (1, *network.feature_shape))
    assert halves == macs(network.backbone, INPUT) + unit


def test_until_each_split_is_the_work_of_that_head() -> None:
    network = backbone_on_meta("resnet18", 10)
    until = macs_until(network, INPUT, ["layer1.0", "layer3.1"])
    assert until == {path: macs(head_and_tail(network, path)[0], INPUT) for path in ("layer1.0", "layer3.1")}


def test_the_network_is_left_as_it_is(lively: Callable[..., nn.Module], images: Tensor) -> None:
    network = lively("resnet18")
    with torch.no_grad():
        before = network(images)
        macs(network, INPUT)
        macs_until(network, INPUT, ["layer1.0"])
        assert torch.equal(network(images), before)
    assert all(not module._forward_hooks for module in network.modules())
