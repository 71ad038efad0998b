"""Profiling a training step: contiguous pieces of a network, forward and backward, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bottlekit.device.stats import summary
from bottlekit.errors import UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.cut import segments
from bottlekit.models.splits import split_specs
from bottlekit.specs import LAYERS_FORMAT, LAYERS_VERSION, ModelSpec, groups_to_measure
from bottlekit.training.together.plan import network_sha256


def training_layers(
    model: ModelSpec,
    batch_size: int,
    cuts: Sequence[str] | None = None,
    *,
    sample: bool = False,
    samples: int = 7,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """The layer profile of a training step with random images, without its environment.

    The layers are the pieces between `cuts` (module paths; None: the backbone's split points). Every contiguous
    group is cut out and run in training mode; with `sample` only single layers and the groups from the first or to
    the last. Raises UnknownNameError and UsageError for cuts that cannot be.
    """
    if batch_size < 2:
        raise UsageError(
            f"--batch-size must be at least 2 (batch norm needs more than one image), not {batch_size}"
        )
    if samples < 5:
        raise UsageError(f"--samples must be at least 5, not {samples}")
    if threads is not None:
        torch.set_num_threads(threads)
    names = [spec.module for spec in split_specs(model)] if cuts is None else list(cuts)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = backbone_from_name(model.backbone, model.num_classes).train()
        images = torch.randn(batch_size, 3, model.input_size, model.input_size)
    pieces = segments(network, names)
    count = len(pieces)
    values = [images]
    with torch.no_grad():
        for piece in pieces:
            values.append(piece(values[-1]))
    wanted = groups_to_measure(count, sample)
    groups = []
    for done, (first, last) in enumerate(wanted):
        progress(done, len(wanted))
        group = _group(network, names, first, last)
        forward, backward = _timed(group, values[first], samples)
        groups.append(
            {
                "first": first,
                "last": last,
                "samples_ms": forward,
                "summary": summary(forward),
                "backward_samples_ms": backward,
                "backward_summary": summary(backward),
            }
        )
    return {
        "format": LAYERS_FORMAT,
        "version": LAYERS_VERSION,
        "model": {
            "name": model.backbone,
            "sha256": network_sha256(model, names),
            "input_shape": list(images.shape),
        },
        "mode": "sample" if sample else "all",
        "origin": "measured",
        "codec": "none",
        "training": {
            "backbone": model.backbone,
            "num_classes": model.num_classes,
            "input_size": model.input_size,
            "cuts": names,
        },
        "layers": [
            {"name": name, "kind": "modules", "weight_bytes": _weight_bytes(piece)}
            for name, piece in zip([*names, "result"], pieces, strict=True)
        ],
        "tensors": [
            {
                "name": f"a{at}",
                "source": at,
                "readers": [at],
                "shape": list(value.shape),
                "raw_bytes": value.nbytes,
                "wire_bytes": value.nbytes,
            }
            for at, value in enumerate(values)
        ],
        "groups": groups,
    }


def _group(network: nn.Module, names: list[str], first: int, last: int) -> nn.Module:
    """The pieces first..last as one."""
    cuts = ([names[first - 1]] if first else []) + ([names[last]] if last < len(names) else [])
    return segments(network, cuts)[1 if first else 0]


def _timed(group: nn.Module, value: Tensor, samples: int) -> tuple[list[float], list[float]]:
    """(forward, backward) in ms; one more of each before, which does not count."""
    forward, backward = [], []
    for _ in range(samples + 1):
        before = value.detach().requires_grad_()
        started = time.perf_counter()
        after = group(before)
        middle = time.perf_counter()
        gradient = torch.ones_like(after)
        began = time.perf_counter()
        torch.autograd.backward(after, gradient)
        ended = time.perf_counter()
        forward.append((middle - started) * 1e3)
        backward.append((ended - began) * 1e3)
        group.zero_grad()
    return forward[1:], backward[1:]


def _weight_bytes(piece: nn.Module) -> int:
    """What is downloaded after a step: weights and buffers; the optimiser's state is counted as as much again."""
    values = [*piece.state_dict().values(), *piece.parameters()]
    return sum(int(value.nbytes) for value in values)
