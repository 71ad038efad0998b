"""Bottleneck units: what shrinks the feature tensor on the device and restores it on the server."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from bottlekit.errors import UsageError
from bottlekit.specs import BottleneckSpec, SplitSpec


def unit_from_spec(spec: BottleneckSpec, split: SplitSpec) -> BottleNetUnit | ButterflyUnit:
    """The unit that a spec describes, for the feature tensor of one split point; randomly initialised.

    Raises UsageError where `--channels` is more than the split point has.
    """
    _check_channels(spec, split)
    if spec.kind == "butterfly":
        return ButterflyUnit(split.channels, spec.channels)
    return BottleNetUnit(
        split.channels, (split.height, split.width), spec.channels or split.channels, spec.spatial, spec.kernel
    )


def reduced_shape(spec: BottleneckSpec, split: SplitSpec) -> tuple[int, int, int]:
    """Shape (c', h', w') of the reduced feature: c' channels, h' = ceil(h / s), w' = ceil(w / s)."""
    _check_channels(spec, split)
    return (
        spec.channels or split.channels,
        _reduced_length(split.height, spec.spatial),
        _reduced_length(split.width, spec.spatial),
    )


class BottleNetUnit(nn.Module):
    """Channel-wise and spatial reduction, and their mirror image (BottleNet, section 2.1 and fig. 3).

        feature (n, c, h, w)
          | reduce.channel   1x1 convolution c -> c', batch norm, ReLU
          v (n, c', h, w)
          | reduce.spatial   k x k convolution c' -> c', stride s, batch norm, ReLU      k > s
          v (n, c', h', w')                                                              h' = ceil(h / s)
        ......... codec, link .........
          | restore.spatial  k x k transposed convolution c' -> c', stride s, batch norm, ReLU
          v (n, c', h, w)
          | restore.channel  1x1 convolution c' -> c, batch norm, ReLU
          v (n, c, h, w)

    Either reduction alone: `channels == reduced_channels` leaves the channel steps out only where a spatial step
    remains; `spatial == 1` leaves the spatial steps out. h, w and therefore all paddings are fixed at birth, so
    that every size, odd ones included, comes back exactly and the exported graph computes no shape.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], reduced_channels: int, spatial: int = 1, kernel: int = 3
    ) -> None:
        """`channels` c, `size` (h, w), `reduced_channels` c', `spatial` the stride s, `kernel` k."""
        super().__init__()
        reduce: list[tuple[str, nn.Module]] = []
        restore: list[tuple[str, nn.Module]] = []
        if reduced_channels != channels or spatial == 1:
            down, up = (
                nn.Conv2d(channels, reduced_channels, 1, bias=False),
                nn.Conv2d(reduced_channels, channels, 1, bias=False),
            )
            reduce.append(("channel", _normalised(down, reduced_channels)))
            restore.append(("channel", _normalised(up, channels)))
        if spatial > 1:
            shrink, grow = _spatial_pair(reduced_channels, size, spatial, kernel)
            reduce.append(("spatial", _normalised(shrink, reduced_channels)))
            restore.append(("spatial", _normalised(grow, reduced_channels)))
        self.reduce = nn.Sequential(OrderedDict(reduce))
        self.restore = nn.Sequential(OrderedDict(reversed(restore)))
        _initialise(self)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w), without a codec in between."""
        restored: Tensor = self.restore(self.reduce(feature))
        return restored


class ButterflyUnit(nn.Module):
    """1x1 convolution to few channels and back, nothing else (Butterfly, section II-A and fig. 2).

    feature (n, D, h, w) -> reduce: 1x1 convolution -> (n, D_r, h, w)
    ......... 8-bit codes, link .........
    (n, D_r, h, w) -> restore: 1x1 convolution -> (n, D, h, w)
    """

    def __init__(self, channels: int, reduced_channels: int) -> None:
        """`channels` D, `reduced_channels` D_r."""
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced_channels, 1)
        self.restore = nn.Conv2d(reduced_channels, channels, 1)
        _initialise(self)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, D, h, w) -> (n, D, h, w), without a codec in between."""
        restored: Tensor = self.restore(self.reduce(feature))
        return restored


def _check_channels(spec: BottleneckSpec, split: SplitSpec) -> None:
    if spec.channels > split.channels:
        raise UsageError(
            f"--channels {spec.channels} is more than the {split.channels} channels at {split.name}, "
            "which would widen the feature instead of reducing it"
        )


def _reduced_length(length: int, stride: int) -> int:
    return -(-length // stride)


def _spatial_pair(
    channels: int, size: tuple[int, int], stride: int, kernel: int
) -> tuple[nn.Conv2d, nn.ConvTranspose2d]:
    """The convolution (h, w) -> (ceil(h / s), ceil(w / s)) and the transposed one back to exactly (h, w).

    Per axis the windows cover (h' - 1) * s + k positions, so T = (h' - 1) * s + k - h of them are padding.
    Both take ceil(T / 2) on either side; where T is odd the convolution never reaches the last padded column,
    and the transposed convolution gives it back as one column of output padding.
    """
    totals = [(_reduced_length(length, stride) - 1) * stride + kernel - length for length in size]
    padding = (_reduced_length(totals[0], 2), _reduced_length(totals[1], 2))
    output_padding = (totals[0] % 2, totals[1] % 2)
    shrink = nn.Conv2d(channels, channels, kernel, stride, padding, bias=False)
    grow = nn.ConvTranspose2d(channels, channels, kernel, stride, padding, output_padding, bias=False)
    return shrink, grow


def _normalised(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict([("conv", convolution), ("norm", nn.BatchNorm2d(channels)), ("relu", nn.ReLU())])
    )


def _initialise(unit: nn.Module) -> None:
    """He initialisation, which keeps the variance through ReLU, so that fine-tuning starts from live features."""
    for module in unit.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
