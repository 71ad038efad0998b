"""The work a network does, in multiply-accumulates.

Counted by torch's own counter of floating-point operations, which counts two per multiply-accumulate: convolutions
and matrix products only, whatever kind of layer they come from. Nothing is computed: weights and input are taken
to the meta device, and the network is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass for an input of `input_shape`, (n, c, h, w)."""
    return _count(module, input_shape).get_total_flops() // 2


def macs_until(network: nn.Module, input_shape: tuple[int, ...], paths: Iterable[str]) -> dict[str, int]:
    """Multiply-accumulates up to and including each of these modules, in one forward pass: the work of the
    heads that end there. Each module must run once, and everything before it must belong to its head."""
    counter = FlopCounterMode(display=False)
    until: dict[str, int] = {}

    def recorder(path: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            until[path] = counter.get_total_flops() // 2

        return record

    hooks = [network.get_submodule(path).register_forward_hook(recorder(path)) for path in paths]
    try:
        _count(network, input_shape, counter)
    finally:
        for hook in hooks:
            hook.remove()
    return until


def _count(
    module: nn.Module, input_shape: tuple[int, ...], counter: FlopCounterMode | None = None
) -> FlopCounterMode:
    counter = counter or FlopCounterMode(display=False)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    with torch.no_grad(), counter:
        torch.func.functional_call(module, on_meta, (torch.empty(input_shape, device="meta"),))
    return counter
