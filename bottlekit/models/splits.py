"""Where a backbone can be cut, and the shape of the feature tensor there."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import BACKBONES, SPLIT_POINTS, backbone_on_meta
from bottlekit.models.cut import head_and_tail
from bottlekit.specs import ModelSpec, SplitSpec

_LARGEST_SIZE_TRIED = 1024


def split_names(backbone: str) -> tuple[str, ...]:
    """The declared split points of a backbone, in the order of execution: rb1..rbN or b1..bN.

    Raises UnknownNameError, which lists the backbones.
    """
    if backbone not in SPLIT_POINTS:
        raise UnknownNameError("backbone", backbone, BACKBONES)
    return tuple(SPLIT_POINTS[backbone])


def split_specs(model: ModelSpec) -> list[SplitSpec]:
    """All declared split points with their shapes at the model's input size; indices count from 1.

    The shapes come from one forward pass on the meta device, which computes no numbers.
    Raises UsageError where the backbone cannot take that input size; it names the smallest that works.
    """
    return list(_declared_specs(model))


def split_spec(model: ModelSpec, name: str) -> SplitSpec:
    """One split point: a declared name (`rb1`), or the path of any module with a single tensor at its output.

    The path of a declared split point's module means that split point. Any other module gets its path as its
    name, the index of the last declared split point before it (0 if none), and must return a feature map
    (n, c, h, w).
    Raises UnknownNameError, which lists the declared names, or UsageError where the network cannot be cut there.
    """
    for spec in _declared_specs(model):
        if name in (spec.name, spec.module):
            return spec
    return _spec_of_module(model, name)


@functools.lru_cache(maxsize=64)
def _declared_specs(model: ModelSpec) -> tuple[SplitSpec, ...]:
    split_names(model.backbone)
    points = SPLIT_POINTS[model.backbone]
    shapes = _output_shapes(model)
    return tuple(
        _spec(name, index, module, shapes[module], model)
        for index, (name, module) in enumerate(points.items(), start=1)
    )


@functools.lru_cache(maxsize=64)
def _spec_of_module(model: ModelSpec, path: str) -> SplitSpec:
    network = backbone_on_meta(model.backbone, model.num_classes)
    if path not in dict(network.named_modules()) or not path:
        raise UnknownNameError(
            f"split point of {model.backbone}",
            path,
            split_names(model.backbone),
            "The path of a module works as well (features.7, say) if one tensor crosses there.",
        )
    head_and_tail(network, path)
    shapes = _output_shapes(model)
    order = list(shapes)
    declared = SPLIT_POINTS[model.backbone].values()
    index = sum(order.index(module) < order.index(path) for module in declared)
    return _spec(path, index, path, shapes[path], model)


def _spec(name: str, index: int, module: str, shape: tuple[int, ...], model: ModelSpec) -> SplitSpec:
    if len(shape) != 4:
        raise UsageError(
            f"cannot cut {model.backbone} at '{module}': its output has the shape {shape}, and a bottleneck "
            "needs a feature map (n, c, h, w); choose a module before the pooling"
        )
    _, channels, height, width = shape
    stride = round(model.input_size / height)
    return SplitSpec(name, index, module, channels, height, width, stride)


def _output_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Module path -> shape of its output for one image, in the order in which the modules finish."""
    network = backbone_on_meta(model.backbone, model.num_classes)
    shapes: dict[str, tuple[int, ...]] = {}

    def recorder(path: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                shapes[path] = tuple(output.shape)

        return record

    for path, module in network.named_modules():
        module.register_forward_hook(recorder(path))
    if not _accepts(network, model.input_size):
        smallest = _smallest_size(network, model.input_size)
        raise UsageError(
            f"{model.backbone} cannot take --input-size {model.input_size}: its feature maps shrink to nothing; "
            f"the smallest it takes is {smallest}"
        )
    return shapes


def _accepts(network: nn.Module, size: int) -> bool:
    try:
        with torch.no_grad():
            network(torch.empty(1, 3, size, size, device="meta"))
    except RuntimeError:
        return False
    return True


def _smallest_size(network: nn.Module, too_small: int) -> int:
    """The smallest input size that the network accepts, found by bisection."""
    low, high = too_small, too_small
    while not _accepts(network, high):
        low, high = high, high * 2
        if high > _LARGEST_SIZE_TRIED:
            raise UsageError(f"{type(network).__name__} accepts no input of {too_small} to {low} pixels")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _accepts(network, middle) else (middle, high)
    return high
