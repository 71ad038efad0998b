"""Checkpoints: weights and everything needed to use them, in one safetensors file.

    checkpoint.safetensors
      metadata "bottlekit"  JSON: what the network is, what it was trained on, how well it does
      backbone.*            the backbone's weights, under torchvision's names
      unit.*                the bottleneck unit's weights (split networks only)
      codec.range           low and high of the codec's static range (if it was trained with one)
      baseline.*            the uncompressed network it was made from (split networks only, optional)

Nothing in the file is executed when it is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import bottlekit
from bottlekit.device.files import whole_file
from bottlekit.device.quantizer import range_is_valid
from bottlekit.errors import BottlekitError, CheckpointError
from bottlekit.models.backbones import backbone_on_meta
from bottlekit.models.foreign import backbone_from_file, backbone_from_state, backbone_state_from_file
from bottlekit.models.network import SplitNetwork
from bottlekit.models.tensors import compare_tensors, fill, with_prefix, without_prefix
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing, from_dict, to_dict

__all__ = [
    "Checkpoint",
    "backbone_from_file",
    "backbone_from_state",
    "backbone_state_from_file",
    "is_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]

_FORMAT = "bottlekit-checkpoint"
_VERSION = 1
_RANGE = "codec.range"
_HEADER_FIELDS = ("model", "classes", "preprocessing", "data", "accuracy", "training", "bottleneck", "codec")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    `classes` the class names in the order of the logits; `data` names the data set; `accuracy` what training
    measured (fractions 0..1), `training` how it was done (recipe, seed, versions); `bottleneck` and `codec` are
    None for a plain backbone; `tensors` by their names in the file; `source` the file it came from, for error
    messages.
    """

    model: ModelSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    accuracy: dict[str, Any]
    bottleneck: BottleneckSpec | None
    codec: CodecSpec | None
    tensors: dict[str, Tensor] = dataclasses.field(repr=False)
    source: str = "checkpoint"
    training: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together (CheckpointError)."""
        if len(self.classes) != self.model.num_classes:
            raise CheckpointError(
                f"{self.source}: {len(self.classes)} class names for a network with "
                f"{self.model.num_classes} classes"
            )
        if (self.bottleneck is None) != (self.codec is None):
            raise CheckpointError(f"{self.source}: a bottleneck and a codec come together or not at all")
        compare_tensors(self.tensors, self._expected(), self.source, self._description())
        self._value_range()

    @classmethod
    def from_network(
        cls,
        network: SplitNetwork | nn.Module,
        model: ModelSpec,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        data: str,
        accuracy: dict[str, Any],
        baseline: nn.Module | None = None,
        training: dict[str, Any] | None = None,
    ) -> Checkpoint:
        """The checkpoint of a SplitNetwork or a plain backbone; `baseline` is the uncompressed backbone that a
        SplitNetwork was made from. Weights are copied to the processor: training on does not change them."""
        if isinstance(network, SplitNetwork):
            bottleneck, codec, tensors = network.bottleneck, network.codec, dict(network.state_dict())
            if codec.range == "static":
                tensors[_RANGE] = torch.tensor(network.codec_layer.codec.value_range, dtype=torch.float32)
        else:
            bottleneck, codec, tensors = None, None, with_prefix("backbone.", network.state_dict())
        if baseline is not None:
            tensors.update(with_prefix("baseline.", baseline.state_dict()))
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return cls(
            model, tuple(classes), preprocessing, data, accuracy, bottleneck, codec, copies, training=training or {}
        )

    def network(self) -> nn.Module:
        """The SplitNetwork, or the plain backbone, with these weights, in evaluation mode on the processor."""
        if self.bottleneck is None or self.codec is None:
            backbone = backbone_on_meta(self.model.backbone, self.model.num_classes)
            return fill(backbone, without_prefix("backbone.", self.tensors))
        split = self._split_on_meta(self.bottleneck, self.codec, self._value_range())
        return fill(split, {name: t for name, t in self.tensors.items() if name.startswith(("backbone.", "unit."))})

    def baseline(self) -> nn.Module | None:
        """The uncompressed network: the backbone itself if this is one, None if the file does not carry it."""
        if self.bottleneck is None:
            return self.network()
        weights = without_prefix("baseline.", self.tensors)
        return fill(backbone_on_meta(self.model.backbone, self.model.num_classes), weights) if weights else None

    def _split_on_meta(
        self, bottleneck: BottleneckSpec, codec: CodecSpec, value_range: tuple[float, float] | None = None
    ) -> SplitNetwork:
        backbone = backbone_on_meta(self.model.backbone, self.model.num_classes)
        with torch.device("meta"):
            return SplitNetwork(self.model, bottleneck, codec, backbone, value_range).eval()

    def _value_range(self) -> tuple[float, float] | None:
        """The codec's static range; None if it has none. CheckpointError for one that spans nothing."""
        if self.codec is None or self.codec.range != "static":
            return None
        found = self.tensors[_RANGE].float().tolist()
        if not range_is_valid(*found) or found[0] == found[1]:
            raise CheckpointError(
                f"{self.source}: {_RANGE} must hold the low and high end of the codec's static range, not {found}"
            )
        return found[0], found[1]

    def _expected(self) -> dict[str, Tensor]:
        """The tensors (on meta) that a file with this header must hold."""
        backbone = backbone_on_meta(self.model.backbone, self.model.num_classes).state_dict()
        if self.bottleneck is None or self.codec is None:
            return with_prefix("backbone.", backbone)
        # The weights do not depend on what the codec spans.
        split = self._split_on_meta(self.bottleneck, dataclasses.replace(self.codec, range="image"))
        expected = dict(split.state_dict())
        if self.codec.range == "static":
            expected[_RANGE] = torch.empty(2, device="meta")
        if any(name.startswith("baseline.") for name in self.tensors):
            expected.update(with_prefix("baseline.", backbone))
        return expected

    def _description(self) -> str:
        text = f"{self.model.backbone} for {self.model.num_classes} classes"
        if self.bottleneck is None:
            return text
        b = self.bottleneck
        return f"{text} with a {b.kind} unit at {b.split} (channels {b.channels}, spatial {b.spatial})"


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole; a file that was there is replaced once the new one is complete."""
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "bottlekit": bottlekit.__version__,
        "model": to_dict(checkpoint.model),
        "classes": list(checkpoint.classes),
        "preprocessing": to_dict(checkpoint.preprocessing),
        "data": checkpoint.data,
        "accuracy": checkpoint.accuracy,
        "training": checkpoint.training,
        "bottleneck": None if checkpoint.bottleneck is None else to_dict(checkpoint.bottleneck),
        "codec": None if checkpoint.codec is None else to_dict(checkpoint.codec),
    }
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata = {"bottlekit": json.dumps(header, allow_nan=False)}
    with whole_file(str(path)) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_checkpoint(path: str | Path, expected: ModelSpec | None = None) -> Checkpoint:
    """Read a checkpoint that bottlekit wrote, on the processor.

    With `expected`, a checkpoint of another backbone, number of classes or input size is refused.
    Raises CheckpointError for a file that is missing, truncated, of another format, or whose tensors are not
    those that its header promises.
    """
    header, tensors = _read(path)
    checkpoint = _checkpoint_from_header(header, tensors, str(path))
    if expected is not None and checkpoint.model != expected:
        raise CheckpointError(f"{path} holds {_model_words(checkpoint.model)}, asked was {_model_words(expected)}")
    return checkpoint


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a safetensors file with bottlekit's header, readable or not in other respects."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return "bottlekit" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint at {path}: there is no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("bottlekit")
            if text is None:
                raise CheckpointError(
                    f"{path} holds weights but is no bottlekit checkpoint; "
                    "train from it with bottlekit train, which writes one"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no bottlekit checkpoint (a whole .safetensors file that bottlekit train wrote): {error}"
        ) from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has an unreadable header: {error}") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has a header that is no {_FORMAT}")
    if header.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {header.get('version')!r}, and this bottlekit reads {_VERSION}"
        )
    return header, tensors


def _checkpoint_from_header(header: Mapping[str, Any], tensors: dict[str, Tensor], where: str) -> Checkpoint:
    known = {"format", "version", "bottlekit", *_HEADER_FIELDS}
    unknown, missing = sorted(set(header) - known), sorted(known - set(header))
    if unknown or missing:
        raise CheckpointError(f"{where}: the header has unknown fields {unknown} and lacks {missing}")
    try:
        return Checkpoint(
            model=from_dict(ModelSpec, _object(header["model"]), where),
            classes=tuple(_texts(header["classes"])),
            preprocessing=from_dict(Preprocessing, _object(header["preprocessing"]), where),
            data=str(header["data"]),
            accuracy=_object(header["accuracy"]),
            training=_object(header["training"]),
            bottleneck=_optional(BottleneckSpec, header["bottleneck"], where),
            codec=_optional(CodecSpec, header["codec"], where),
            tensors=tensors,
            source=where,
        )
    except CheckpointError:
        raise
    except (BottlekitError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: the header does not make sense: {error}") from error


def _optional(spec: type[Any], values: Any, where: str) -> Any:
    return None if values is None else from_dict(spec, _object(values), where)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected where it has {value!r}")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"a list of names was expected where it has {value!r}")
    return value


def _model_words(model: ModelSpec) -> str:
    return f"{model.backbone} for {model.num_classes} classes at {model.input_size} pixels"
