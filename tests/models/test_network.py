from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bottlekit.device.codecs import codec_from_spec
from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, SplitSpec, to_dict

MODEL = ModelSpec("resnet18", 10, 64)
UNIT = BottleneckSpec("bottlenet", "rb3", 4, 2, 3)
CODEC = CodecSpec("jpeg", 8, 20)


@pytest.fixture
def network(randomise: Callable[[nn.Module], nn.Module]) -> SplitNetwork:
    made = randomise(SplitNetwork(MODEL, UNIT, CODEC))
    assert isinstance(made, SplitNetwork)
    return made


def test_it_knows_its_split_and_its_feature(network: SplitNetwork, images: Tensor) -> None:
    assert network.split == SplitSpec("rb3", 3, "layer2.0", 128, 8, 8, 8)
    assert network.feature_shape == (4, 4, 4)
    assert network.head(images).shape == (2, 4, 4, 4)
    assert network.tail(network.head(images)).shape == (2, 10)


def test_without_codec_it_is_backbone_unit_backbone(network: SplitNetwork, images: Tensor) -> None:
    """Written out by hand with torchvision's modules."""
    b = network.backbone
    with torch.no_grad():
        x = b.maxpool(b.relu(b.bn1(b.conv1(images))))
        x = b.layer2[0](b.layer1(x))
        x = network.unit.restore(network.unit.reduce(x))
        x = b.layer4(b.layer3(b.layer2[1](x)))
        expected = b.fc(torch.flatten(b.avgpool(x), 1))
        assert torch.equal(network(images, with_codec=False), expected)
        assert torch.equal(network.tail(network.head(images)), expected)
        assert not torch.equal(network(images), expected)


def test_with_codec_it_is_what_head_codec_and_tail_give_on_the_device(
    network: SplitNetwork, images: Tensor
) -> None:
    codec = codec_from_spec(to_dict(CODEC), network.feature_shape)
    with torch.no_grad():
        features = network.head(images).numpy()
        payloads = [codec.encode(feature) for feature in features]
        decoded = torch.from_numpy(np.stack([codec.decode(payload) for payload in payloads]))
        assert torch.equal(network(images), network.tail(decoded))


def test_the_backbone_given_is_used_and_stays_whole(lively: Callable[..., nn.Module], images: Tensor) -> None:
    backbone = lively("resnet18")
    with torch.no_grad():
        before = backbone(images)
        network = SplitNetwork(MODEL, UNIT, CODEC, backbone)
        assert network.backbone is backbone
        assert torch.equal(backbone(images), before)


def test_names_of_the_weights(network: SplitNetwork) -> None:
    names = list(network.state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "unit"}
    assert len(names) == len(set(names)) == len(network.backbone.state_dict()) + len(network.unit.state_dict())
    in_halves = {id(p) for half in (network.head, network.tail) for p in half.parameters()}
    assert in_halves == {id(p) for p in network.parameters()}


def test_modes_reach_the_halves(network: SplitNetwork) -> None:
    for mode in (True, False):
        network.train(mode)
        modules = [*network.modules(), *network.head.modules(), *network.tail.modules()]
        assert {module.training for module in modules} == {mode}


def test_one_training_step_changes_backbone_and_unit(network: SplitNetwork, images: Tensor) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    nn.functional.cross_entropy(network(images), torch.tensor([1, 2])).backward()
    optimizer.step()
    after = network.state_dict()
    for name in ("backbone.conv1.weight", "unit.reduce.channel.conv.weight", "unit.restore.spatial.conv.weight"):
        assert not torch.equal(before[name], after[name]), name
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])


def test_a_copy_is_independent_and_whole(network: SplitNetwork, images: Tensor) -> None:
    twin = copy.deepcopy(network)
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(twin(images), expected)
        twin.backbone.conv1.weight.zero_()
        assert not torch.equal(twin(images), expected)
        assert torch.equal(network(images), expected)


def test_butterfly_sends_eight_bit_codes(images: Tensor) -> None:
    network = SplitNetwork(MODEL, BottleneckSpec("butterfly", "rb1", 2, 1), CodecSpec("raw", 8)).eval()
    assert network.feature_shape == (2, 16, 16)
    payload = network.codec_layer.codec.encode(network.head(images)[0].detach().numpy())
    assert len(payload) == 8 + 2 * 16 * 16


@pytest.mark.parametrize("backbone", ["alexnet", "mobilenet_v3_small", "efficientnet_b0", "regnet_x_400mf"])
def test_other_families(backbone: str, lively: Callable[..., nn.Module], images: Tensor) -> None:
    split = "rb2" if backbone.startswith("regnet") else "b2"
    model = ModelSpec(backbone, 10, 64)
    network = SplitNetwork(model, BottleneckSpec("bottlenet", split, 4, 2), CODEC, lively(backbone)).eval()
    assert network(images).shape == (2, 10)


def test_a_module_path_as_split(images: Tensor) -> None:
    network = SplitNetwork(MODEL, BottleneckSpec("bottlenet", "maxpool", 4, 2), CODEC).eval()
    assert network.split.index == 0
    assert network(images).shape == (2, 10)


def test_specs_that_do_not_fit() -> None:
    with pytest.raises(UnknownNameError, match="'rb9' does not exist; there are: rb1, rb2"):
        SplitNetwork(MODEL, BottleneckSpec("bottlenet", "rb9", 4, 2), CODEC)
    with pytest.raises(UsageError, match="--channels 65 is more than the 64 channels at rb1"):
        SplitNetwork(MODEL, BottleneckSpec("bottlenet", "rb1", 65, 2), CODEC)
    with pytest.raises(UnknownNameError, match="backbone 'resnet51'"):
        SplitNetwork(ModelSpec("resnet51", 10, 64), UNIT, CODEC)
