"""Training on two machines is training on one: every placement, both optimisers, and servers that die."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottlekit.device.segments.client import SegmentClient
from bottlekit.device.segments.server import SegmentServer
from bottlekit.device.segments.source import Span
from bottlekit.errors import BundleError, PayloadError, WireError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.specs import ModelSpec
from bottlekit.training.together.pieces import Pieces, optimizer_from_settings
from bottlekit.training.together.plan import TrainingPlan, training_plan_from_file
from bottlekit.training.together.trainer import Trainer
from bottlekit.training.together.work import TrainingWork

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import in_a_thread

MODEL = ModelSpec("cifar_resnet8", 10, 32)
CUTS = ("conv1", "layer1", "layer2", "layer3")
SGD = {"optimizer": "sgd", "momentum": "0.9", "weight_decay": "0.0005"}
ADAMW = {"optimizer": "adamw", "momentum": "0.9", "weight_decay": "0.01"}


@contextlib.contextmanager
def serving(work: Any = TrainingWork, port: int = 0) -> Iterator[SegmentServer]:
    server = SegmentServer(work, port=port)
    with server, in_a_thread(server):
        yield server


def network() -> nn.Module:
    torch.manual_seed(0)
    return backbone_from_name(MODEL.backbone, MODEL.num_classes)


def batch(step: int) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 32, 32, generator=dice), torch.randint(0, 10, (4,), generator=dice)


def rate(step: int) -> float:
    return 0.1 / (step + 1)


def trained_here(steps: int, settings: dict[str, str]) -> dict[str, Tensor]:
    """The weights of local training, with the network in one piece and one optimiser."""
    whole = network().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer_from_settings(dict(whole.named_parameters()), settings)
    for step in range(steps):
        images, labels = batch(step)
        images = images.to(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(whole(images), labels))
        optimizer.step()
    return whole.state_dict()


def step_of(trainer: Trainer, step: int) -> float:
    images, labels = batch(step)
    return trainer.step(images, lambda logits: F.cross_entropy(logits, labels), rate(step))


def check_equal(trainer: Trainer, expected: dict[str, Tensor]) -> None:
    found = trainer.pieces.network.state_dict()
    assert list(found) == list(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7, msg=name)


def plan(forward: str, backward: str, cuts: tuple[str, ...] = CUTS) -> TrainingPlan:
    """A letter for each piece: h here, t there."""
    return TrainingPlan(MODEL, cuts, *(tuple(letter == "t" for letter in word) for word in (forward, backward)))


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("hthth", "hthth"),
        ("httth", "httth"),
        ("httth", "tthht"),
        ("thhtt", "hthth"),
        ("ttttt", "ttttt"),
        ("hhhhh", "ttttt"),
        ("ttttt", "hhhhh"),
        ("hhhhh", "hhhhh"),
    ],
)
@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_every_placement_gives_the_weights_of_one_machine(
    forward: str, backward: str, settings: dict[str, str]
) -> None:
    with serving() as server, Trainer(network(), plan(forward, backward), server.address, settings) as trainer:
        for step in range(3):
            step_of(trainer, step)
        check_equal(trainer, trained_here(3, settings))
        assert trainer.redone == 0


def test_neighbours_in_the_same_places_are_one_piece() -> None:
    merged = plan("htthh", "htthh").merged()
    assert merged == plan("hth", "hth", ("conv1", "layer2"))
    assert plan("hhhhh", "hhhhh").merged().cuts == ()


class Mortal(TrainingWork):
    """Dies, with its connection, at one of its requests."""

    left = 0

    def run(self, *request: Any) -> Any:
        Mortal.left -= 1
        if Mortal.left == 0:
            raise SystemExit("killed")
        return super().run(*request)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("request_number", range(5, 28, 2))
def test_a_server_that_dies_anywhere_takes_the_step_in_flight_at_most(request_number: int) -> None:
    Mortal.left = request_number
    placed = plan("httht", "tthht").merged()
    with serving(Mortal) as server, Trainer(network(), placed, server.address, SGD, patience_s=30) as trainer:
        for step in range(3):
            step_of(trainer, step)
        check_equal(trainer, trained_here(3, SGD))
        assert Mortal.left < 0
        assert trainer.redone <= 1


def test_a_server_that_stays_away_leaves_the_network_as_after_the_step_before() -> None:
    with serving() as server:
        trainer = Trainer(network(), plan("hthth", "hthth"), server.address, SGD, patience_s=0.2)
        trainer.__enter__()
        step_of(trainer, 0)
        step_of(trainer, 1)
    with pytest.raises(WireError, match="no server answers"):
        step_of(trainer, 2)
    check_equal(trainer, trained_here(2, SGD))
    with serving() as server, Trainer(network(), plan("hthth", "hthth"), server.address, SGD) as another:
        another.load_state(trainer.state())
        another._hang_up()  # so that the next step brings the state to the server
        step_of(another, 2)
        check_equal(another, trained_here(3, SGD))


def test_activations_cross_once_and_labels_never() -> None:
    crossed: list[tuple[list[str], list[str]]] = []

    class Spying(TrainingWork):
        def run(self, task: int, segment: int, arrays: Any, wanted: list[str]) -> Any:
            crossed.append((sorted(arrays), wanted)) if task in (2, 3) else None
            return super().run(task, segment, arrays, wanted)

    with serving(Spying) as server, Trainer(network(), plan("htth", "hthh", CUTS[:3]), server.address, SGD) as one:
        step_of(one, 0)
    # Piece 2's backward is here although its forward is there: its input comes with the last answer before.
    assert crossed == [(["a1"], []), ([], ["a3", "a2"]), (["g2"], ["g1"])]


BITS = np.asarray(np.float64(0.1).view(np.int64))
LOAD, FORWARD, BACKWARD, APPLY, INFER = 4, 2, 3, 5, 1


@pytest.mark.parametrize(
    ("task", "segment", "arrays", "words"),
    [
        (INFER, 0, {}, "task 1 is not for training"),
        (77, 0, {}, "task 77 is not for training"),
        (FORWARD, 5, {}, "no segment 5"),
        (FORWARD, 0, {}, "a1 is not here"),
        (FORWARD, 0, {"a99": np.zeros(1, np.float32)}, "a99 is no activation"),
        (FORWARD, 0, {"a1": np.zeros(1, np.int64)}, "a1 is no activation"),
        (BACKWARD, 0, {"g2": np.zeros((4, 16, 32, 32), np.float32)}, "lacks its forward's input"),
        (APPLY, 0, {}, "lacks its learning rate"),
        (APPLY, 0, {"rate_bits": np.asarray(np.float64(np.nan).view(np.int64))}, "is no learning rate"),
        (APPLY, 0, {"rate_bits": BITS}, "comes before the backward"),
        (LOAD, 0, {"x": np.zeros(1, np.float32)}, "are others than sent"),
    ],
)
def test_requests_that_do_not_fit_are_refused(task: int, segment: int, arrays: Any, words: str) -> None:
    with serving() as server:
        trainer = Trainer(network(), plan("hth", "hth", ("conv1", "layer1")), server.address, SGD)
        with trainer:
            assert trainer._client is not None
            with pytest.raises(PayloadError, match=words):
                trainer._client.run(task, segment, arrays, [])


def test_weights_of_another_shape_are_refused() -> None:
    pieces = Pieces(network(), CUTS, [1], SGD)
    state = pieces.state(1)
    name = next(iter(state))
    for value in (np.zeros((2, 2), np.float32), state[name].astype(np.float16)):
        with pytest.raises(PayloadError, match="must be"):
            pieces.load(1, {**state, name: value})
    with pytest.raises(PayloadError, match="belongs to no weight"):
        pieces.load(1, {**state, "optimizer/momentum_buffer/other": state[name]})
    with pytest.raises(PayloadError, match="no piece 9"):
        Pieces(network(), CUTS, [9], SGD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet9000"}, "the hash is not"),
        ({"classes": "x"}, "settings are damaged"),
        ({"classes": "1"}, "settings are damaged"),
        ({"cuts": "conv1,nothing"}, "the hash is not"),
        ({"optimizer": "magic"}, "no optimiser 'magic'"),
        ({"momentum": "much"}, "settings are damaged"),
    ],
)
def test_a_hello_that_makes_no_sense_is_refused(change: dict[str, str], words: str) -> None:
    good = Trainer(network(), plan("hthth", "hthth"), ("127.0.0.1", 1), SGD)
    settings = {**good._settings, **change}
    with serving() as server, pytest.raises(BundleError, match=words):
        SegmentClient(*server.address, good.plan.sha256, [Span(1, 1)], settings).__enter__()


def test_a_cut_that_more_than_one_tensor_crosses_is_refused_before_anything_is_sent() -> None:
    from bottlekit.errors import UsageError

    with pytest.raises(UsageError, match="cannot cut at 'layer1.0.conv1'"):
        Trainer(network(), plan("ht", "ht", ("layer1.0.conv1",)), ("127.0.0.1", 1), SGD)


def document() -> dict[str, Any]:
    return {
        "format": "bottlekit-schedule",
        "version": 1,
        "training": {"backbone": "cifar_resnet8", "num_classes": 10, "input_size": 32, "cuts": list(CUTS)},
        "schedule": {
            "segments": [
                {"machine": "mobile", "first": 0, "last": 0},
                {"machine": "cloud", "first": 1, "last": 6},
                {"machine": "mobile", "first": 7, "last": 9},
            ]
        },
    }


def test_a_schedule_of_twice_as_many_layers_is_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(document()), encoding="utf-8")
    # Layers 5 and 6 are the backward of pieces 4 and 3.
    assert training_plan_from_file(str(path)) == plan("htt", "hht", ("conv1", "layer2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.pop("training"), "is no schedule of training"),
        (lambda one: one.update(format="x"), "is no schedule of training"),
        (lambda one: one["training"]["cuts"].pop(), "schedules 10 layers; 4 pieces have 8"),
        (lambda one: one["training"].update(num_classes=1), "training.num_classes"),
        (lambda one: one["schedule"]["segments"].pop(1), "come where layer 1"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    value = copy.deepcopy(document())
    change(value)
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(BundleError, match=words):
        training_plan_from_file(str(path))
