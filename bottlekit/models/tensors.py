"""Named tensors: prefixes, comparing them with what a network needs, and putting them into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from bottlekit.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)

_SHOWN = 3


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def compare_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, what: str) -> None:
    """Raise CheckpointError, naming the first few, unless names and shapes are equal.

    `where` names the file, `what` the network that the expected tensors belong to.
    """
    faults = []
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {_shape(found[name])} instead of {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = [
        f"{name} is {found[name].dtype}"
        for name, tensor in expected.items()
        if name in found and found[name].is_floating_point() != tensor.is_floating_point()
    ]
    for fault, names in (("lacks", missing), ("has unknown", extra), ("shape:", shapes), ("type:", kinds)):
        if names:
            faults.append(f"{fault} {_first_few(names)}")
    if faults:
        raise CheckpointError(f"{where} does not hold the weights of {what}: {'; '.join(faults)}")


def fill(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """A network on the meta device, with copies of these tensors as its weights; types become the network's."""
    expected = network.state_dict()
    state = OrderedDict(
        (name, tensor.to("cpu", expected[name].dtype, copy=True)) for name, tensor in tensors.items()
    )
    # Some networks (MnasNet) read from here in which version of their layout the weights are.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, assign=True)
    return network


def _shape(tensor: Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape) or "a scalar"


def _first_few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
