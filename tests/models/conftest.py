"""Networks for the tests of models/, quickly made."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bottlekit.models.backbones import backbone_on_meta


def _randomise(network: nn.Module) -> nn.Module:
    """Random weights and non-trivial batch-norm statistics, in evaluation mode.

    The numbers are cut from one pool, because drawing 138 million of them for VGG takes seconds.
    """
    generator = torch.Generator().manual_seed(7)
    pool = torch.randn(1 << 16, generator=generator)
    for index, module in enumerate(network.modules()):
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not tensor.is_floating_point():
                if name == "num_batches_tracked":
                    tensor.data.fill_(1)
                continue
            values = pool.roll(index * 977).repeat(-(-tensor.numel() // len(pool)))[: tensor.numel()]
            if isinstance(module, nn.BatchNorm2d):
                # weight and variance stay near 1, bias and mean near 0
                values = values * 0.1 + (1.0 if name in ("weight", "running_var") else 0.0)
                values = values.clamp(min=0.5) if name in ("weight", "running_var") else values
            elif tensor.ndim > 1:
                values = values * math.sqrt(2.0 / tensor[0].numel())
            tensor.data.copy_(values.view(tensor.shape))
    return network.eval()


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    return _randomise


@pytest.fixture(scope="session")
def lively() -> Callable[..., nn.Module]:
    """backbone name -> the backbone with random weights and non-trivial batch-norm statistics."""

    def make(name: str, num_classes: int = 10) -> nn.Module:
        return _randomise(backbone_on_meta(name, num_classes).to_empty(device="cpu"))

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Two random images (2, 3, 64, 64)."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
