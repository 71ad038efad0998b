from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlekit.errors import BottlekitError
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training import loop
from bottlekit.training.data import DataSet
from bottlekit.training.loop import fit, optimizer_from_recipe, own_dice
from bottlekit.training.recipe import Recipe

RUN = {"which": "this one"}


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_seed_gives_the_same_weights_to_the_last_bit(
    few: DataSet, tiny: nn.Module, recipe: Recipe, optimizer: Any
) -> None:
    recipe = dataclasses.replace(recipe, optimizer=optimizer, learning_rate=0.01)
    first, second, other = tiny, copy.deepcopy(tiny), copy.deepcopy(tiny)
    start = _weights(tiny)
    fit(first, few, recipe, seed=1, quiet=True)
    torch.rand(17)  # somebody else throws dice in between
    fit(second, few, recipe, seed=1, quiet=True)
    fit(other, few, recipe, seed=2, quiet=True)
    assert _equal(_weights(first), _weights(second))
    assert not _equal(_weights(first), _weights(other))
    assert not _equal(_weights(first), start)


def test_showing_progress_and_evaluating_change_nothing(few: DataSet, tiny: nn.Module, recipe: Recipe) -> None:
    watched = copy.deepcopy(tiny)
    history = fit(watched, few, dataclasses.replace(recipe, evaluate_every=1), quiet=False)
    fit(tiny, few, recipe, quiet=True)
    assert _equal(_weights(watched), _weights(tiny))
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert all(0 <= record["accuracy"] <= 1 for record in history)


def test_training_leaves_the_callers_dice_alone(few: DataSet, tiny: nn.Module, recipe: Recipe) -> None:
    before = torch.get_rng_state()
    fit(tiny, few, recipe, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stopped_in_epoch", [1, 2])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    few: DataSet,
    tiny: nn.Module,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: Any,
    stopped_in_epoch: int,
) -> None:
    recipe = dataclasses.replace(recipe, optimizer=optimizer, learning_rate=0.01)
    whole, broken, resumed = tiny, copy.deepcopy(tiny), copy.deepcopy(tiny)
    history = fit(whole, few, recipe, seed=4, quiet=True)

    state = tmp_path / "x.resume"
    true_loss = loop._loss

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1] == 3 * stopped_in_epoch + 1:  # in the middle of an epoch of three steps
            raise KeyboardInterrupt
        return true_loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(broken, few, recipe, seed=4, state_path=state, run=RUN, quiet=True)
    assert state.exists()

    # The network that goes on has other weights: all of them must come from the state.
    for tensor in resumed.state_dict().values():
        tensor.zero_()
    resumed_history = fit(resumed, few, recipe, seed=4, state_path=state, resume=True, run=RUN, quiet=True)
    assert _equal(_weights(resumed), _weights(whole))
    assert [record["loss"] for record in resumed_history] == [record["loss"] for record in history]
    assert state.exists(), "the caller removes it, when the output is written"


def test_a_finished_run_is_not_trained_further(
    few: DataSet, tiny: nn.Module, recipe: Recipe, tmp_path: Path
) -> None:
    fit(tiny, few, recipe, state_path=tmp_path / "x.resume", run=RUN, quiet=True)
    trained = _weights(tiny)
    fit(tiny, few, recipe, state_path=tmp_path / "x.resume", resume=True, run=RUN, quiet=True)
    assert _equal(_weights(tiny), trained)


def test_no_epochs_change_no_weight(few: DataSet, tiny: nn.Module, recipe: Recipe) -> None:
    before = _weights(tiny)
    assert fit(tiny, few, dataclasses.replace(recipe, epochs=0), quiet=True) == []
    assert _equal(_weights(tiny), before)
    assert not tiny.training


def test_the_loss_falls(few: DataSet, tiny: nn.Module, recipe: Recipe) -> None:
    history = fit(tiny, few, dataclasses.replace(recipe, epochs=8, learning_rate=0.2), quiet=True)
    assert history[0]["loss"] == pytest.approx(math.log(10), abs=0.5)
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


def test_a_loss_that_is_no_number_says_where_and_what_to_do(few: DataSet, tiny: nn.Module, recipe: Recipe) -> None:
    with torch.no_grad():
        tiny[6].weight.fill_(float("inf"))  # type: ignore[index, union-attr, operator]
    with pytest.raises(BottlekitError, match=r"diverged in epoch 1, step 1: the loss is nan; lower .* --lr"):
        fit(tiny, few, recipe, quiet=True)


@pytest.fixture
def split() -> SplitNetwork:
    with own_dice(0):
        return SplitNetwork(
            ModelSpec("mobilenet_v3_small", 10, 32),
            BottleneckSpec("bottlenet", "b1", channels=2),
            CodecSpec("jpeg", quality=5),
        )


def test_features_that_are_no_numbers_say_the_same(few: DataSet, split: SplitNetwork, recipe: Recipe) -> None:
    with torch.no_grad():
        next(split.unit.reduce.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(BottlekitError, match=r"diverged in epoch 1, step 1: the loss is nan; lower .* --lr"):
        fit(split, few, recipe, with_codec=True, quiet=True)


def test_the_codec_is_seen_forward_and_is_the_identity_backward(few: DataSet, split: SplitNetwork) -> None:
    """The gradient of the whole network is the tail's gradient at what the server received."""
    split.eval()
    images, labels = torch.stack([few.train[index][0] for index in range(4)]), torch.arange(4)
    F.cross_entropy(split(images), labels).backward()
    through = {name: parameter.grad.clone() for name, parameter in split.named_parameters()}  # type: ignore[union-attr]

    split.zero_grad()
    feature = split.head(images)
    received = split.codec_layer(feature).detach().requires_grad_()
    assert not torch.equal(received, feature)
    F.cross_entropy(split.tail(received), labels).backward()
    assert received.grad is not None
    feature.backward(received.grad)
    for name, parameter in split.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, through[name]), name


def test_training_with_and_without_the_codec_differs(few: DataSet, split: SplitNetwork, recipe: Recipe) -> None:
    other = copy.deepcopy(split)
    recipe = dataclasses.replace(recipe, epochs=1)
    fit(split, few, recipe, with_codec=True, quiet=True)
    fit(other, few, recipe, with_codec=False, quiet=True)
    assert not _equal(_weights(split), _weights(other))


def test_norms_and_biases_do_not_decay(tiny: nn.Module, recipe: Recipe) -> None:
    decayed, spared = optimizer_from_recipe(tiny, recipe).param_groups
    assert decayed["weight_decay"] == 1e-3
    assert spared["weight_decay"] == 0
    assert {id(parameter) for parameter in decayed["params"]} == {
        id(tiny[0].weight), id(tiny[6].weight)  # type: ignore[index, union-attr]
    }  # fmt: skip
    assert len(decayed["params"]) + len(spared["params"]) == len(list(tiny.parameters()))


def test_lines_are_printed_where_there_is_no_terminal(
    few: DataSet, tiny: nn.Module, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny, few, recipe, title="tiny", quiet=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(",")[0] for line in captured.err.splitlines()] == [f"tiny: epoch {n}/3" for n in (1, 2, 3)]
    fit(tiny, few, recipe, quiet=True)
    assert capsys.readouterr().err == ""
