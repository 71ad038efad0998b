"""What is to be exported: a checkpoint's network, or an untrained unit in somebody's backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from bottlekit.device.files import sha256_of_file
from bottlekit.errors import CheckpointError, UsageError
from bottlekit.models.backbones import backbone_on_meta
from bottlekit.models.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from bottlekit.models.foreign import backbone_from_state, backbone_state_from_file, classifier_of
from bottlekit.models.network import SplitNetwork
from bottlekit.models.splits import split_names, split_spec
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing

# What an untrained unit starts from, so that the same command gives the same bundle.
SEED = 0
# What torchvision's own weights were trained with.
FOREIGN_INPUT_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Untrained:
    """A bottleneck that nobody trained, to study size and latency: no accuracy is claimed for it.

    `backbone` and `input_size` (None: 224) are for a file that does not say what it holds (a torchvision state
    dict); where it does, they must agree.
    """

    bottleneck: BottleneckSpec
    codec: CodecSpec
    backbone: str | None = None
    input_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A split network in evaluation mode, with what the bundle has to say about it.

    `baseline` is the uncompressed backbone, None where the checkpoint does not carry its weights.
    """

    checkpoint: Checkpoint
    network: SplitNetwork
    baseline: nn.Module | None
    trained: bool
    sha256: str


def source_from_file(path: Path, split: str | None, untrained: Untrained | None) -> Source:
    """Read a checkpoint and make the network to export.

    `split` may be left out: a trained checkpoint knows its own. With `untrained`, the file is a plain backbone,
    a bottlekit checkpoint or a torchvision state dict, and the unit it describes is put in.

    Raises UnknownNameError for a split point that does not exist, UsageError where the checkpoint has another
    one or none, CheckpointError for a file that cannot be used.
    """
    if untrained is not None:
        if split not in (None, untrained.bottleneck.split):
            raise UsageError(f"the untrained bottleneck is for {untrained.bottleneck.split}, not --split {split}")
        return _with_untrained_unit(path, untrained)
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"{path} is no bottlekit checkpoint; make one of your own weights: bottlekit train --weights {path} "
            "--epochs 0 --backbone NAME -o net.safetensors; or pass --untrained --backbone NAME"
        )
    checkpoint = load_checkpoint(path)
    if split is not None:
        split_spec(checkpoint.model, split)
    if checkpoint.bottleneck is None:
        command = training_command(path, split or split_names(checkpoint.model.backbone)[0])
        raise UsageError(
            f"{path} holds {checkpoint.model.backbone} without a bottleneck; train one first: {command}; "
            "or pass --untrained to export one that nobody trained"
        )
    trained = checkpoint.bottleneck.split
    if split is not None and split != trained:
        raise UsageError(
            f"{path} was trained for --split {trained}, not {split}; leave --split out, or train another: "
            f"{training_command(path, split)}"
        )
    network = checkpoint.network()
    if not isinstance(network, SplitNetwork):
        raise CheckpointError(f"{path} names a bottleneck at {trained}, but its network has none")
    return Source(checkpoint, network.eval(), checkpoint.baseline(), trained=True, sha256=sha256_of_file(str(path)))


def training_command(path: Path, split: str) -> str:
    """What to type to get a trained bottleneck at `split`."""
    return f"bottlekit train --from {path} --split {split} -o {path.stem}-{split}.safetensors"


def _with_untrained_unit(path: Path, untrained: Untrained) -> Source:
    checkpoint = load_checkpoint(path) if is_checkpoint(path) else _checkpoint_from_foreign(path, untrained)
    if untrained.backbone not in (None, checkpoint.model.backbone):
        raise UsageError(f"{path} holds {checkpoint.model.backbone}, not --backbone {untrained.backbone}")
    if untrained.input_size not in (None, checkpoint.model.input_size):
        raise UsageError(
            f"{path} was made for {checkpoint.model.input_size} pixels, not --input-size {untrained.input_size}"
        )
    if checkpoint.bottleneck is not None:
        raise UsageError(
            f"{path} has a trained bottleneck at {checkpoint.bottleneck.split}; leave --untrained out to export it"
        )
    baseline = checkpoint.network().eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = SplitNetwork(checkpoint.model, untrained.bottleneck, untrained.codec, backbone=baseline)
    return Source(checkpoint, network.eval(), baseline, trained=False, sha256=sha256_of_file(str(path)))


def _checkpoint_from_foreign(path: Path, untrained: Untrained) -> Checkpoint:
    """A torchvision state dict, with the class count read from its last layer."""
    state = backbone_state_from_file(path)
    if untrained.backbone is None:
        raise UsageError(f"{path} does not say which network it belongs to: add --backbone NAME")
    classifier = classifier_of(backbone_on_meta(untrained.backbone, 2))
    weights = state.get(f"{classifier}.weight")
    if weights is None:
        raise CheckpointError(f"{path} is no {untrained.backbone}: it lacks {classifier}.weight")
    model = ModelSpec(untrained.backbone, len(weights), untrained.input_size or FOREIGN_INPUT_SIZE)
    return Checkpoint.from_network(
        backbone_from_state(state, model, str(path)),
        model,
        classes=tuple(f"class {index}" for index in range(model.num_classes)),
        # 256 for an input of 224 pixels, and in proportion for others.
        preprocessing=Preprocessing(resize=round(model.input_size * 256 / 224), crop=model.input_size),
        data="",
        accuracy={},
    )
