"""One network for several settings of its codec.

    feature (n, c, h, w) --in parts--> a codec of each setting --together again--> what the server receives

The images of every batch are shared out among the settings, so that head, tail and the statistics of their batch
norms serve all of them, and a step costs what it costs with one. Which images get which is by their place in the
batch, and batches are shuffled: over the epochs every image meets every setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bottlekit.errors import UsageError
from bottlekit.models.codec_layer import CodecLayer
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import CodecSpec

WITH_QUALITY = ("jpeg", "jpeg-lean", "webp")


def setting_of(codec: CodecSpec) -> str:
    """What makes such a codec coarser or finer: its `quality`, or else the `bits` of its quantiser."""
    return "quality" if codec.name in WITH_QUALITY else "bits"


def codecs_of_rates(codec: CodecSpec, rates: Sequence[int]) -> list[CodecSpec]:
    """`codec` at each of `rates`, the coarsest first. UsageError for fewer than two, or what does not exist."""
    if len(set(rates)) != len(rates) or len(rates) < 2:
        raise UsageError(
            f"--rates needs two or more different numbers with commas between them, for the {setting_of(codec)} of "
            f"--codec {codec.name}"
        )
    return [at_rate(codec, rate) for rate in sorted(rates)]


def at_rate(codec: CodecSpec, rate: int) -> CodecSpec:
    """`codec` with another quality or, where it has none, other bits; UsageError for what does not exist."""
    try:
        if setting_of(codec) == "quality":
            return dataclasses.replace(codec, quality=rate)
        return dataclasses.replace(codec, bits=rate)
    except UsageError as error:
        raise UsageError(f"--rates {rate} is no setting of --codec {codec.name}: {error}") from error


class SeveralCodecs(nn.Module):
    """The codecs of several settings, each for its share of a batch (n, c, h, w); shares differ by one at most."""

    def __init__(self, network: SplitNetwork, codecs: Sequence[CodecSpec]) -> None:
        super().__init__()
        known = network.codec_layer.tables
        self.layers = nn.ModuleList(CodecLayer(codec, network.feature_shape, known) for codec in codecs)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        parts = feature.tensor_split(len(self.layers))
        pairs = zip(self.layers, parts, strict=True)
        return torch.cat([layer(part) for layer, part in pairs if len(part)])
