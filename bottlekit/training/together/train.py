"""`bottlekit train-layers`: as `train_backbone`, on two machines."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bottlekit.device.files import sha256_of_file
from bottlekit.errors import BottlekitError, DataError, UsageError, WireError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import Checkpoint, backbone_from_file, save_checkpoint
from bottlekit.specs import ModelSpec
from bottlekit.training.batches import EpochOrder, readable, training_batches
from bottlekit.training.data import DataSet
from bottlekit.training.evaluate import accuracy
from bottlekit.training.interrupt import Interrupt
from bottlekit.training.loop import History, own_dice
from bottlekit.training.progress import TrainingProgress
from bottlekit.training.recipe import Recipe, learning_rate_at
from bottlekit.training.resume import load_state, refuse_to_forget, resume_path, save_state
from bottlekit.training.together.plan import TrainingPlan
from bottlekit.training.together.trainer import Trainer
from bottlekit.training.train import how_it_was_done, run_record


def train_backbone_together(
    output: Path,
    plan: TrainingPlan,
    data: DataSet,
    recipe: Recipe,
    address: tuple[str, int],
    seed: int = 0,
    weights: Path | None = None,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
    **connection: Any,
) -> tuple[Checkpoint, dict[str, int]]:
    """Train the plan's network and write its checkpoint to `output`; and what crossed, and was done again.

    The order of images, the rates and the loss are those of `train_backbone` with the same seed, and so, to the
    rounding of floating point, are the weights. The state is written after every epoch, and when the server stays
    away: `resume` goes on with the step that was in flight. `connection`: see Trainer.
    """
    model = ModelSpec(plan.model.backbone, len(data.classes), data.input_size)
    if model != plan.model:
        raise UsageError(
            f"the plan is for {plan.model.num_classes} classes and {plan.model.input_size} pixels; {data.name} has "
            f"{model.num_classes} and {model.input_size}; profile again with --classes and --input-size"
        )
    if len(data.train) < 1:
        raise DataError(f"{data.name} has no training images")
    state_path = resume_path(output)
    if not resume:
        refuse_to_forget(state_path)
    with own_dice(seed):
        if weights is None:
            network = backbone_from_name(model.backbone, model.num_classes)
        else:
            network = backbone_from_file(weights, model, replace_classifier=True)
    origin = None if weights is None else {"file": str(weights), "sha256": sha256_of_file(str(weights))}
    run = run_record("together", model, data, recipe, seed) | {"from": origin}
    settings = {
        "optimizer": recipe.optimizer,
        "momentum": repr(recipe.momentum),
        "weight_decay": repr(recipe.weight_decay),
    }
    trainer = Trainer(network, plan, address, settings, **connection)
    history = _epochs(trainer, data, recipe, seed, state_path, resume, run, quiet)
    network.eval()
    measured = {"data": data.name, "images": len(data.val), "baseline": accuracy(network, data.val)}
    checkpoint = Checkpoint.from_network(
        network,
        model,
        classes=tuple(data.classes),
        preprocessing=data.preprocessing,
        data=data.name,
        accuracy=measured,
        training=run | how_it_was_done(history, command),
    )
    save_checkpoint(output, checkpoint)
    state_path.unlink(missing_ok=True)
    crossed = {
        "sent_bytes": trainer.sent_bytes,
        "received_bytes": trainer.received_bytes,
        "steps_redone": trainer.redone,
    }
    return checkpoint, crossed


def _epochs(
    trainer: Trainer,
    data: DataSet,
    recipe: Recipe,
    seed: int,
    state_path: Path,
    resume: bool,
    run: dict[str, Any],
    quiet: bool,
) -> History:
    batches = training_batches(data.train, recipe.batch_size, seed)
    order = batches.sampler
    assert isinstance(order, EpochOrder)
    count = len(batches)
    history: History = []
    first, done, losses = 0, 0, list[float]()
    show = TrainingProgress(run["model"]["backbone"], recipe.epochs, count, quiet)
    with own_dice(seed), show, Interrupt(show.console.print) as interrupt:
        if resume:
            first, saved = load_state(state_path, run)
            trainer.load_state([{name: one.numpy() for name, one in piece.items()} for piece in saved["pieces"]])
            torch.set_rng_state(saved["dice"])
            history, done, losses = list(saved["history"]), saved["steps"], list(saved["losses"])

        def save(epoch: int, steps: int) -> None:
            pieces = [
                {name: torch.from_numpy(value.copy()) for name, value in piece.items()} for piece in trainer.state()
            ]
            state = {"pieces": pieces, "dice": torch.get_rng_state(), "history": history}
            save_state(state_path, run, epoch, {**state, "steps": steps, "losses": losses})

        with trainer:
            for epoch in range(first, recipe.epochs):
                started_s = time.monotonic()
                data.train.set_epoch(epoch)
                order.set_epoch(epoch)
                for number, (images, labels) in enumerate(readable(batches)):
                    if number < done:
                        continue  # a run that goes on in the middle of an epoch has seen these
                    rate = learning_rate_at(recipe, epoch * count + number, count)
                    with _saved_when_lost(lambda steps=number: save(epoch, steps)):  # noqa: B023
                        losses.append(_one_step(trainer, images, labels, rate, recipe, epoch, number))
                    show.step(epoch * count + number, losses[-1])
                    interrupt.raise_if_asked()
                measured = None
                if recipe.evaluate_every and (epoch + 1) % recipe.evaluate_every == 0:
                    measured = accuracy(trainer.pieces.network, data.val)
                    trainer.pieces.network.train()
                history.append(
                    {
                        "epoch": epoch + 1,
                        "loss": sum(losses) / len(losses),
                        "accuracy": measured,
                        "seconds": round(time.monotonic() - started_s, 2),
                    }
                )
                show.epoch(history[-1])
                done, losses = 0, []
                save(epoch + 1, 0)
    return history


def _one_step(
    trainer: Trainer, images: Tensor, labels: Tensor, rate: float, recipe: Recipe, epoch: int, step: int
) -> float:
    value = trainer.step(
        images, lambda logits: F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing), rate
    )
    if not math.isfinite(value):
        raise BottlekitError(
            f"training diverged in epoch {epoch + 1}, step {step + 1}: the loss is {value}; "
            "lower the learning rate with --lr"
        )
    return value


@contextlib.contextmanager
def _saved_when_lost(save: Any) -> Iterator[None]:
    """The state as it was before the step, if the step cannot be done."""
    try:
        yield
    except WireError:
        save()
        raise
