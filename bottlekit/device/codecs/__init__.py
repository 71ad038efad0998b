"""The codecs: a feature tensor to a payload of bytes, and back.

    feature (c, h, w) float32
       |  quantize                    quantizer.py, over the image's own range or a static one
    codes (c, h, w) uint8, min, max
       |  a coder                     raw: packed bits; images: jpeg, jpeg-lean, png; ...
    coded bytes
       |
    payload = min, max (two little-endian float32; nothing for a static range) + coded bytes

`base` is the protocol, `registry` makes a codec from the settings and tables in a bundle. What a codec needs
beyond its settings (a static range, tables learned from training images) travels once, in the bundle, and never
with a payload.

`decode` walks the same way back. It trusts nothing it is given: the length, the image's size and format and the
range are checked before any pixel is decoded, so no payload makes it use more memory than its own shape needs.
What no decoder can see is a wrong bit inside the coded bytes that still decodes: the connection protects those.
"""

from .base import MAX_FEATURE_VALUES, Codec, Tables
from .image import JpegCodec
from .registry import CODEC_NAMES, codec_from_spec

__all__ = ["CODEC_NAMES", "MAX_FEATURE_VALUES", "Codec", "JpegCodec", "Tables", "codec_from_spec"]
