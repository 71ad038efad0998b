"""The device's codec inside the training graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bottlekit.device.codecs import Codec, JpegCodec, Tables, codec_from_spec
from bottlekit.device.quantizer import levels_from_bits
from bottlekit.device.tiling import canvas_shape, slots_from_channels
from bottlekit.errors import CodecError
from bottlekit.models.jpeg_graph import JpegRoundTrip
from bottlekit.models.quantizer_graph import dequantize, quantize
from bottlekit.specs import CodecSpec, to_dict


class CodecLayer(nn.Module):
    """Forward: what the server will receive. Backward: the identity (BottleNet, section 2.2).

        reduced feature (n, c, h, w)
          | quantize     over each image's own range, or the codec's static one     quantizer_graph.py
          v codes (n, c, h, w), low and high (n, 1, 1, 1)
          | coder        tile, stretch to 0..255, JPEG, and back: only if it is JPEG   jpeg_graph.py
          v codes (n, c, h, w)
          | dequantize
          v what the server receives (n, c, h, w)
        gradient         <- passed on unchanged <-

    Equal to the device codec's decode(encode(image)) for each image, bit for bit, so training sees every rounding
    and JPEG artefact that serving will see. It is computed for the whole batch on the device the feature is on, and
    no value decides what is computed, so the layer can be traced and compiled. A codec that is lossless behind the
    quantiser needs nothing but the quantiser; one that loses in a way of its own is asked image by image.

    The feature's type and device are kept; half-precision features are coded from their float32 values. An image
    with NaN or infinity, which the device's codec refuses, comes out as NaN everywhere and so reaches the loss.
    `enabled = False` makes the layer the identity. `codec` is the device's codec, made with `tables`.

    Raises CodecError for settings the codec cannot work with, or features of another shape.
    """

    def __init__(self, spec: CodecSpec, shape: tuple[int, int, int], tables: Tables | None = None) -> None:
        """`shape` (c, h, w) of the reduced feature; `tables` that were calibrated, a static range among them."""
        super().__init__()
        self.spec = spec
        self.shape = shape
        self.tables = tables
        self.enabled = True
        self.codec = codec_from_spec(to_dict(spec), shape, tables)
        self.coder: nn.Module
        if self.codec.lossless:
            self.coder = nn.Identity()
        elif isinstance(self.codec, JpegCodec):
            self.coder = Canvas(shape, spec.bits, spec.quality)
        else:
            self.coder = ImageByImage(self.codec)

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        if not self.enabled:
            return feature
        if feature.shape[1:] != self.shape:
            raise CodecError(
                f"this {self.spec.name} codec takes features (n, {', '.join(map(str, self.shape))}), "
                f"not {tuple(feature.shape)}"
            )
        with torch.no_grad():
            received = self._received(feature.to(torch.float32)).to(feature.dtype)
        # Plus 0, exactly, whose gradient is the identity.
        return received + (feature - feature.detach())

    def _received(self, feature: Tensor) -> Tensor:
        """What the server receives, (n, c, h, w) float32."""
        codes, low, high = quantize(feature, self.spec.bits, self.codec.value_range)
        return dequantize(self.coder(codes), low, high, self.spec.bits)

    def extra_repr(self) -> str:
        """What print(network) shows."""
        return f"{self.spec.name}, bits={self.spec.bits}, quality={self.spec.quality}, shape={self.shape}"


class Canvas(nn.Module):
    """Codes through a gray JPEG image, as the device's codecs tile and stretch them.

    codes (n, c, h, w), 0..2^bits - 1 -> canvases (n, H, W), 0..255 -> JPEG -> codes (n, c, h, w)
    """

    def __init__(self, shape: tuple[int, int, int], bits: int, quality: int) -> None:
        """`shape` (c, h, w) of the codes; `bits` and `quality` as the codec has them."""
        super().__init__()
        self.shape = shape
        self.levels = levels_from_bits(bits)
        self.jpeg = JpegRoundTrip(canvas_shape(*shape), quality)

    def forward(self, codes: Tensor) -> Tensor:
        """(n, c, h, w) int32 -> (n, c, h, w) int32."""
        if self.levels == 255:
            return untiled(self.jpeg(tiled(codes)), self.shape)
        # Both divisions round to the nearest, and neither meets a tie.
        pixels = (tiled(codes) * 510 + self.levels) // (2 * self.levels)
        return untiled((self.jpeg(pixels) * (2 * self.levels) + 255) // 510, self.shape)


class ImageByImage(nn.Module):
    """Codes through the device's own coder, on the processor: slow, and right for every codec."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor) -> Tensor:
        """(n, c, h, w) int32 -> (n, c, h, w) int32."""
        images = codes.to("cpu", torch.uint8).contiguous().numpy()
        decoded = [self.codec.decode_codes(self.codec.encode_codes(image)) for image in images]
        return torch.from_numpy(np.stack(decoded)).to(codes)


def tiled(codes: Tensor) -> Tensor:
    """Codes (n, c, h, w) as canvases (n, H, W), each as `device.tiling.tile` makes it; spare slots are 0."""
    count, c, h, w = codes.shape
    rows, columns = slots_from_channels(c)
    if c < rows * columns:
        codes = torch.cat((codes, codes.new_zeros(count, rows * columns - c, h, w)), 1)
    return codes.reshape(count, rows, columns, h, w).transpose(2, 3).reshape(count, rows * h, columns * w)


def untiled(canvases: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The codes (n, c, h, w) on canvases (n, H, W); what is in spare slots is dropped."""
    c, h, w = shape
    rows, columns = slots_from_channels(c)
    slots = canvases.reshape(-1, rows, h, columns, w).transpose(2, 3).reshape(-1, rows * columns, h, w)
    return slots[:, :c]
