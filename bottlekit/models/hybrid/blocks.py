"""Which layers of a backbone are quantised, and how its blocks change for that."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bottlekit.errors import UsageError
from bottlekit.models.cifar_resnet import CifarBlock
from bottlekit.models.hybrid.low_bit import FoldedConv2d, LowBitConv2d
from bottlekit.models.hybrid.spec import FULL_PRECISION
from bottlekit.models.splits import split_spec, split_specs
from bottlekit.specs import ModelSpec

# Children of blocks that stay as they are: projection shortcuts, and the gates of squeeze and excitation, whose
# convolutions see one pixel.
_KEPT = ("downsample", "proj", "se", "SqueezeExcitation")


class LowBitBlock(nn.Module):
    """The device's block of the hybrid paper (section 4), from a block of a CIFAR network:

    BN - quantise - conv - ReLU - BN - quantise - conv - BN, plus the shortcut
    """

    def __init__(self, block: CifarBlock, bits: int) -> None:
        super().__init__()
        self.conv1 = LowBitConv2d(block.conv1, bits)
        self.relu = nn.ReLU()
        self.conv2 = LowBitConv2d(block.conv2, bits)
        self.norm = nn.BatchNorm2d(block.conv2.out_channels)
        self.downsample = block.downsample

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h', w')."""
        result: Tensor = self.norm(self.conv2(self.relu(self.conv1(feature)))) + self.downsample(feature)
        return result


def quantise_blocks(network: nn.Module, model: ModelSpec, last_block: str, bits: int) -> list[str]:
    """Quantise the blocks of `network` up to `last_block`, in place; return the paths of what became low-bit.

    The first convolution, projection shortcuts and what follows `last_block` stay in full precision. The blocks of
    a CIFAR network become those of the paper; in torchvision's, each convolution gets a batch norm and a quantiser
    in front of it. Raises UnknownNameError, and UsageError where nothing would be quantised.
    """
    last = split_spec(model, last_block)
    if bits == FULL_PRECISION:
        return []
    paths = [split.module for split in split_specs(model) if split.index <= last.index]
    for path in paths:
        block = network.get_submodule(path)
        if isinstance(block, CifarBlock):
            network.set_submodule(path, LowBitBlock(block, bits))
        else:
            _quantise_convolutions(network, path, bits)
    if any(not list(network.get_submodule(path).children()) for path in paths):
        _quantise_between(network, paths[-1], bits)
    found = [path for path, module in network.named_modules() if isinstance(module, LowBitConv2d)]
    if not found:
        raise UsageError(f"{model.backbone} has no convolution to quantise up to {last_block}; take a later block")
    return found


def folded(network: nn.Module) -> nn.Module:
    """A copy of a network or a part of one for export, in evaluation mode, without Brevitas."""
    copied = copy.deepcopy(network).eval()
    for path, module in list(copied.named_modules()):
        if isinstance(module, LowBitConv2d):
            copied.set_submodule(path, FoldedConv2d(module))
    return copied.eval()


def _quantise_convolutions(network: nn.Module, block: str, bits: int) -> None:
    for path, module in list(network.get_submodule(block).named_modules()):
        if isinstance(module, nn.Conv2d) and not _is_kept(network, block, path):
            network.set_submodule(f"{block}.{path}", LowBitConv2d(module, bits))


def _is_kept(network: nn.Module, block: str, path: str) -> bool:
    names = path.split(".")
    parents = [".".join([block, *names[:depth]]) for depth in range(1, len(names))]
    kinds = [type(network.get_submodule(parent)).__name__ for parent in parents]
    return any(name in _KEPT for name in [*names, *kinds])


def _quantise_between(network: nn.Module, last: str, bits: int) -> None:
    """For chains without blocks (VGG, AlexNet): every convolution up to the module `last` but the first."""
    convolutions = []
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            convolutions.append((path, module))
        if path == last:
            break
    for path, module in convolutions[1:]:
        network.set_submodule(path, LowBitConv2d(module, bits))
