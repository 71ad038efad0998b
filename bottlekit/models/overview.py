"""What exists, as plain data for `bottlekit models`."""

from __future__ import annotations

from typing import Any

from bottlekit.models.backbones import BACKBONES, backbone_on_meta
from bottlekit.models.macs import macs, macs_until
from bottlekit.models.splits import split_names, split_specs
from bottlekit.specs import ModelSpec, to_dict

_FLOAT_BYTES = 4


def all_backbones() -> list[dict[str, Any]]:
    """Every backbone with the names of its split points."""
    return [{"backbone": name, "splits": list(split_names(name))} for name in BACKBONES]


def one_backbone(model: ModelSpec) -> dict[str, Any]:
    """A backbone's size and its split points in the order of execution.

    Per split point: the SplitSpec's fields; `feature_bytes`, the feature tensor as float32;
    `feature_to_input`, those bytes over the bytes of the input as an 8-bit RGB image; `head_macs`, the
    multiply-accumulates before the cut, per image. Raises UnknownNameError and UsageError as `split_specs` does.
    """
    specs = split_specs(model)
    network = backbone_on_meta(model.backbone, model.num_classes)
    input_shape = (1, 3, model.input_size, model.input_size)
    head_macs = macs_until(network, input_shape, [spec.module for spec in specs])
    input_bytes = 3 * model.input_size**2
    splits = []
    for spec in specs:
        feature_bytes = _FLOAT_BYTES * spec.channels * spec.height * spec.width
        splits.append(
            {
                **to_dict(spec),
                "feature_bytes": feature_bytes,
                "feature_to_input": round(feature_bytes / input_bytes, 4),
                "head_macs": head_macs[spec.module],
            }
        )
    return {
        **to_dict(model),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": macs(network, input_shape),
        "input_bytes": input_bytes,
        "splits": splits,
    }
