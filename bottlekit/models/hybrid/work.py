"""The work of each layer of a hybrid network, with its precision and its place.

torch's counter of floating-point operations sees what really runs, also inside Brevitas's layers, where counters
that look for known classes of layers find nothing. A test holds it against the formula for a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bottlekit.models.hybrid.low_bit import LowBitConv2d
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import FULL_PRECISION

_WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def work_of_network(network: HybridNetwork) -> list[dict[str, Any]]:
    """One record for every convolution and linear layer, for one image, in the order of execution.

    {"name", "place": "edge", "exit" or "cloud", "macs", "bits" of weights and input, "weights", "inputs" and
    "outputs" (numbers of values)}. The unit's halves belong to their places. The network is left as it was.
    """
    records: list[dict[str, Any]] = []
    counter = FlopCounterMode(display=False)
    before: dict[str, int] = {}
    hooks = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            before[name] = counter.get_total_flops()

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            layer: Any = module.conv if isinstance(module, LowBitConv2d) else module
            records.append(
                {
                    "name": name,
                    "place": _place(name),
                    "macs": (counter.get_total_flops() - before[name]) // 2,
                    "bits": module.bits if isinstance(module, LowBitConv2d) else FULL_PRECISION,
                    "weights": layer.weight.numel(),
                    "inputs": inputs[0].numel(),
                    "outputs": output.numel(),
                }
            )

        return hook

    for name, module in _layers(network):
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    was_training = network.training
    device = next(network.parameters()).device
    size = network.model.input_size
    try:
        # With gradients: the counter follows the modules by them.
        with torch.enable_grad(), counter:
            network.eval().every_answer(torch.zeros(1, 3, size, size, device=device), with_codec=False)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return records


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every weighted layer, a low-bit one as a whole."""
    found: list[tuple[str, nn.Module]] = []
    low_bit = [name for name, module in network.named_modules() if isinstance(module, LowBitConv2d)]
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in low_bit)
        if isinstance(module, LowBitConv2d) or (isinstance(module, _WEIGHTED) and not inside):
            found.append((name, module))
    return found


def _place(name: str) -> str:
    part = name.split(".")[0]
    return {"pieces": "edge", "reduce": "edge", "exits": "exit", "restore": "cloud", "rest": "cloud"}[part]
