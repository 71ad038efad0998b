"""The two stages of a bottleneck's training, and paying for bytes in both."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bottlekit.errors import BottlekitError, UsageError
from bottlekit.models.checkpoint import Checkpoint, load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training import loop
from bottlekit.training.bottleneck import BottleneckTraining, fit_bottleneck, warm_up_path
from bottlekit.training.data import DataSet
from bottlekit.training.loop import own_dice
from bottlekit.training.objective import Imitation
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone, train_bottleneck

UNIT = BottleneckSpec("bottlenet", "b1", channels=2)
CODEC = CodecSpec("learned", bits=4)
BOTH = BottleneckTraining(rate_weight=0.02, distill_epochs=2)


@pytest.fixture
def once() -> Recipe:
    return Recipe(epochs=1, batch_size=16, learning_rate=0.01)


@pytest.fixture
def split() -> SplitNetwork:
    with own_dice(0):
        return SplitNetwork(ModelSpec("mobilenet_v3_small", 10, 32), UNIT, CODEC)


@pytest.fixture(name="net")
def _net(tmp_path: Path, few: DataSet, once: Recipe) -> Path:
    train_backbone(tmp_path / "net", "mobilenet_v3_small", few, dataclasses.replace(once, epochs=0), quiet=True)
    return tmp_path / "net"


def _fit(network: SplitNetwork, few: DataSet, recipe: Recipe, how: BottleneckTraining, state: Path) -> Any:
    return fit_bottleneck(network, few, recipe, how, 0, state, False, {"run": 1}, True)


def test_a_warm_up_changes_the_unit_alone(split: SplitNetwork, few: DataSet, once: Recipe, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in split.state_dict().items()}
    nothing_after = dataclasses.replace(once, epochs=0)
    history = _fit(split, few, nothing_after, BottleneckTraining(distill_epochs=6), tmp_path / "x.resume")
    same = {name: torch.equal(tensor, before[name]) for name, tensor in split.state_dict().items()}
    assert all(equal for name, equal in same.items() if name.startswith("backbone."))
    assert not any(equal for name, equal in same.items() if name.startswith("unit.") and name.endswith("weight"))
    assert [record["stage"] for record in history] == ["warm-up"] * 6
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(parameter.requires_grad for parameter in split.parameters())


def test_imitation_is_perfect_where_the_unit_changes_nothing(split: SplitNetwork, few: DataSet) -> None:
    class Same(torch.nn.Module):
        def forward(self, feature: torch.Tensor) -> torch.Tensor:
            return feature

    network = copy.deepcopy(split)
    network.head.reduce = network.tail.restore = network.codec_layer = Same()  # type: ignore[assignment]
    images = torch.stack([few.train[index][0] for index in range(4)])
    perfect, other = (Imitation(one).train()(images, torch.zeros(4))[0].detach() for one in (network, split))
    assert float(perfect) == pytest.approx(0, abs=1e-5)
    assert float(other) > 0.5


def test_estimated_bytes_are_in_every_record_and_the_weight_counts(
    split: SplitNetwork, few: DataSet, once: Recipe, tmp_path: Path
) -> None:
    longer = dataclasses.replace(once, epochs=10, learning_rate=0.05)
    heavy, light = copy.deepcopy(split), split
    paid = _fit(heavy, few, longer, BottleneckTraining(rate_weight=0.2), tmp_path / "x.resume")
    free = _fit(light, few, longer, BottleneckTraining(rate_weight=1e-9), tmp_path / "y.resume")
    assert paid[-1]["estimated_bytes"] < 0.9 * free[-1]["estimated_bytes"]
    assert "estimated_bytes" not in _fit(light, few, once, BottleneckTraining(), tmp_path / "z.resume")[0]


@pytest.mark.parametrize("stopped_in_step", [4, 7])
def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    net: Path, few: DataSet, once: Recipe, monkeypatch: pytest.MonkeyPatch, stopped_in_step: int
) -> None:
    twice = dataclasses.replace(once, epochs=2)
    whole = train_bottleneck(net.with_name("whole"), net, UNIT, CODEC, twice, few, how=BOTH, quiet=True)
    true_loss, steps = loop._loss, []

    def interrupted(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) > stopped_in_step:
            raise KeyboardInterrupt
        return true_loss(*arguments)

    output = net.with_name("broken")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_bottleneck(output, net, UNIT, CODEC, twice, few, how=BOTH, quiet=True)
    with pytest.raises(UsageError, match="holds an interrupted run: continue it with --resume"):
        train_bottleneck(output, net, UNIT, CODEC, twice, few, how=BOTH, quiet=True)
    other = dataclasses.replace(BOTH, rate_weight=0.5)
    with pytest.raises(UsageError, match=r"belongs to another run: rate_weight was 0\.02 and is now 0\.5"):
        train_bottleneck(output, net, UNIT, CODEC, twice, few, how=other, resume=True, quiet=True)
    resumed = train_bottleneck(output, net, UNIT, CODEC, twice, few, how=BOTH, resume=True, quiet=True)
    assert _equal(resumed, whole)
    assert [record["loss"] for record in resumed.training["history"]] == [
        record["loss"] for record in whole.training["history"]
    ]
    assert sorted(path.name for path in net.parent.iterdir()) == ["broken", "net", "whole"]
    assert load_checkpoint(output).training["rate_weight"] == 0.02
    assert load_checkpoint(output).training["distill_epochs"] == 2


def _equal(left: Checkpoint, right: Checkpoint) -> bool:
    return all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())


def test_a_rate_that_is_no_number_says_what_to_do(
    split: SplitNetwork, few: DataSet, once: Recipe, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(split.unit.reduce.parameters()).fill_(float("nan"))
    with pytest.raises(BottlekitError, match=r"diverged in epoch 1, step 1: the loss is nan; lower .* --lr"):
        _fit(split, few, once, BOTH, tmp_path / "x.resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_weight": -1.0}, "--rate-weight must be a number of at least 0, not -1"),
        ({"rate_weight": float("nan")}, "--rate-weight must be a number"),
        ({"rate_weight": float("inf")}, "--rate-weight must be a number"),
        ({"distill_epochs": -1}, "--distill-epochs must be at least 0, not -1"),
        ({"naive": True, "rate_weight": 0.1}, "--naive leaves the codec out of training"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BottleneckTraining(**options)


def test_bytes_that_nothing_estimates_are_refused(net: Path, few: DataSet, once: Recipe) -> None:
    with pytest.raises(UsageError, match="--rate-weight estimates the bytes of --codec learned, not of jpeg"):
        train_bottleneck(net.with_name("x"), net, UNIT, CodecSpec("jpeg"), once, few, how=BOTH, quiet=True)


def test_the_state_of_a_warm_up_lies_beside_the_other() -> None:
    assert warm_up_path(Path("a/x.safetensors.resume")) == Path("a/x.safetensors.warm-up.resume")
