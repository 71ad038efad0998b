"""The work a network does."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass for an input of `input_shape`, (n, c, h, w).

    Counted by torch's own counter of floating-point operations, two per multiply-accumulate: convolutions and
    matrix products only, whatever kind of layer they come from. Nothing is computed: weights and input are
    taken to the meta device, the module is left as it is.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    on_meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        torch.func.functional_call(module, on_meta, (torch.empty(input_shape, device="meta"),))
    return int(counter.get_total_flops()) // 2
