"""Triton's config.pbtxt: the text form of its ModelConfig message, for the few models that a fleet needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Tensor(NamedTuple):
    """An input or output: its name, Triton's data type without TYPE_, its shape without the batch."""

    name: str
    data_type: str
    shape: tuple[int, ...]


class Step(NamedTuple):
    """A model of an ensemble, with what it takes and what it gives."""

    model: str
    takes: Tensor
    gives: Tensor


def config_of_model(
    name: str,
    backend: str,
    max_batch: int,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    instances: tuple[int, str],
    queue_delay_us: int,
    parameters: Mapping[str, str],
    default_file: str,
) -> str:
    """The config.pbtxt of a model that computes. `max_batch` 0: one at a time, its shapes then begin with a 1.

    `instances` are how many and of which kind (KIND_CPU, KIND_GPU, KIND_AUTO). Requests that wait are put together
    up to `max_batch`; the first of them waits `queue_delay_us` for others, whether or not an instance is idle.
    """
    lines = [
        f"name: {_text(name)}",
        f"backend: {_text(backend)}",
        f"default_model_filename: {_text(default_file)}",
        *_edges(inputs, outputs, max_batch),
        f"instance_group [ {{ count: {instances[0]} kind: {instances[1]} }} ]",
    ]
    if max_batch:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {queue_delay_us} }}")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}")
    return "\n".join(lines) + "\n"


def config_of_ensemble(name: str, steps: Sequence[Step], max_batch: int) -> str:
    """The config.pbtxt of a chain of models, each fed with what the one before gives."""
    lines = [
        f"name: {_text(name)}",
        'platform: "ensemble"',
        *_edges([steps[0].takes], [steps[-1].gives], max_batch),
        "ensemble_scheduling {",
        "  step [",
    ]
    for number, step in enumerate(steps):
        lines += [
            "    {",
            f"      model_name: {_text(step.model)}",
            "      model_version: -1",
            f"      input_map {{ key: {_text(step.takes.name)} value: {_text(step.takes.name)} }}",
            f"      output_map {{ key: {_text(step.gives.name)} value: {_text(step.gives.name)} }}",
            "    }" + ("," if number < len(steps) - 1 else ""),
        ]
    return "\n".join([*lines, "  ]", "}"]) + "\n"


def _edges(inputs: Sequence[Tensor], outputs: Sequence[Tensor], max_batch: int) -> list[str]:
    return [
        f"max_batch_size: {max_batch}",
        *(_tensor("input", one, max_batch) for one in inputs),
        *(_tensor("output", one, max_batch) for one in outputs),
    ]


def _tensor(field: str, tensor: Tensor, max_batch: int) -> str:
    # Byte strings are a list of one in either case: (n, 1) with batches, (1,) without.
    whole = tensor.shape if max_batch or tensor.data_type == "STRING" else (1, *tensor.shape)
    sizes = ", ".join(map(str, whole))
    return f"{field} [ {{ name: {_text(tensor.name)} data_type: TYPE_{tensor.data_type} dims: [ {sizes} ] }} ]"


def _text(value: str) -> str:
    """A quoted string; JSON's escapes are among those of protobuf's text form."""
    return json.dumps(value)
