"""The device's codec inside the training graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bottlekit.device.codecs import codec_from_spec
from bottlekit.specs import CodecSpec, to_dict


class CodecLayer(nn.Module):
    """Forward: what the server will receive. Backward: the identity (BottleNet, section 2.2).

        reduced feature (n, c, h, w) -> per image: device codec encode -> bytes -> decode -> (n, c, h, w)
        gradient                     <- passed on unchanged <-

    The forward pass runs the very codec of the device island on the processor, image by image, so training sees
    every rounding and JPEG artefact that serving will see. Type and device of the tensor are kept; half-precision
    features are coded from their float32 values. `enabled = False` makes the layer the identity.

    Raises CodecError for settings the codec cannot work with, or features with NaN or infinity.
    """

    def __init__(self, spec: CodecSpec, shape: tuple[int, int, int]) -> None:
        """`shape` (c, h, w) of the reduced feature."""
        super().__init__()
        self.spec = spec
        self.shape = shape
        self.enabled = True
        self.codec = codec_from_spec(to_dict(spec), shape)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        if not self.enabled:
            return feature
        decoded: Tensor = _RoundTrip.apply(feature, self.codec)  # type: ignore[no-untyped-call]
        return decoded

    def extra_repr(self) -> str:
        """What print(network) shows."""
        return f"{self.spec.name}, bits={self.spec.bits}, quality={self.spec.quality}, shape={self.shape}"


class _RoundTrip(torch.autograd.Function):
    """Straight-through estimator around a codec."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, codec: Any) -> Tensor:
        images = feature.detach().to("cpu", torch.float32).contiguous().numpy()
        decoded = np.stack([codec.decode(codec.encode(image)) for image in images])
        return torch.from_numpy(decoded).to(feature.device, feature.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
