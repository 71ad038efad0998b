"""Checkpoints of hybrid networks: one safetensors file, as `bottlekit.models.checkpoint` for the others.

    metadata "bottlekit"   JSON: backbone, low-bit blocks, exits, exit rule and threshold, data, accuracy, training
    network.*              the hybrid network's weights, in full precision as training left them
    baseline.*             the full-precision network it was made from

Nothing in the file is executed when it is read.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import bottlekit
from bottlekit.device.exit_rules import checked_threshold
from bottlekit.device.files import whole_file
from bottlekit.errors import BottlekitError, CheckpointError
from bottlekit.models.backbones import backbone_on_meta
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.models.tensors import compare_tensors, fill, with_prefix, without_prefix
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing, from_dict, to_dict

_FORMAT = "bottlekit-hybrid-checkpoint"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class HybridCheckpoint:
    """What the file holds. `rule` and `threshold` say who leaves early; `accuracy` what was measured on images that
    were neither trained on nor used to choose the threshold; `work` the layers' work (see `work_of_network`)."""

    model: ModelSpec
    spec: HybridSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    rule: str
    threshold: float
    accuracy: dict[str, Any]
    calibration: dict[str, Any]
    work: list[dict[str, Any]]
    training: dict[str, Any]
    tensors: dict[str, Tensor] = dataclasses.field(repr=False)

    def network(self) -> HybridNetwork:
        """The hybrid network with these weights, in evaluation mode on the processor."""
        with torch.random.fork_rng(devices=[]):
            network = HybridNetwork(self.model, self.spec)
        weights = without_prefix("network.", self.tensors)
        where = f"{self.model.backbone}, low-bit up to {self.spec.last_block}"
        compare_tensors(weights, network.state_dict(), "the hybrid checkpoint", where)
        network.load_state_dict(weights)
        return network.eval()

    def baseline(self) -> nn.Module:
        """The full-precision network that it was made from, in evaluation mode."""
        backbone = backbone_on_meta(self.model.backbone, self.model.num_classes)
        weights = without_prefix("baseline.", self.tensors)
        compare_tensors(weights, backbone.state_dict(), "the hybrid checkpoint", self.model.backbone)
        return fill(backbone, weights)


def tensors_of(network: HybridNetwork, baseline: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint, copied to the processor."""
    both = {
        **with_prefix("network.", network.state_dict()),
        **with_prefix("baseline.", baseline.state_dict()),
    }
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in both.items()}


def save_hybrid_checkpoint(path: str | Path, checkpoint: HybridCheckpoint) -> None:
    """Write a checkpoint whole; a file that was there is replaced once the new one is complete."""
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    tensors = fields.pop("tensors")
    header = {
        **fields,
        "format": _FORMAT,
        "version": _VERSION,
        "bottlekit": bottlekit.__version__,
        "model": to_dict(checkpoint.model),
        "spec": dataclasses.asdict(checkpoint.spec),
        "preprocessing": to_dict(checkpoint.preprocessing),
    }
    metadata = {"bottlekit": json.dumps(header, allow_nan=False)}
    with whole_file(str(path)) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def is_hybrid_checkpoint(path: str | Path) -> bool:
    """Whether a file says of itself that it is a hybrid checkpoint."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return f'"format": "{_FORMAT}"' in (file.metadata() or {}).get("bottlekit", "")
    except (OSError, SafetensorError):
        return False


def load_hybrid_checkpoint(path: str | Path) -> HybridCheckpoint:
    """Read a checkpoint, on the processor; CheckpointError for anything else, or one that makes no sense."""
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("bottlekit", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no hybrid checkpoint (bottlekit hybrid train writes them): {error}"
        ) from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT or header.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} is no hybrid checkpoint of version {_VERSION}; bottlekit hybrid train writes them"
        )
    try:
        model = from_dict(ModelSpec, header["model"], str(path))
        return HybridCheckpoint(
            model=model,
            spec=_spec_from_dict(header["spec"], str(path)),
            classes=tuple(str(name) for name in header["classes"]),
            preprocessing=from_dict(Preprocessing, header["preprocessing"], str(path)),
            data=str(header["data"]),
            rule=str(header["rule"]),
            threshold=checked_threshold(header["rule"], float(header["threshold"]), model.num_classes),
            accuracy=dict(header["accuracy"]),
            calibration=dict(header["calibration"]),
            work=list(header["work"]),
            training=dict(header["training"]),
            tensors=tensors,
        )
    except CheckpointError:
        raise
    except (BottlekitError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header does not make sense: {error}") from error


def _spec_from_dict(values: dict[str, Any], where: str) -> HybridSpec:
    unit = values["bottleneck"]
    parts = {
        "bottleneck": None if unit is None else from_dict(BottleneckSpec, unit, where),
        "codec": from_dict(CodecSpec, values["codec"], where),
    }
    return from_dict(HybridSpec, {**values, **parts}, where)
