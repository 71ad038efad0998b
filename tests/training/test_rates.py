"""One network for several settings of its codec, and a static range that training keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bottlekit.errors import UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training.bottleneck import BottleneckTraining
from bottlekit.training.data import DataSet
from bottlekit.training.loop import own_dice
from bottlekit.training.rates import SeveralCodecs, codecs_of_rates
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import measured_rates, starting_range, train_backbone, train_bottleneck

MODEL = ModelSpec("cifar_resnet8", 10, 32)
UNIT = BottleneckSpec("bottlenet", "rb1", channels=2)
STATIC = CodecSpec("learned", bits=4, range="static")
ONCE = Recipe(epochs=1, batch_size=16, learning_rate=0.01)


@pytest.fixture
def split() -> SplitNetwork:
    with own_dice(0):
        return SplitNetwork(MODEL, UNIT, CodecSpec("learned", bits=4))


@pytest.fixture(name="net")
def _net(tmp_path: Path, few: DataSet) -> Path:
    none = dataclasses.replace(ONCE, epochs=0)
    train_backbone(tmp_path / "net", MODEL.backbone, few, none, quiet=True)
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("name", "setting", "rates"),
    [
        ("jpeg", "quality", (50, 1, 20)),
        ("jpeg-lean", "quality", (1, 9)),
        ("learned", "bits", (4, 1)),
        ("raw", "bits", (8, 2)),
    ],
)
def test_rates_are_qualities_where_there_are_any(name: str, setting: str, rates: tuple[int, ...]) -> None:
    codecs = codecs_of_rates(CodecSpec(name), rates)
    assert [getattr(codec, setting) for codec in codecs] == sorted(rates)
    assert {dataclasses.replace(codec, bits=8, quality=20) for codec in codecs} == {CodecSpec(name)}


@pytest.mark.parametrize(
    ("rates", "message"),
    [((2,), "two or more"), ((2, 2), "different"), ((2, 9), "--rates 9 is no setting of --codec raw")],
)
def test_rates_that_do_not_exist_are_refused(rates: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codecs_of_rates(CodecSpec("raw"), rates)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_each_setting_codes_its_share_of_a_batch(split: SplitNetwork, count: int) -> None:
    codecs = codecs_of_rates(split.codec, (1, 2, 8))
    with own_dice(1):
        feature = torch.randn(count, *split.feature_shape).abs()
    received = SeveralCodecs(split, codecs)(feature)
    shares = [len(part) for part in feature.tensor_split(3)]
    expected = []
    for image, codec in zip(feature, np.repeat(np.array(codecs, dtype=object), shares), strict=True):
        split.take_codec(codec)
        device = split.codec_layer.codec
        expected.append(torch.from_numpy(device.decode(device.encode(image.numpy()))))
    assert torch.equal(received, torch.stack(expected))


def test_the_gradient_passes_every_setting(split: SplitNetwork) -> None:
    feature = torch.rand(6, *split.feature_shape, requires_grad=True)
    SeveralCodecs(split, codecs_of_rates(split.codec, (1, 4, 8)))(feature).sum().backward()
    assert feature.grad is not None
    assert torch.equal(feature.grad, torch.ones_like(feature))


def test_one_checkpoint_for_several_rates(net: Path, few: DataSet) -> None:
    how = BottleneckTraining(rate_weight=0.001, distill_epochs=1, rates=(1, 4))
    output = net.with_name("several")
    trained = train_bottleneck(output, net, UNIT, STATIC, ONCE, few, how=how, quiet=True)
    rows = trained.accuracy["rates"]
    assert [row["bits"] for row in rows] == [1, 4]
    assert rows[0]["payload_bytes_mean"] < rows[1]["payload_bytes_mean"]
    assert (rows[1]["split"], rows[1]["payload_bytes_mean"]) == (
        trained.accuracy["split"],
        trained.accuracy["payload_bytes_mean"],
    )
    assert trained.training["rates"] == [1, 4]
    again = load_checkpoint(output).network()
    assert isinstance(again, SplitNetwork)
    assert again.codec_layer.codec.value_range == tuple(trained.tensors["codec.range"].tolist())
    assert measured_rates(again, codecs_of_rates(STATIC, (1, 4)), few) == rows
    assert (again.codec, again.codec_layer.codec.bits) == (STATIC, 4)


def test_several_rates_train_another_network_than_one(net: Path, few: DataSet) -> None:
    one, both = (
        train_bottleneck(
            net.with_name(f"x{len(rates)}"),
            net,
            UNIT,
            STATIC,
            ONCE,
            few,
            how=BottleneckTraining(rates=rates),
            quiet=True,
        )
        for rates in ((), (1, 4))
    )
    name = next(key for key in one.tensors if key.startswith("unit.") and key.endswith("weight"))
    assert not torch.equal(one.tensors[name], both.tensors[name])
    assert "rates" not in one.accuracy


@pytest.mark.parametrize(
    ("how", "codec", "message"),
    [
        (
            BottleneckTraining(rates=tuple(range(1, 21))),
            CodecSpec("jpeg"),
            "a batch of 16 images has none for each of 20",
        ),
        (BottleneckTraining(rates=(1, 2)), CodecSpec("raw"), "--bits 8 is not among --rates 1,2"),
    ],
)
def test_rates_that_do_not_fit_are_refused(
    net: Path, few: DataSet, how: BottleneckTraining, codec: CodecSpec, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_bottleneck(net.with_name("x"), net, UNIT, codec, ONCE, few, how=how, quiet=True)


def test_naive_training_has_no_rates() -> None:
    with pytest.raises(UsageError, match="--naive leaves the codec out"):
        BottleneckTraining(naive=True, rates=(1, 2))


def test_a_static_range_is_found_and_leaves_the_network_alone(split: SplitNetwork, few: DataSet) -> None:
    before = {name: tensor.clone() for name, tensor in split.state_dict().items()}
    low, high = starting_range(split, few.train, 0)
    assert low == 0  # Behind a ReLU.
    assert 1 < high < 3  # Behind a batch norm, whose outputs have a variance of 1.
    assert starting_range(split, few.train, 0) == (low, high)
    assert all(torch.equal(tensor, before[name]) for name, tensor in split.state_dict().items())
