"""The training loop.

    for each epoch                              seed, epoch -> order and augmentation of the images
      for each batch                            recipe, step -> learning rate
        loss = objective(images, labels) ; gradients ; step
      state -> `<output>.resume`                weights, optimizer, dice, history

What happens in a step depends on the seed, the step and the state alone. So on one processor, with one number of
threads, a seed gives the same weights to the last bit, and a run that was interrupted and resumed gives them too.
`accelerate` brings half precision where there is a GPU, and several GPUs: `accelerate launch -m bottlekit train`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from bottlekit.errors import BottlekitError, DataError
from bottlekit.training.batches import readable, training_batches
from bottlekit.training.data import DataSet
from bottlekit.training.evaluate import accuracy
from bottlekit.training.interrupt import Interrupt
from bottlekit.training.objective import Classification, Objective
from bottlekit.training.progress import TrainingProgress
from bottlekit.training.recipe import Recipe, learning_rate_at
from bottlekit.training.resume import load_state, save_state

History = list[dict[str, Any]]


def fit(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    seed: int = 0,
    with_codec: bool | None = None,
    title: str = "training",
    state_path: Path | None = None,
    resume: bool = False,
    run: dict[str, Any] | None = None,
    quiet: bool = False,
    objective: Objective | None = None,
) -> History:
    """Train `network` in place; it ends in evaluation mode, on the device it was trained on.

    `with_codec` is for a SplitNetwork: whether the codec is in the forward pass (its gradient is the identity
    either way). `objective`, around `network`, is what is made smaller; None is the labels' cross-entropy.

    After every epoch the state is written to `state_path`; with `resume` the run continues from there, if `run`
    (plain values) is what it was. The file is left for the caller to remove. Ctrl-C raises KeyboardInterrupt after
    the step.

    Returns a record of every epoch: {"epoch", "loss", "accuracy" or None, "seconds"}, and where the objective
    estimates payloads, the mean as "estimated_bytes".
    Raises BottlekitError when the loss is no number any more, DataError for images that cannot be read.
    """
    accelerator = accelerator_of_machine(recipe.amp)
    if len(data.train) < accelerator.num_processes:
        raise DataError(f"{data.name} has {len(data.train)} training images, too few to train on")
    if objective is None:
        objective = Classification(network, with_codec, recipe.label_smoothing)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer_from_recipe(network, recipe)
    batches = training_batches(data.train, recipe.batch_size, seed)
    prepared, optimizer, batches = accelerator.prepare(objective, optimizer, batches)
    steps_per_epoch = len(batches)

    def state() -> dict[str, Any]:
        return {
            "network": network.state_dict(),
            "rate": None if objective.rate is None else objective.rate.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
            "dice": torch.get_rng_state(),
            "gpu_dice": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": history,
        }

    history: History = []
    first_epoch = 0
    show = TrainingProgress(title, recipe.epochs, steps_per_epoch, quiet or not accelerator.is_main_process)
    with own_dice(seed), show, Interrupt(show.console.print) as interrupt:
        if resume and state_path is not None:
            first_epoch, saved = load_state(state_path, run or {})
            network.load_state_dict(saved["network"])
            if objective.rate is not None:
                objective.rate.load_state_dict(saved["rate"])
            optimizer.load_state_dict(saved["optimizer"])
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(saved["scaler"])
            torch.set_rng_state(saved["dice"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state_all(saved["gpu_dice"])
            history = list(saved["history"])
        for epoch in range(first_epoch, recipe.epochs):
            started_s = time.monotonic()
            data.train.set_epoch(epoch)
            batches.set_epoch(epoch)
            objective.train()
            losses, estimates = [], []
            interrupt.raise_if_asked()
            for step, (images, labels) in enumerate(readable(batches), start=epoch * steps_per_epoch):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(recipe, step, steps_per_epoch)
                loss, estimate = _loss(prepared, images, labels, epoch, step)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                losses.append(float(loss.detach()))
                if estimate is not None:
                    estimates.append(float(estimate))
                show.step(step, losses[-1])
                interrupt.raise_if_asked()
            measured = None
            if recipe.evaluate_every and (epoch + 1) % recipe.evaluate_every == 0:
                measured = accuracy(network, data.val, with_codec)
            history.append(
                {
                    "epoch": epoch + 1,
                    "loss": sum(losses) / len(losses),
                    "accuracy": measured,
                    "seconds": round(time.monotonic() - started_s, 2),
                }
            )
            if estimates:
                history[-1]["estimated_bytes"] = round(sum(estimates) / len(estimates), 1)
            show.epoch(history[-1])
            if state_path is not None and accelerator.is_main_process:
                save_state(state_path, run or {}, epoch + 1, state())
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    network.eval()
    return history


def _loss(
    objective: nn.Module, images: Tensor, labels: Tensor, epoch: int, step: int
) -> tuple[Tensor, Tensor | None]:
    loss, estimate = objective(images.to(memory_format=torch.channels_last), labels)
    if not math.isfinite(float(loss.detach())):
        raise BottlekitError(
            f"training diverged in epoch {epoch + 1}, step {step + 1}: the loss is {float(loss.detach())}; "
            "lower the learning rate with --lr"
        )
    return loss, estimate


def accelerator_of_machine(amp: bool) -> Accelerator:
    """All GPUs of this process group with half precision if `amp`, or the processor in single precision."""
    on_gpu = torch.cuda.is_available()
    half = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp16"
    return Accelerator(cpu=not on_gpu, mixed_precision=half if amp and on_gpu else "no")


def is_main_process() -> bool:
    """Whether this process writes the files and speaks, if several train together."""
    return bool(_processes().is_main_process)


def wait_for_main_process() -> None:
    """Return once every process is here, so that what the main one wrote before is there."""
    _processes().wait_for_everyone()


def _processes() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())


def optimizer_from_recipe(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW; weight decay for weights, not for biases and norms (vectors)."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)


@contextlib.contextmanager
def own_dice(seed: int) -> Iterator[None]:
    """Torch's global generators seeded for the block, and afterwards as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
