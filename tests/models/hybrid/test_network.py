from __future__ import annotations

import pytest
import torch
from torch import nn

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.hybrid.blocks import folded
from bottlekit.models.hybrid.low_bit import FoldedConv2d, LowBitConv2d
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.models.hybrid.work import work_of_network
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

SMALL = ModelSpec("cifar_resnet8", 10, 16)


def network(model: ModelSpec = SMALL, last: str = "rb2", bits: int = 4, **options: object) -> HybridNetwork:
    torch.manual_seed(1)
    options = {"exits": (last,), **options}
    return HybridNetwork(model, HybridSpec(last, bits, **options)).eval()  # type: ignore[arg-type]


def kinds(module: nn.Module) -> dict[str, str]:
    return {
        name: "low" if isinstance(child, LowBitConv2d) else "full"
        for name, child in module.named_modules()
        if isinstance(child, LowBitConv2d) or type(child) is nn.Conv2d
    }


def test_blocks_are_low_bit_and_stem_shortcuts_and_cloud_are_not() -> None:
    hybrid = network(ModelSpec("cifar_resnet32", 10, 32), "rb8", 1)
    found = kinds(hybrid)
    low = [name for name, kind in found.items() if kind == "low"]
    assert len(low) == 16
    assert all(name.startswith("pieces.0.layer") and name.endswith(("conv1", "conv2")) for name in low)
    assert found["pieces.0.conv1"] == found["pieces.0.layer2.0.downsample.0"] == "full"
    assert {kind for name, kind in found.items() if name.startswith("rest")} == {"full"}


@pytest.mark.parametrize(
    ("backbone", "last", "expected"),
    [
        ("resnet18", "rb3", 6),
        ("resnet50", "rb4", 12),
        ("vgg11_bn", "b3", 3),
        ("alexnet", "b3", 2),
        ("efficientnet_b0", "b2", 5),
        ("regnet_y_400mf", "rb2", 6),
    ],
)
def test_torchvisions_blocks_are_quantised_too(backbone: str, last: str, expected: int) -> None:
    hybrid = network(ModelSpec(backbone, 10, 96), last, 2)
    assert len(hybrid.low_bit_paths) == expected
    assert not [path for path in hybrid.low_bit_paths if "downsample" in path or "proj" in path or "fc" in path]
    answers = hybrid.every_answer(torch.randn(2, 3, 96, 96))
    assert [answer.shape for answer in answers] == [(2, 10), (2, 10)]


def test_in_full_precision_the_cloud_answers_what_the_backbone_answers() -> None:
    torch.manual_seed(0)
    backbone = backbone_from_name("cifar_resnet8", 10).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = backbone(images)
        spec = HybridSpec("rb2", 32, ("rb1", "rb2"))
        hybrid = HybridNetwork(SMALL, spec, backbone).eval()
        assert torch.equal(hybrid(images, with_codec=False), expected)


@pytest.mark.parametrize("bits", [1, 4, 32])
@pytest.mark.parametrize(
    "unit", [None, BottleneckSpec("bottlenet", "rb2", 2), BottleneckSpec("butterfly", "rb2", 3, 1)]
)
def test_the_parts_are_the_network(bits: int, unit: BottleneckSpec | None) -> None:
    hybrid = network(bits=bits, exits=("rb1", "rb2"), bottleneck=unit)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        answers = hybrid.every_answer(images)
        feature, exit_logits = hybrid.edge(images)
        assert feature.shape[1:] == hybrid.feature_shape
        assert torch.equal(exit_logits, answers[1])
        assert torch.equal(hybrid.cloud(hybrid.codec_layer(feature)), answers[2])
        assert torch.equal(hybrid(images), answers[2])
        feature_folded, exit_folded = folded(hybrid.edge)(images)
    assert torch.allclose(feature_folded, feature, atol=1e-5)
    assert torch.allclose(exit_folded, exit_logits, atol=1e-5)


def test_folding_leaves_the_network_as_it_was() -> None:
    hybrid = network()
    copied = folded(hybrid.edge)
    assert any(isinstance(module, FoldedConv2d) for module in copied.modules())
    assert not any(isinstance(module, LowBitConv2d) for module in copied.modules())
    assert len([m for m in hybrid.modules() if isinstance(m, LowBitConv2d)]) == 4


def test_an_exit_pools_windows_of_three() -> None:
    hybrid = network(ModelSpec("cifar_resnet32", 10, 32), "rb8", 32, exits=("rb2", "rb8"))
    assert [exit_.linear.in_features for exit_ in hybrid.exits] == [16 * 10 * 10, 32 * 5 * 5]  # type: ignore[union-attr]
    tiny = network(ModelSpec("cifar_resnet8", 10, 8), "rb3", 32)
    assert tiny.exits[0].linear.in_features == 64  # type: ignore[union-attr]


def test_only_the_exits_learn_when_the_backbone_is_frozen() -> None:
    hybrid = network(exits=("rb1", "rb2"))
    hybrid.freeze_backbone()
    hybrid.train()
    before = {name: tensor.clone() for name, tensor in hybrid.state_dict().items()}
    learning = [parameter for parameter in hybrid.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    sum(answer.square().sum() for answer in hybrid.every_answer(torch.randn(4, 3, 16, 16))).backward()  # type: ignore[union-attr]
    optimizer.step()
    changed = {name for name, tensor in hybrid.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"exits.{i}.linear.{kind}" for i in (0, 1) for kind in ("weight", "bias")}


def test_the_work_of_every_layer_is_counted_with_its_bits() -> None:
    hybrid = network(ModelSpec("cifar_resnet32", 10, 32), "rb8", 1)
    work = {record["name"]: record for record in work_of_network(hybrid)}
    block = work["pieces.0.layer1.0.conv1"]
    assert block["macs"] == 16 * 16 * 9 * 32 * 32
    assert (block["bits"], block["place"], block["weights"]) == (1, "edge", 16 * 16 * 9)
    assert block["inputs"] == block["outputs"] == 16 * 32 * 32
    assert work["pieces.0.conv1"]["bits"] == work["pieces.0.layer2.0.downsample.0"]["bits"] == 32
    assert work["exits.0.linear"]["macs"] == 32 * 5 * 5 * 10
    assert sum(record["macs"] for record in work.values() if record["place"] != "exit") == 69_124_736
    low = sum(record["macs"] for record in work.values() if record["bits"] == 1)
    assert low == (10 * 16 * 16 * 1024 + 16 * 32 * 256 + 5 * 32 * 32 * 256) * 9
    assert not hybrid.training


def test_a_units_halves_work_at_their_places() -> None:
    work = work_of_network(network(bottleneck=BottleneckSpec("bottlenet", "rb2", 2)))
    places = {record["name"].split(".")[0]: record["place"] for record in work}
    assert places["reduce"] == "edge"
    assert places["restore"] == "cloud"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 3}, "--edge-bits must be 1, 2, 4, 8, or 32 for full precision, not 3"),
        ({"exits": ()}, "at least one exit"),
        ({"exits": ("rb1", "rb2", "rb1")}, "3 exits are more than the 2 blocks up to rb2"),
        (
            {"exits": ("rb3",)},
            "the exit at rb3 lies behind rb2, where the device's part ends; it can be at rb1, rb2",
        ),
        ({"exits": ("rb2", "rb1")}, "different blocks in their order"),
        ({"exits": ("rb1", "rb1")}, "different blocks in their order"),
        ({"pool": 0}, "--exit-pool must be at least 1"),
        ({"bottleneck": BottleneckSpec("bottlenet", "rb1", 2)}, "stands at rb1, and the device's part ends at rb2"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        network(**change)  # type: ignore[arg-type]


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="rb9"):
        network(last="rb9")


def test_where_nothing_would_be_quantised_is_refused() -> None:
    with pytest.raises(UsageError, match="no convolution to quantise up to b1"):
        network(ModelSpec("vgg11_bn", 10, 32), "b1", 4)


def test_the_codec_stands_between_the_parts() -> None:
    hybrid = network(codec=CodecSpec("raw", bits=2))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(hybrid(images), hybrid(images, with_codec=False))
