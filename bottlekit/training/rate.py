"""What the codec `learned` would send, as a number of bytes that has a gradient.

    feature (n, c, h, w) --quantiser--> codes, contexts      context: left plus upper neighbour, as in the codec
      | running counts of codes by channel and context --> table of code lengths in bits (c, contexts, 2^bits)
      v bytes (n,)        value: lengths of the codes themselves      gradient: slope of the table at the codes

The counts follow the network as it learns: each batch adds its codes, and older ones fade. A batch is measured with
the table of those before it. The gradient is an approximation, as a code only changes in steps: around a value the
length is taken for the piecewise linear curve through the codes' lengths, averaged over one step (what uniform
noise in place of rounding gives on average), and along the context for the line between its two entries. It moves a
value towards codes that are likelier there, and towards being a better context for its neighbours. With
more than 3 bits the lengths of neighbouring codes differ by chance more than by anything else; then the slopes are
those of the 3-bit codes of the same values, whose lengths are less by as many bits, about the same for all.

In ordinary losses for compression the density is a smooth function with parameters of its own (Balle et al., ICLR
2018); a table of counts needs no second optimiser, and is what the codec will have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bottlekit.models.network import SplitNetwork
from bottlekit.models.quantizer_graph import quantize

# Sums of two neighbours share an entry where there are more sums than this.
_CONTEXTS = 16
# A batch counts half as much after 34 more.
_FADING = 0.98
# The sharing of entries for many bits is finest at 0, where most codes are; this keeps its slope finite there.
_ROOT = 0.01
# Slopes are taken from codes of so many bits.
_SLOPE_BITS = 3
# What a state and the rounding to bytes cost on average.
_END_BYTES = 1.5


class RateEstimate(nn.Module):
    """Estimated payload of the codec `learned` for features of one shape; in training mode it also counts.

    Its state are the counts of its tables: values that fade, and nothing that a gradient changes.
    """

    def __init__(self, network: SplitNetwork) -> None:
        """For the features and the quantiser of `network`, whatever its codec is called."""
        super().__init__()
        channels = network.feature_shape[0]
        self.bits = network.codec.bits
        self.value_range = network.codec_layer.codec.value_range
        self.lengths = CodeLengths(channels, self.bits)
        self.slopes = self.lengths if self.bits <= _SLOPE_BITS else CodeLengths(channels, _SLOPE_BITS)

    def forward(self, feature: Tensor) -> Tensor:
        """Bytes (n,) of the payloads of features (n, c, h, w)."""
        feature = feature.float()
        codes = quantize(feature.detach(), self.bits, self.value_range)[0]
        share = self._share(feature)
        bits: Tensor = self.lengths(codes, share)
        if self.slopes is not self.lengths:
            coarse = (share.detach().nan_to_num(0.0) * self.slopes.levels).round().to(codes.dtype)
            coarse_bits = self.slopes(coarse, share)
            bits = bits.detach() + (coarse_bits - coarse_bits.detach())
        range_bytes = 8 if self.value_range is None else 0
        return bits.sum((1, 2, 3)) / 8 + (range_bytes + _END_BYTES)

    def _share(self, feature: Tensor) -> Tensor:
        """Where values are in the quantiser's range, 0..1; a larger maximum makes all others smaller."""
        if self.value_range is None:
            low, high = feature.amin((1, 2, 3), keepdim=True), feature.amax((1, 2, 3), keepdim=True)
            span = high - low
            return (feature - low) / span.where(span > 0, 1.0)
        low_value, high_value = self.value_range
        return (feature.clamp(low_value, high_value) - low_value) / (high_value - low_value)


class CodeLengths(nn.Module):
    """The length of every code in bits, by channel and context, from running counts.

    `counts` is (c, contexts, 2^bits).
    """

    counts: Tensor

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.levels = (1 << bits) - 1
        self.contexts = min(2 * self.levels + 1, _CONTEXTS)
        self.register_buffer("counts", torch.zeros(channels, self.contexts, self.levels + 1))

    def forward(self, codes: Tensor, share: Tensor) -> Tensor:
        """Bits (n, c, h, w) of codes (n, c, h, w); the gradient goes to `share`, where in 0..1 the values are."""
        steps = share * self.levels
        # The codes, with the gradient of where the values are between them.
        soft = codes.to(torch.float32) + (steps - steps.detach())
        place = self._place(neighbours_sum(soft))
        # Features that are no numbers have codes, but no place; they reach the loss all the same.
        known_place = place.detach().nan_to_num(0.0)
        length, slope, context_slope = self._looked_up(codes, steps.detach(), known_place)
        if self.training:
            self._count(codes, known_place)
        return length + slope * (soft - soft.detach()) + context_slope * (place - place.detach())

    def _place(self, sums: Tensor) -> Tensor:
        """Where sums of neighbours, 0..2 * levels, are along the table's contexts, 0..contexts - 1."""
        last = self.contexts - 1
        share = sums / (2 * self.levels)
        if 2 * self.levels == last:
            return share * last
        root = math.sqrt(_ROOT)
        return ((share + _ROOT).sqrt() - root) / (math.sqrt(1 + _ROOT) - root) * last

    @torch.no_grad()
    def _looked_up(self, codes: Tensor, steps: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For every value: the length of its code in bits, and its slopes along code and context."""
        table = self._table()
        channel = torch.arange(codes.shape[1], device=codes.device)[:, None, None]
        first = place.floor().clamp(0, self.contexts - 2).long()
        share = place - first

        def at(code: Tensor) -> tuple[Tensor, Tensor]:
            return table[channel, first, code], table[channel, first + 1, code]

        def between(pair: tuple[Tensor, Tensor]) -> Tensor:
            return pair[0] + share * (pair[1] - pair[0])

        code = codes.long()
        here = at(code)
        length = between(here)
        below = between(at((code - 1).clamp(min=0)))
        above = between(at((code + 1).clamp(max=self.levels)))
        # 0 at the lower end of what is rounded to this code, 1 at its upper end; at the range's ends one side only.
        upper = (steps - codes + 0.5).clamp(0, 1)
        upper = upper.where(codes > 0, 1.0).where(codes < self.levels, 0.0)
        slope = (1 - upper) * (length - below) + upper * (above - length)
        return length, slope, here[1] - here[0]

    def _table(self) -> Tensor:
        """Code lengths in bits, (c, contexts, 2^bits): few counts are filled up with what is known of all.

        As the codec's own prior is (device/codecs/prior.py).
        """
        symbols = self.levels + 1
        uniform = torch.full((symbols,), 1 / symbols, device=self.counts.device)
        overall = _filled(self.counts.sum((0, 1)), uniform, 0.1 * symbols)
        of_context = _filled(self.counts.sum(0), overall, symbols)
        return -_filled(self.counts, of_context, 0.5 * symbols).log2()

    @torch.no_grad()
    def _count(self, codes: Tensor, place: Tensor) -> None:
        first = place.floor().clamp(0, self.contexts - 2).long()
        share = place - first
        channel = torch.arange(codes.shape[1], device=codes.device)[:, None, None]
        index = (channel * self.contexts + first) * (self.levels + 1) + codes
        size = self.counts.numel()
        met = torch.bincount(index.flatten(), (1 - share).flatten(), size)
        # The second context's entries lie one row of codes further on.
        met += torch.bincount((index + self.levels + 1).flatten(), share.flatten(), size + self.levels + 1)[:size]
        self.counts.mul_(_FADING).add_(met.reshape(self.counts.shape))


def neighbours_sum(codes: Tensor) -> Tensor:
    """Left plus upper neighbour of codes (n, c, h, w) in their channel, 0 outside."""
    left = nn.functional.pad(codes[..., :-1], (1, 0))
    upper = nn.functional.pad(codes[..., :-1, :], (0, 0, 1, 0))
    return left + upper


def _filled(met: Tensor, likely: Tensor, weight: float) -> Tensor:
    """Counts (..., k) with `weight` more that are spread as `likely` (..., k) says, as probabilities."""
    return (met + weight * likely) / (met.sum(-1, keepdim=True) + weight)
