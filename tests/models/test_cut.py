from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import BACKBONES, SPLIT_POINTS, backbone_on_meta
from bottlekit.models.cut import cut_points, head_and_tail, segments

Lively = Callable[..., nn.Module]

_BIG = ("vgg", "wide_resnet101", "resnet152", "resnext101", "efficientnet_b3", "efficientnet_b4", "efficientnet_v2")
EVERY_BACKBONE = [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith(_BIG) and name != "vgg11" else name
    for name in BACKBONES
]


def _assert_equal_halves(network: nn.Module, path: str, images: Tensor) -> None:
    head, tail = head_and_tail(network, path)
    with torch.no_grad():
        whole = network(images)
        halves = tail(head(images))
    assert torch.isfinite(whole).all()
    assert not torch.equal(whole[0], whole[1]), "the network does not look at its input"
    assert torch.equal(halves, whole)


@pytest.mark.parametrize("name", EVERY_BACKBONE)
def test_halves_equal_the_whole_at_one_block_of_every_backbone(name: str, lively: Lively, images: Tensor) -> None:
    points = list(SPLIT_POINTS[name].values())
    _assert_equal_halves(lively(name), points[len(points) // 2], images)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_declared_split_point_is_crossed_by_one_tensor(name: str) -> None:
    points = cut_points(backbone_on_meta(name, 10))
    declared = list(SPLIT_POINTS[name].values())
    assert [path for path in points if path in declared] == declared


def test_the_cut_points_of_a_network_are_where_cutting_works() -> None:
    network = backbone_on_meta("resnet18", 10)
    points = cut_points(network)
    assert points[:6] == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.1"]
    assert points[-4:] == ["layer4.1", "layer4", "avgpool", "fc"]
    for path, module in network.named_modules():
        if path and type(module).__name__ != "Sequential":
            try:
                head_and_tail(network, path)
                works = True
            except UsageError:
                works = False
            assert works == (path in points), path


@pytest.mark.parametrize("split", SPLIT_POINTS["resnet18"])
def test_all_blocks_of_resnet18(split: str, lively: Lively, images: Tensor) -> None:
    _assert_equal_halves(lively("resnet18"), SPLIT_POINTS["resnet18"][split], images)


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLIT_POINTS["resnet50"])
def test_all_sixteen_blocks_of_resnet50(split: str, lively: Lively, images: Tensor) -> None:
    _assert_equal_halves(lively("resnet50"), SPLIT_POINTS["resnet50"][split], images)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_training_mode_reaches_both_halves(name: str, lively: Lively, images: Tensor) -> None:
    """Batch statistics, dropout and stochastic depth behave in the halves as in the whole."""
    network = lively(name).train()
    twin = copy.deepcopy(network)
    head, tail = head_and_tail(twin, list(SPLIT_POINTS[name].values())[2])
    assert {module.training for half in (head, tail) for module in half.modules()} == {True}
    torch.manual_seed(11)
    whole = network(images)
    torch.manual_seed(11)
    halves = tail(head(images))
    assert torch.equal(whole, halves)
    for (key, expected), found in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(expected, found), key
    twin.eval()
    assert not torch.equal(tail(head(images)), halves)
    assert torch.equal(tail(head(images)), network.eval()(images))


def test_parameters_are_shared_not_copied(lively: Lively, images: Tensor) -> None:
    network = lively("resnet18")
    head, tail = head_and_tail(network, "layer2.1")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    in_head = {names[id(parameter)] for parameter in head.parameters()}
    in_tail = {names[id(parameter)] for parameter in tail.parameters()}
    assert in_head | in_tail == set(names.values())
    assert in_head & in_tail == set()
    assert "layer2.1.bn2.weight" in in_head
    assert "layer3.0.conv1.weight" in in_tail
    tail(head(images)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_halves_of_a_network_in_evaluation_mode_are_in_it(lively: Lively) -> None:
    halves = head_and_tail(lively("resnet18"), "layer2.1")
    assert {module.training for half in halves for module in half.modules()} == {False}


def test_moving_the_network_moves_the_halves(lively: Lively, images: Tensor) -> None:
    network = lively("resnet18")
    head, tail = head_and_tail(network, "layer2.1")
    network.double()
    assert torch.equal(tail(head(images.double())), network(images.double()))


def test_loading_into_the_network_loads_the_halves(lively: Lively, images: Tensor) -> None:
    network = backbone_on_meta("resnet18", 10)
    head, tail = head_and_tail(network, "layer2.1")
    other = lively("resnet18")
    network.load_state_dict(other.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(tail(head(images)), other(images))


def test_the_network_itself_is_left_alone(lively: Lively) -> None:
    network = lively("resnet18")
    before = list(network.state_dict())
    head_and_tail(network, "layer1.0")
    assert list(network.state_dict()) == before
    assert not network.training


@pytest.mark.parametrize("path", ["features.0", "features.3"])
def test_a_tail_that_begins_in_place_does_not_overwrite_the_feature(
    path: str, lively: Lively, images: Tensor
) -> None:
    """vgg11's convolutions are followed by an in-place ReLU; the feature belongs to the caller."""
    network = lively("vgg11")
    head, tail = head_and_tail(network, path)
    with torch.no_grad():
        feature = head(images)
        kept = feature.clone()
        first = tail(feature)
    assert (kept < 0).any()
    assert torch.equal(feature, kept)
    assert torch.equal(tail(feature), first)
    _assert_equal_halves(network, path, images)


class _TwoBranches(nn.Module):
    """y = out(a(x) + b(x)), with modules that cannot be cut at."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a = nn.Conv2d(4, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)
        self.pair = _Pair()
        self.unused = nn.ReLU()
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        first, second = self.pair(self.a(stem), self.b(stem))
        result: Tensor = self.out(first + second)
        return result


class _Pair(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first * 2, second * 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a", "the rest of the network needs 2 tensors .*the output of stem, the output of a"),
        ("unused", "it runs 0 times in one forward pass"),
        ("pair", "it returns a tuple"),
    ],
)
def test_where_a_network_cannot_be_cut(path: str, message: str) -> None:
    class _Opened(_TwoBranches):
        """Tracing goes into `pair`, because it has a child."""

        def __init__(self) -> None:
            super().__init__()
            self.pair.child = nn.Identity()

    with pytest.raises(UsageError, match=message):
        head_and_tail(_Opened(), path)


def test_where_the_same_network_can_be_cut() -> None:
    network = _TwoBranches().eval()
    image = torch.randn(1, 3, 2, 2)
    head, tail = head_and_tail(network, "stem")
    assert torch.equal(tail(head(image)), network(image))
    head, tail = head_and_tail(network, "out")
    assert torch.equal(tail(head(image)), network(image))


def test_a_cut_that_the_input_jumps_over() -> None:
    class _Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = x + self.block(x)
            return result

    with pytest.raises(UsageError, match="the input x, the output of block"):
        head_and_tail(_Skips(), "block")


def test_a_side_branch_that_nothing_reads() -> None:
    class _Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(3, 3, 1)
            self.main = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.side(x)
            result: Tensor = self.main(x)
            return result

    with pytest.raises(UsageError, match=r"needs 1 tensors from before the cut \(the input x\)"):
        head_and_tail(_Side(), "side")


def test_a_network_whose_python_depends_on_values() -> None:
    class _Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.conv(x) if x.sum() > 0 else x)

    with pytest.raises(UsageError, match="_Dynamic cannot be cut, because its forward depends on values"):
        head_and_tail(_Dynamic(), "conv")


def test_a_module_that_runs_more_than_once() -> None:
    with pytest.raises(UsageError, match=r"'layer1\.0\.relu': it runs 2 times"):
        head_and_tail(backbone_on_meta("resnet18", 10), "layer1.0.relu")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layer9", "module of ResNet 'layer9' does not exist; there are: conv1, bn1"),
        ("layer1.7", "module of layer1 '7' does not exist; there are: 0, 1. It was asked for as 'layer1.7'"),
        ("", "module of ResNet '' does not exist"),
    ],
)
def test_a_path_that_is_no_module(path: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        head_and_tail(backbone_on_meta("resnet18", 10), path)


def test_segments_chained_are_the_network(lively: Lively, images: Tensor) -> None:
    network = lively("resnet18")
    pieces = segments(network, ["layer1.0", "layer1.1", "layer3.0"])
    assert len(pieces) == 4
    with torch.no_grad():
        value = images
        for piece in pieces:
            value = piece(value)
        assert torch.equal(value, network(images))


@pytest.mark.parametrize("paths", [["layer2.0", "layer1.0"], ["layer1.1", "layer1"]])
def test_segments_must_be_in_order(paths: list[str]) -> None:
    with pytest.raises(UsageError, match="must come behind"):
        segments(backbone_on_meta("resnet18", 10), paths)
