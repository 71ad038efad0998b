from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bottlekit.errors import CheckpointError, UnknownNameError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.hybrid.checkpoint import is_hybrid_checkpoint, load_hybrid_checkpoint
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec, ModelSpec
from bottlekit.training.data import DataSet, dataset_from_name
from bottlekit.training.hybrid import (
    HybridPlan,
    answers,
    calibration_mask,
    fit_hybrid,
    train_hybrid,
)
from bottlekit.training.hybrid_losses import TEACHER_TEMPERATURE, WeightedLosses
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

RECIPE = Recipe(epochs=2, batch_size=64, learning_rate=3e-3, optimizer="adamw")
SPEC = HybridSpec("rb2", 4, ("rb1", "rb2"), bottleneck=BottleneckSpec("bottlenet", "rb2", 4))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return dataset_from_name("digits", input_size=16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "net.safetensors"
    train_backbone(path, "cifar_resnet8", data, RECIPE, quiet=True)
    return path


def small() -> HybridNetwork:
    torch.manual_seed(0)
    return HybridNetwork(ModelSpec("cifar_resnet8", 10, 16), SPEC)


def test_the_joint_loss_is_the_papers_weighted_sum() -> None:
    network = small().eval()
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5)
    loss, estimate = WeightedLosses(network, [0.2, 0.3])(images, labels)
    first, second, cloud = (F.cross_entropy(answer, labels) for answer in network.every_answer(images))
    assert loss.item() == pytest.approx((0.2 * first + 0.3 * second + 0.5 * cloud).item(), rel=1e-6)
    assert estimate is None


def test_a_teacher_pulls_exits_and_cloud_to_its_answers() -> None:
    network = small().eval()
    teacher = backbone_from_name("cifar_resnet8", 10).eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5)
    objective = WeightedLosses(network, [0.0, 0.4], teacher=teacher, taught=0.75)
    loss, _ = objective(images, labels)
    with torch.no_grad():
        wanted = (teacher(images).double() / TEACHER_TEMPERATURE).softmax(1)
    _, second, cloud = network.every_answer(images)

    def expected(answer: torch.Tensor) -> float:
        mine = (answer.double() / TEACHER_TEMPERATURE).softmax(1)
        divergence = (wanted * (wanted / mine).log()).sum(1).mean()
        loss = 0.25 * F.cross_entropy(answer, labels) + 0.75 * TEACHER_TEMPERATURE**2 * divergence
        return float(loss.detach())

    assert loss.item() == pytest.approx(0.4 * expected(second) + 0.6 * expected(cloud), rel=1e-4)
    loss.backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    # The teacher is neither trained nor kept with the network.
    assert {id(one) for one in objective.parameters()} == {id(one) for one in network.parameters()}


def test_a_taught_plan_needs_its_teacher(data: DataSet) -> None:
    with pytest.raises(UsageError, match="--taught needs the full-precision network"):
        fit_hybrid(small(), data, HybridPlan((0.3, 0.3), taught=0.5), RECIPE, quiet=True)


@pytest.mark.parametrize(("weights", "learns"), [([0.4, 0.0], (True, False)), ([0.0, 0.0], (False, False))])
def test_an_exit_of_weight_0_learns_nothing(weights: list[float], learns: tuple[bool, bool]) -> None:
    network = small().train()
    loss, _ = WeightedLosses(network, weights)(torch.randn(4, 3, 16, 16), torch.arange(4))
    loss.backward()  # type: ignore[no-untyped-call]
    assert tuple(exit_.linear.weight.grad is not None for exit_ in network.exits) == learns  # type: ignore[union-attr]


def test_the_two_steps_are_the_network_and_then_the_exits(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    states: list[dict[str, torch.Tensor]] = []
    freeze = network.freeze_backbone

    def note() -> None:
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        freeze()

    monkeypatch.setattr(network, "freeze_backbone", note)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    one = Recipe(epochs=1, batch_size=256, learning_rate=1e-2)
    history = fit_hybrid(network, data, HybridPlan((0.3, 0.3), "two-step"), one, quiet=True)
    (middle,) = states
    assert [epoch["step"] for epoch in history] == [1, 2]
    changed_first = {name for name in start if not torch.equal(start[name], middle[name])}
    changed_second = {name for name, value in network.state_dict().items() if not torch.equal(value, middle[name])}
    assert not any(name.startswith("exits") for name in changed_first)
    assert any(name.startswith("pieces") for name in changed_first)
    assert changed_second == {name for name in start if name.startswith("exits")}


@pytest.mark.slow
def test_a_hybrid_network_learns_and_comes_back_from_its_file(data: DataSet, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "hybrid.safetensors"
    plan = HybridPlan((0.2, 0.3))
    written = train_hybrid(path, source, SPEC, plan, RECIPE, quiet=True)
    read = load_hybrid_checkpoint(path)
    assert (read.spec, read.threshold, read.rule, read.work) == (SPEC, written.threshold, "entropy", written.work)
    accuracy = read.accuracy
    assert accuracy["images"] == 240
    assert read.calibration["images"] == 120
    assert accuracy["split"] > 0.5
    assert accuracy["exit"] > 0.5
    assert {record["bits"] for record in read.work} == {4, 32}

    ours = answers(read.network(), data.val)
    report = ~calibration_mask(data.val.labels)
    assert (ours.exit_logits[report].argmax(1) == ours.labels[report]).mean() == pytest.approx(accuracy["exit"])
    assert sorted(ours.labels[~report].tolist()) == sorted(list(range(10)) * 12)
    baseline = read.baseline()
    assert baseline(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    again = train_hybrid(tmp_path / "again.safetensors", source, SPEC, plan, RECIPE, quiet=True)
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in written.tensors.items())


def test_the_calibration_images_are_evenly_spread() -> None:
    mask = calibration_mask([0, 1] * 30)
    assert mask.sum() == 20
    assert np.bincount(np.array([0, 1] * 30)[mask]).tolist() == [10, 10]
    with pytest.raises(UsageError, match="2 held-out images"):
        calibration_mask([0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exit_weights": (0.5, 0.5)}, "together below 1"),
        ({"exit_weights": (0.0,)}, "each be above 0"),
        ({"exit_weights": (0.5,), "way": "three-step"}, "--way must be joint or two-step"),
        ({"exit_weights": (0.5,), "allowed_drop": -0.1}, "--allowed-drop"),
        ({"exit_weights": (0.5,), "taught": 1.5}, "--taught must be 0"),
    ],
)
def test_plans_that_make_no_loss_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        HybridPlan(**options)  # type: ignore[arg-type]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="exit rule"):
        HybridPlan((0.5,), rule="loss")


def test_as_many_weights_as_exits_are_needed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 numbers for 2 exits"):
        train_hybrid(tmp_path / "x", source, SPEC, HybridPlan((0.1, 0.1, 0.1)), RECIPE, quiet=True)
    with pytest.raises(UsageError, match="is a folder"):
        train_hybrid(tmp_path, source, SPEC, HybridPlan((0.1, 0.1)), RECIPE, quiet=True)


def test_other_files_are_no_hybrid_checkpoints(source: Path, tmp_path: Path) -> None:
    assert not is_hybrid_checkpoint(source)
    with pytest.raises(CheckpointError, match="no hybrid checkpoint of version 1"):
        load_hybrid_checkpoint(source)
    with pytest.raises(CheckpointError, match="no such file"):
        load_hybrid_checkpoint(tmp_path / "absent")
    (tmp_path / "text").write_text("no tensors", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no hybrid checkpoint"):
        load_hybrid_checkpoint(tmp_path / "text")
