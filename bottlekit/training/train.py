"""The stages of `bottlekit train`: specs and files in, a checkpoint file out.

    train_backbone     data, backbone name [, weights file]        -> net.safetensors
    train_bottleneck   net.safetensors, bottleneck and codec specs -> split.safetensors

Each writes its checkpoint whole once everything is measured, and keeps `<output>.resume` until then.
"""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bottlekit
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import BottlekitError, CheckpointError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import Checkpoint, backbone_from_file, load_checkpoint, save_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.models.splits import split_spec, split_specs
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, to_dict
from bottlekit.training.bottleneck import BottleneckTraining, fit_bottleneck, warm_up_path
from bottlekit.training.data import DataSet, LabelledImages, dataset_from_name
from bottlekit.training.evaluate import accuracy, calibration_inputs, evaluation_mode, payload_sizes
from bottlekit.training.loop import History, fit, is_main_process, own_dice, wait_for_main_process
from bottlekit.training.rates import codecs_of_rates, setting_of
from bottlekit.training.recipe import Recipe
from bottlekit.training.resume import refuse_to_forget, resume_path
from bottlekit.training.warm_start import warm_start

_RANGE_BATCH = 64
# In standard deviations. Behind batch norm and ReLU this is about 2.4.
_RANGE_DEVIATIONS = 3.5


def train_backbone(
    output: Path,
    backbone: str,
    data: DataSet,
    recipe: Recipe,
    seed: int = 0,
    weights: Path | None = None,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
) -> Checkpoint:
    """Train an uncompressed network and write its checkpoint to `output`.

    `weights` (a torchvision state dict or a checkpoint) are what it starts from; weights for other classes keep
    all but the last layer. With a recipe of 0 epochs they are taken as they are.
    The checkpoint's accuracy is {"data", "images", "baseline"}, measured on the held-out images.
    Raises UnknownNameError, UsageError, CheckpointError, DataError; BottlekitError if training diverges.
    """
    model = ModelSpec(backbone, len(data.classes), data.input_size)
    split_specs(model)  # refuses an unknown backbone, and an input it cannot take
    state_path = _state_path(output, resume)
    with own_dice(seed):
        if weights is None:
            network = backbone_from_name(backbone, model.num_classes)
        else:
            network = backbone_from_file(weights, model, replace_classifier=recipe.epochs > 0)
    origin = None if weights is None else {"file": str(weights), "sha256": sha256_of_file(str(weights))}
    run = run_record("backbone", model, data, recipe, seed) | {"from": origin}
    history = fit(
        network,
        data,
        recipe,
        seed,
        title=backbone,
        state_path=state_path,
        resume=resume,
        run=run,
        quiet=quiet,
    )
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
    _finish(output, checkpoint, state_path)
    return checkpoint


def train_bottleneck(
    output: Path,
    source: Path,
    bottleneck: BottleneckSpec,
    codec: CodecSpec,
    recipe: Recipe,
    data: DataSet | None = None,
    seed: int = 0,
    how: BottleneckTraining | None = None,
    resume: bool = False,
    command: str = "",
    quiet: bool = False,
    start: Path | None = None,
) -> Checkpoint:
    """Put a bottleneck into the uncompressed network of the checkpoint `source`, train it, write `output`.

    The whole network is trained end to end with the codec in the forward pass and the identity in its backward
    pass (BottleNet, section 2.2), or as `how` says. `data` None is what the checkpoint was trained on. `start` is a
    bottlenecked checkpoint of the same backbone whose weights it begins with, as far as they fit.

    A static range of `codec` is that of training images before training (`starting_range`), and stays.

    The checkpoint carries the uncompressed network too; its accuracy is {"data", "images", "baseline", "split",
    "split_without_codec", "payload_bytes_mean"}, all measured on the held-out images; with several rates `rates`
    is a list with {"quality" or "bits", "split", "payload_bytes_mean"} of each, the coarsest first.
    Raises UnknownNameError, UsageError, CheckpointError, DataError; BottlekitError if training diverges.
    """
    checkpoint = load_checkpoint(source)
    split_spec(checkpoint.model, bottleneck.split)
    if data is None:
        data = data_of_checkpoint(checkpoint, seed=seed)
    check_data(checkpoint, data)
    how = how or BottleneckTraining()
    how.check(codec, recipe.batch_size)
    state_path = _state_path(output, resume)
    baseline = uncompressed(checkpoint)
    network = split_network(checkpoint, bottleneck, dataclasses.replace(codec, range="image"), seed)
    origin = {"sha256": sha256_of_file(str(source)), "training": checkpoint.training}
    run = run_record("bottleneck", checkpoint.model, data, recipe, seed) | {
        "from": origin,
        "bottleneck": to_dict(bottleneck),
        "codec": to_dict(codec),
        "compression_aware": not how.naive,
        "rate_weight": how.rate_weight,
        "distill_epochs": how.distill_epochs,
        "rates": list(how.rates),
    }
    if start is not None:
        warm_start(network, start)
        run["start_sha256"] = sha256_of_file(str(start))
    if codec.range == "static":
        network.take_codec(codec, starting_range(network, data.train, seed))
    history = fit_bottleneck(network, data, recipe, how, seed, state_path, resume, run, quiet)
    measured = {
        "data": data.name,
        "images": len(data.val),
        "baseline": accuracy(baseline.to(device_of(network)), data.val),
        "split": accuracy(network, data.val, with_codec=True),
        "split_without_codec": accuracy(network, data.val, with_codec=False),
        "payload_bytes_mean": mean(payload_sizes(network, data.val, data.train)),
    }
    if how.rates:
        measured["rates"] = measured_rates(network, codecs_of_rates(codec, how.rates), data)
    trained = Checkpoint.from_network(
        network,
        checkpoint.model,
        classes=checkpoint.classes,
        preprocessing=checkpoint.preprocessing,
        data=data.name,
        accuracy=measured,
        baseline=baseline,
        training=run | how_it_was_done(history, command),
    )
    _finish(output, trained, state_path)
    return trained


def split_network(checkpoint: Checkpoint, bottleneck: BottleneckSpec, codec: CodecSpec, seed: int) -> SplitNetwork:
    """The checkpoint's uncompressed network with a new unit in it, whose random weights come from `seed`."""
    with own_dice(seed):
        return SplitNetwork(checkpoint.model, bottleneck, codec, backbone=uncompressed(checkpoint))


def starting_range(network: SplitNetwork, training: LabelledImages, seed: int) -> tuple[float, float]:
    """A static range (low, high) to train with: as far from the mean of training images' features as few are.

    Not the range with which they come back nearest, as for a network that is trained already: what an untrained
    unit gives has long tails, which would take most of few codes, and training fits the values to the range.
    In training mode, because norms in evaluation mode know nothing of a new unit yet; nothing of it is kept.
    """
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inputs = torch.split(calibration_inputs(training), _RANGE_BATCH)
    with own_dice(seed), evaluation_mode(network):
        network.train()
        features = torch.cat([network.head(part) for part in inputs])
    network.load_state_dict(before)
    values = features.double()
    reach = _RANGE_DEVIATIONS * float(values.std())
    low = max(float(values.min()), float(values.mean()) - reach)
    high = min(float(values.max()), float(values.mean()) + reach)
    if not low < high:
        raise BottlekitError(
            f"features from {low} to {high} have no range; look at the network that training starts from"
        )
    return float(np.float32(low)), float(np.float32(high))


def measured_rates(network: SplitNetwork, codecs: list[CodecSpec], data: DataSet) -> list[dict[str, Any]]:
    """Accuracy and mean payload with each codec, on held-out images; afterwards the network has the one it had."""
    own, value_range = network.codec, network.codec_layer.codec.value_range
    rows = []
    for codec in codecs:
        network.take_codec(codec, value_range)
        rows.append(
            {
                setting_of(codec): getattr(codec, setting_of(codec)),
                "split": accuracy(network, data.val, with_codec=True),
                "payload_bytes_mean": mean(payload_sizes(network, data.val, data.train)),
            }
        )
    network.take_codec(own, value_range)
    return rows


def uncompressed(checkpoint: Checkpoint) -> nn.Module:
    """A copy of the checkpoint's uncompressed network. Raises CheckpointError if it carries none."""
    network = checkpoint.baseline()
    if network is None:
        raise CheckpointError(
            f"{checkpoint.source} does not carry the network without its bottleneck; "
            "start from the checkpoint that it was made from"
        )
    return network


def data_of_checkpoint(
    checkpoint: Checkpoint, root: str | Path | None = None, seed: int = 0, quiet: bool = False
) -> DataSet:
    """The data set that the checkpoint was trained on, at its input size; `root` if it has moved."""
    name = checkpoint.data if root is None else checkpoint.data.partition(":")[0]
    return dataset_from_name(name, root, checkpoint.model.input_size, seed, quiet)


def check_data(checkpoint: Checkpoint, data: DataSet) -> None:
    """Raise UsageError unless the network can be trained further on this data set."""
    if tuple(data.classes) != checkpoint.classes:
        raise UsageError(
            f"{data.name} has {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...), and "
            f"{checkpoint.source} was trained for {len(checkpoint.classes)} ({', '.join(checkpoint.classes[:3])}, "
            "...); give it the data that it was trained on"
        )
    if data.preprocessing != checkpoint.preprocessing:
        raise UsageError(
            f"{checkpoint.source} prepares images with {to_dict(checkpoint.preprocessing)}, and {data.name} with "
            f"{to_dict(data.preprocessing)}; give it the data and the input size that it was trained on"
        )


def run_record(phase: str, model: ModelSpec, data: DataSet, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What makes a run this run and no other: an interrupted one is continued only if all of it is the same."""
    return {
        "phase": phase,
        "model": to_dict(model),
        "data": data.name,
        "training_images": len(data.train),
        "recipe": to_dict(recipe),
        "seed": seed,
    }


def how_it_was_done(history: History, command: str) -> dict[str, Any]:
    """The rest of a checkpoint's training record."""
    return {
        "history": history,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {
            "bottlekit": bottlekit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "command": command,
    }


def device_of(network: nn.Module) -> torch.device:
    """The device a network is on."""
    return next(network.parameters()).device


def mean(sizes: list[int]) -> float:
    """The mean, to a tenth of a byte."""
    return round(sum(sizes) / len(sizes), 1)


def _state_path(output: Path, resume: bool) -> Path:
    if output.is_dir():
        raise UsageError(
            f"{output} is a folder; -o must name the checkpoint file to write, {output}/net.safetensors say"
        )
    path = resume_path(output)
    if not resume:
        refuse_to_forget(path)
        refuse_to_forget(warm_up_path(path))
    return path


def _finish(output: Path, checkpoint: Checkpoint, state_path: Path) -> None:
    """Write the checkpoint, then forget the state that would have continued the run."""
    if is_main_process():
        save_checkpoint(output, checkpoint)
        state_path.unlink(missing_ok=True)
        warm_up_path(state_path).unlink(missing_ok=True)
    wait_for_main_process()
