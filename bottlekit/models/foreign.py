"""Weights that other programs wrote: torchvision state dicts in .pt, .pth or .safetensors files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bottlekit.errors import CheckpointError
from bottlekit.models.backbones import BACKBONES, backbone_from_name, backbone_on_meta
from bottlekit.models.tensors import compare_tensors, fill, with_prefix, without_prefix
from bottlekit.specs import ModelSpec

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."
# A zip archive, or the bare pickle of torch before 1.6.
_TORCH_FILE_STARTS = (b"PK", b"\x80")
_REASON_LENGTH = 120


def backbone_state_from_file(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the processor, under torchvision's names.

    Reads .safetensors and torch.save files, the latter with weights-only loading: nothing in the file is
    executed. Unwraps {"state_dict": ...} and {"model": ...}, strips the `module.` of parallel training. From a
    checkpoint that bottlekit wrote it takes the uncompressed network, or else the backbone.
    Raises CheckpointError.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no weights at {path}: there is no such file")
    value = _safetensors(path) if Path(path).suffix == ".safetensors" else _torch_file(path)
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping) or not value:
        raise CheckpointError(
            f"{path} holds a {type(value).__name__} that is no state dict; "
            "save one with torch.save(network.state_dict(), ...)"
        )
    foreign = [str(name) for name, tensor in value.items() if not isinstance(tensor, Tensor)]
    if foreign:
        raise CheckpointError(
            f"{path} is no state dict: {', '.join(foreign[:3])} is no tensor; "
            "save one with torch.save(network.state_dict(), ...)"
        )
    state = {str(name): tensor for name, tensor in value.items()}
    if all(name.startswith(_PARALLEL_PREFIX) for name in state):
        state = without_prefix(_PARALLEL_PREFIX, state)
    # The names that bottlekit's own checkpoints use.
    return without_prefix("baseline.", state) or without_prefix("backbone.", state) or state


def backbone_from_state(
    state: Mapping[str, Tensor], model: ModelSpec, where: str, replace_classifier: bool = False
) -> nn.Module:
    """The backbone with these weights, in evaluation mode; `where` names their file in errors.

    Weights for another number of classes are refused, or with `replace_classifier` all but the last layer are
    taken, which then starts from random weights. Raises CheckpointError.
    """
    network = backbone_on_meta(model.backbone, model.num_classes)
    classifier = classifier_of(network)
    classes = _classes_of(state, classifier)
    _check_architecture(state, model, classes, where)
    state = _with_counters(state, network)
    if classes != model.num_classes:
        if not replace_classifier:
            raise CheckpointError(
                f"{where} has weights for {classes} classes, and {model.num_classes} were asked for; "
                f"ask for {classes} or let a new last layer be trained"
            )
        fresh = backbone_from_name(model.backbone, model.num_classes).get_submodule(classifier).state_dict()
        state.update(with_prefix(f"{classifier}.", fresh))
    return fill(network, state)


def backbone_from_file(path: str | Path, model: ModelSpec, replace_classifier: bool = False) -> nn.Module:
    """`backbone_state_from_file`, then `backbone_from_state`."""
    return backbone_from_state(backbone_state_from_file(path), model, str(path), replace_classifier)


def classifier_of(backbone: nn.Module) -> str:
    """The path of the last linear layer, which gives the logits: fc, or classifier.N."""
    linear_layers: list[str] = [path for path, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    return linear_layers[-1]


def _with_counters(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state with the batch counters that networks saved before torch 0.4.1 lack; inference ignores them."""
    counters = {
        name: torch.zeros((), dtype=tensor.dtype)
        for name, tensor in network.state_dict().items()
        if name.endswith(".num_batches_tracked")
    }
    return {**counters, **state}


def _classes_of(state: Mapping[str, Tensor], classifier: str) -> int | None:
    """For how many classes a state dict's last layer is, or None if it has no such layer."""
    weight = state.get(f"{classifier}.weight")
    return len(weight) if weight is not None and weight.ndim == 2 and len(weight) > 0 else None


def _check_architecture(state: Mapping[str, Tensor], model: ModelSpec, classes: int | None, where: str) -> None:
    """Refuse weights of another backbone, whatever their number of classes, and say which one they fit."""
    try:
        _compare(state, model.backbone, classes or model.num_classes, where)
    except CheckpointError as error:
        fitting = [name for name in BACKBONES if _fits(state, name)]
        advice = f"; these weights fit {' or '.join(fitting)}" if fitting else ""
        raise CheckpointError(f"{error}{advice}") from error


def _fits(state: Mapping[str, Tensor], backbone: str) -> bool:
    network = backbone_on_meta(backbone, 2)
    classes = _classes_of(state, classifier_of(network))
    if classes is None:
        return False
    try:
        _compare(state, backbone, classes, "")
    except CheckpointError:
        return False
    return True


def _compare(state: Mapping[str, Tensor], backbone: str, classes: int, where: str) -> None:
    network = backbone_on_meta(backbone, classes)
    description = f"{backbone} for {classes} classes"
    compare_tensors(_with_counters(state, network), network.state_dict(), where, description)


def _safetensors(path: str | Path) -> Any:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from error


def _torch_file(path: str | Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(2)
    if not start.startswith(_TORCH_FILE_STARTS):
        raise CheckpointError(f"{path} is no file of weights: give it a .pt, .pth or .safetensors file")
    try:
        with warnings.catch_warnings():
            # What torch warns of here ends as an error below, or does not matter.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights, and loading it could run the code in it, so bottlekit does not; "
            "save the weights alone with torch.save(network.state_dict(), ...)"
        ) from error
    except Exception as error:
        # torch's restricted unpickler lets anything out, IndexError for one, when the bytes make no sense to it.
        reason = " ".join(str(error).split())[:_REASON_LENGTH]
        raise CheckpointError(f"{path} is no whole torch.save file ({type(error).__name__}: {reason})") from error
