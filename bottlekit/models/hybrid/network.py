"""The conditionally deep hybrid network, and its two parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.codec_layer import CodecLayer
from bottlekit.models.cut import segments
from bottlekit.models.hybrid.blocks import quantise_blocks
from bottlekit.models.hybrid.spec import HybridSpec, exit_splits
from bottlekit.models.splits import split_spec
from bottlekit.models.units import reduced_shape, unit_from_spec
from bottlekit.specs import ModelSpec, SplitSpec

Self = TypeVar("Self", bound="HybridNetwork")


class ExitHead(nn.Module):
    """Average pooling, then a linear layer: the device's own answer.

    feature (n, c, h, w) -> averages over windows of `pool`, or over everything if h or w is smaller -> logits
    """

    def __init__(self, split: SplitSpec, num_classes: int, pool: int) -> None:
        super().__init__()
        self.pool = (min(pool, split.height), min(pool, split.width))
        positions = (split.height // self.pool[0]) * (split.width // self.pool[1])
        self.linear = nn.Linear(split.channels * positions, num_classes)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        logits: Tensor = self.linear(F.avg_pool2d(feature, self.pool).flatten(1))
        return logits


class EdgePart(nn.Module):
    """The device's part: image -> (reduced feature (n, c', h', w'), logits (n, classes) of each exit it carries).

    All its exits are computed for every image, in one graph (decision 11). Those that it does not carry served
    training.
    """

    def __init__(
        self, pieces: nn.ModuleList, exits: nn.ModuleList, carried: Sequence[int], reduce: nn.Module
    ) -> None:
        """`carried` are the numbers of the exits, which are those of the pieces they stand behind."""
        super().__init__()
        self.pieces = pieces
        self.exits = nn.ModuleList(exits[index] for index in carried)
        self.carried = tuple(carried)
        self.reduce = reduce

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Feature first: what takes one output of this graph takes what is sent."""
        value = image
        logits = []
        for index, piece in enumerate(self.pieces):
            value = piece(value)
            if index in self.carried:
                logits.append(self.exits[self.carried.index(index)](value))
        return self.reduce(value), *logits


class CloudPart(nn.Module):
    """The server's part: decoded feature (n, c', h', w') -> logits (n, classes)."""

    def __init__(self, restore: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.restore = restore
        self.rest = rest

    def forward(self, feature: Tensor) -> Tensor:
        """The restoration unit, then the rest of the backbone."""
        logits: Tensor = self.rest(self.restore(feature))
        return logits


class HybridNetwork(nn.Module):
    """A backbone with low-bit blocks and exits on the device, and full precision in the cloud.

        image (n, 3, h, w)
          | pieces[0]  up to the first exit's block            --> exits[0] --> logits (n, classes)
          | pieces[1]  up to the second's                      --> exits[1] --> logits
          | ...        up to the last low-bit block
          v (n, c, h, w)
          | reduce     the bottleneck unit's first half, or nothing
          v feature (n, c', h', w')                                             .feature_shape = (c', h', w')
          | codec_layer
          | restore, rest   the cloud, for images that no exit was sure of
          v logits (n, classes)

    Stem, projection shortcuts, exits, unit and cloud are in full precision. All exits and the cloud are computed
    here for every image; who leaves is decided by `bottlekit.device.exit_rules` from their logits alone.
    """

    def __init__(self, model: ModelSpec, spec: HybridSpec, backbone: nn.Module | None = None) -> None:
        """Quantise `backbone` in place, or one with random weights; exits and unit are new.

        Raises UnknownNameError or UsageError where the specs do not fit each other.
        """
        super().__init__()
        self.model, self.spec = model, spec
        self.split = split_spec(model, spec.last_block)
        self.exit_splits = exit_splits(model, spec)
        network = backbone_from_name(model.backbone, model.num_classes) if backbone is None else backbone
        self.low_bit_paths = quantise_blocks(network, model, spec.last_block, spec.bits)
        cuts = [split.module for split in self.exit_splits]
        if self.split.module not in cuts:
            cuts.append(self.split.module)
        *edge, rest = segments(network, cuts)
        self.pieces = nn.ModuleList(edge)
        self.rest = rest
        self.exits = nn.ModuleList(ExitHead(split, model.num_classes, spec.pool) for split in self.exit_splits)
        self.reduce: nn.Module = nn.Identity()
        self.restore: nn.Module = nn.Identity()
        self.feature_shape = (self.split.channels, self.split.height, self.split.width)
        if spec.bottleneck is not None:
            unit = unit_from_spec(spec.bottleneck, self.split)
            self.reduce, self.restore = unit.reduce, unit.restore
            self.feature_shape = reduced_shape(spec.bottleneck, self.split)
        self.codec_layer = CodecLayer(spec.codec, self.feature_shape)
        self.frozen = False

    @property
    def edge(self) -> EdgePart:
        """image (n, 3, h, w) -> (feature, logits of the last exit); shares this network's modules."""
        return self.edge_with((self.spec.exits[-1],))

    def edge_with(self, blocks: Sequence[str]) -> EdgePart:
        """image (n, 3, h, w) -> (feature, logits of the exits behind these blocks); shares this network's modules.

        Raises UnknownNameError for a block without an exit, UsageError for none, or blocks out of order or twice.
        """
        for block in blocks:
            if block not in self.spec.exits:
                raise UnknownNameError("exit", block, self.spec.exits, "These were trained.")
        carried = [self.spec.exits.index(block) for block in blocks]
        if not carried or carried != sorted(set(carried)):
            raise UsageError(f"--exits must name different blocks in their order, not {','.join(blocks)}")
        return EdgePart(self.pieces, self.exits, carried, self.reduce).train(self.training)

    @property
    def cloud(self) -> CloudPart:
        """Decoded feature (n, c', h', w') -> logits (n, classes); shares this network's modules."""
        return CloudPart(self.restore, self.rest).train(self.training)

    def forward(self, image: Tensor, with_codec: bool = True) -> Tensor:
        """The cloud's logits (n, classes) of images (n, 3, h, w), as if no image left early."""
        return self.every_answer(image, with_codec)[-1]

    def every_answer(self, image: Tensor, with_codec: bool = True) -> list[Tensor]:
        """The logits (n, classes) of every exit in order, then the cloud's."""
        answers: list[Tensor] = []
        value = image
        for index, piece in enumerate(self.pieces):
            value = piece(value)
            if index < len(self.exits):
                answers.append(self.exits[index](value))
        feature = self.reduce(value)
        if with_codec:
            feature = self.codec_layer(feature)
        answers.append(self.rest(self.restore(feature)))
        return answers

    def freeze_backbone(self) -> None:
        """From now on only the exits learn: everything else keeps its weights and its batch norms' statistics."""
        self.frozen = True
        exits = {id(parameter) for parameter in self.exits.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in exits)
        self.train(self.training)

    def train(self: Self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            for name, child in self.named_children():
                if name != "exits":
                    child.eval()
        return self
