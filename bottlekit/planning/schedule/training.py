"""One training step as a schedule problem of 2n layers: forward, then backward (JointDNN, section 3.5).

    boundary    0         1         n              n+1             2n
                | layer 0 | ... n-1 | back n-1 | ... | back 0 |
    tensors     input     outputs   loss gradient  gradients      (nobody reads the last)

The backward half is the forward half mirrored. The cloud keeps the newest weights; what the mobile needs besides
are the weights that the cloud changed: of every layer whose backward pass ran there, all weights. As in the paper,
the activations that the backward pass needs are taken to be where it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bottlekit.errors import UsageError
from bottlekit.planning.schedule.problem import ScheduleProblem, Table, Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class BackwardTimes:
    """The backward pass: (n, n) tables; [i, j] is the gradients of layers j down to i, i <= j.

    `weight_bytes`: what a layer's weights take on the wire, n values.
    """

    mobile_ms: Table
    mobile_mj: Table
    cloud_ms: Table
    weight_bytes: Sequence[float]


def training_problem(forward: ScheduleProblem, backward: BackwardTimes) -> ScheduleProblem:
    """The problem of one training step, with the forward problem's link, objective and bounds.

    `forward` is the network's inference problem; its result is read by the loss, where the backward pass begins. A
    tensor's gradient is as large as the tensor. A group of layers from both halves takes the sum of its two parts.
    The bounds are those of a step.
    """
    count = forward.count
    if len(backward.weight_bytes) != count:
        raise UsageError(f"weight_bytes has {len(backward.weight_bytes)} values for {count} layers")
    names = tuple(f"{name}, backward" for name in reversed(forward.names))
    return dataclasses.replace(
        forward,
        names=(*forward.names, *names),
        mobile_ms=_joined(forward.mobile_ms, backward.mobile_ms),
        mobile_mj=_joined(forward.mobile_mj, backward.mobile_mj),
        cloud_ms=_joined(forward.cloud_ms, backward.cloud_ms),
        tensors=(*forward.tensors, *_gradients(forward)),
        update_bytes=(*([0.0] * count), *(float(size) for size in reversed(backward.weight_bytes))),
        fixed_boundaries=frozenset(
            {*forward.fixed_boundaries, *(2 * count - boundary for boundary in forward.fixed_boundaries)}
        ),
    )


def _joined(forward: Table, backward: Table) -> Table:
    """(2n, 2n): forward, the mirrored backward, and groups of the last layers of one and the first of the other."""
    count = forward.shape[0]
    mirrored = backward[::-1, ::-1].T
    table = np.zeros((2 * count, 2 * count))
    table[:count, :count] = np.triu(forward)
    table[count:, count:] = np.triu(mirrored)
    table[:count, count:] = forward[:, -1:] + mirrored[:1, :]
    return table


def _gradients(problem: ScheduleProblem) -> list[Tensor]:
    """The gradient of every tensor between layers, backwards from its last reader to where it was made.

    Each reader adds its share to what the one behind it found: one tensor goes from each to the one before it.
    """
    end = 2 * problem.count
    found = []
    for tensor in problem.tensors:
        layers = sorted(reader for reader in tensor.readers if reader < problem.count)
        # Nobody wants the input's gradient.
        if tensor.source == 0:
            continue
        for at, layer in enumerate(layers):
            wanted_by = end - tensor.source if at == 0 else end - 1 - layers[at - 1]
            name = f"gradient of {tensor.name}" + (f" from layer {layer}" if at else "")
            found.append(Tensor(name, end - layer, (wanted_by,), tensor.upload_bytes, tensor.download_bytes))
    return found
