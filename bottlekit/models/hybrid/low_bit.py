"""A convolution with few bits, through Brevitas, and the same one in standard operators.

    x --norm--> --quantise--> codes * step --convolution with quantised weights-->

    bits   input                        weights, a scale per filter
    1      sign(x), +1 for x >= 0       mean|W| * sign(W)
    2      -2..1   steps of 1           mean|W| * (-1, 0, 1)
    4      -8..7   steps of 1/4         max|W|/7 * (-7..7)
    8      -128..127 steps of 1/32      max|W|/127 * (-127..127)

The steps of the input are fixed: the batch norm in front of it learns what range they cover, as it does in front of
a sign. Being powers of two they make x / step exact, so no runtime rounds another way than torch. Outside its range
the input is clamped, and there its gradient is 0; elsewhere the gradient of rounding and of the sign is 1 (the
straight-through estimator).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_INPUT_STEP = {2: 1.0, 4: 0.25, 8: 0.03125}


class LowBitConv2d(nn.Module):
    """`conv` with its input and its weights quantised, behind a batch norm of its own; training goes through
    Brevitas. It begins with the weights of `conv`. Raises ModuleNotFoundError where Brevitas is not installed."""

    # Brevitas decides in its forward what to do, which cannot be traced.
    traced_whole = True

    def __init__(self, conv: nn.Conv2d, bits: int) -> None:
        """`bits` 1, 2, 4 or 8."""
        super().__init__()
        from brevitas.nn import QuantConv2d

        if not isinstance(conv.padding, tuple) or conv.padding_mode != "zeros":
            raise ValueError("only convolutions padded with zeros by numbers are quantised")
        weight_quant, input_quant = _quantisers(bits)
        self.bits = bits
        self.norm = nn.BatchNorm2d(conv.in_channels)
        self.conv = QuantConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            weight_quant=weight_quant,
            input_quant=input_quant,
        )
        with torch.no_grad():
            self.conv.weight.copy_(conv.weight)
            if conv.bias is not None:
                self.conv.bias.copy_(conv.bias)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h', w')."""
        result: Tensor = self.conv(self.norm(feature))
        return result


class FoldedConv2d(nn.Module):
    """What a LowBitConv2d computes, in operators that every runtime has; for evaluation only.

    Binary: the folded weights in a plain convolution behind a sign made of a comparison. 2 to 8 bits: a clamp, then
    QuantizeLinear and DequantizeLinear around input and weights ("QCDQ"), as one INT8 graph for all runtimes.
    """

    def __init__(self, low_bit: LowBitConv2d) -> None:
        super().__init__()
        quantised = low_bit.conv.quant_weight()
        conv = low_bit.conv
        self.bits = low_bit.bits
        self.norm = low_bit.norm
        self.options = {
            "stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups
        }  # fmt: skip
        self.register_buffer("weight", quantised.value.detach().clone())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())
        if self.bits > 1:
            self.step = _INPUT_STEP[self.bits]
            scale = quantised.scale.detach().reshape(-1)
            self.register_buffer("scale", scale.expand(len(self.weight)).clone())
            self.register_buffer("zero", torch.zeros(len(self.weight), dtype=torch.int32))

    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    zero: Tensor

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h', w')."""
        feature, weight = self.norm(feature), self.weight
        if self.bits == 1:
            one = torch.ones((), dtype=feature.dtype)
            feature = torch.where(feature < 0, -one, one)
        else:
            half = 2 ** (self.bits - 1)
            feature = feature.clamp(-half * self.step, (half - 1) * self.step)
            feature = torch.fake_quantize_per_tensor_affine(feature, self.step, 0, -128, 127)
            weight = torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero, 0, -128, 127)
        return F.conv2d(feature, weight, self.bias, **self.options)


@functools.lru_cache(maxsize=4)
def _quantisers(bits: int) -> tuple[Any, Any]:
    """Brevitas's descriptions (weights, input) for so many bits."""
    from brevitas.core.function_wrapper import TensorClampSte
    from brevitas.inject.enum import ScalingImplType, ScalingPerOutputType, StatsOp
    from brevitas.quant import (
        Int8ActPerTensorFloat,
        Int8WeightPerChannelFloat,
        SignedBinaryActPerTensorConst,
        SignedBinaryWeightPerTensorConst,
    )

    if bits == 1:
        weight = type(
            "BinaryWeight",
            (SignedBinaryWeightPerTensorConst,),
            {
                # Lets the gradient through for every weight; the one it comes with cuts off those above the mean.
                "tensor_clamp_impl": TensorClampSte,
                "scaling_impl_type": ScalingImplType.STATS,
                "scaling_stats_op": StatsOp.AVE,
                "scaling_per_output_type": ScalingPerOutputType.CHANNEL,
            },
        )
        return weight, SignedBinaryActPerTensorConst
    # With three levels, the largest weight as the scale would round nearly all others to 0.
    statistic = StatsOp.AVE if bits == 2 else StatsOp.MAX
    weight = type(f"Weight{bits}", (Int8WeightPerChannelFloat,), {"bit_width": bits, "scaling_stats_op": statistic})
    largest = _INPUT_STEP[bits] * 2 ** (bits - 1)
    constant = {
        "bit_width": bits,
        "scaling_impl_type": ScalingImplType.CONST,
        "min_val": -largest,
        "max_val": largest,
    }
    return weight, type(f"Input{bits}", (Int8ActPerTensorFloat,), constant)
