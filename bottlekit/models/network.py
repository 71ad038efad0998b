"""The network with a bottleneck in it, and its two halves."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.codec_layer import CodecLayer
from bottlekit.models.cut import head_and_tail
from bottlekit.models.splits import split_spec
from bottlekit.models.units import reduced_shape, unit_from_spec
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

Self = TypeVar("Self", bound="SplitNetwork")


class Head(nn.Module):
    """The device's half: image (n, 3, h, w) -> reduced feature (n, c', h', w')."""

    def __init__(self, backbone_head: nn.Module, reduce: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone_head
        self.reduce = reduce

    def forward(self, image: Tensor) -> Tensor:
        """Backbone up to the split point, then the reduction unit."""
        feature: Tensor = self.reduce(self.backbone(image))
        return feature


class Tail(nn.Module):
    """The server's half: decoded feature (n, c', h', w') -> logits (n, classes)."""

    def __init__(self, restore: nn.Module, backbone_tail: nn.Module) -> None:
        super().__init__()
        self.restore = restore
        self.backbone = backbone_tail

    def forward(self, feature: Tensor) -> Tensor:
        """The restoration unit, then the rest of the backbone."""
        logits: Tensor = self.backbone(self.restore(feature))
        return logits


class SplitNetwork(nn.Module):
    """A backbone with a bottleneck unit and a codec behind one split point.

        image (n, 3, h, w)
          | head         backbone up to the split point, unit.reduce
          v feature (n, c', h', w')                                   .feature_shape = (c', h', w')
          | codec_layer  quantise, tile, compress, and back
          v decoded feature (n, c', h', w')
          | tail         unit.restore, backbone from the split point
          v logits (n, classes)

    `backbone` and `unit` own all weights; `head` and `tail` are views that share their modules and can be
    exported on their own. The state dict has the names `backbone.*` and `unit.*` only.
    """

    def __init__(
        self,
        model: ModelSpec,
        bottleneck: BottleneckSpec,
        codec: CodecSpec,
        backbone: nn.Module | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        """Put a new unit into `backbone`, or into one with random weights.

        `value_range` (low, high) is for a codec with a static range, which needs it.
        Raises UnknownNameError, UsageError or CodecError where the specs do not fit each other.
        """
        super().__init__()
        self.model = model
        self.bottleneck = bottleneck
        self.split = split_spec(model, bottleneck.split)
        self.feature_shape = reduced_shape(bottleneck, self.split)
        self.backbone = backbone_from_name(model.backbone, model.num_classes) if backbone is None else backbone
        self.unit = unit_from_spec(bottleneck, self.split)
        self.take_codec(codec, value_range)
        first, rest = head_and_tail(self.backbone, self.split.module)
        # In a tuple, torch does not register them a second time: the weights belong to backbone and unit.
        self._halves = (Head(first, self.unit.reduce), Tail(self.unit.restore, rest))

    def take_codec(self, codec: CodecSpec, value_range: tuple[float, float] | None = None) -> None:
        """Send with `codec` from now on; a static range is `value_range`.

        Raises UnknownNameError, UsageError or CodecError for a codec that cannot take the feature.
        """
        tables = None if value_range is None else {"range": np.array(value_range, dtype=np.float32)}
        self.codec_layer = CodecLayer(codec, self.feature_shape, tables)
        self.codec = codec

    @property
    def head(self) -> Head:
        """image (n, 3, h, w) -> reduced feature (n, c', h', w')."""
        return self._halves[0]

    @property
    def tail(self) -> Tail:
        """Decoded feature (n, c', h', w') -> logits (n, classes)."""
        return self._halves[1]

    def forward(self, image: Tensor, with_codec: bool = True) -> Tensor:
        """Logits (n, classes) of images (n, 3, h, w); `with_codec=False` leaves the codec out."""
        feature: Tensor = self.head(image)
        if with_codec:
            feature = self.codec_layer(feature)
        logits: Tensor = self.tail(feature)
        return logits

    def train(self: Self, mode: bool = True) -> Self:
        """Training or evaluation mode, of the halves too."""
        super().train(mode)
        for half in self._halves:
            half.train(mode)
        return self
