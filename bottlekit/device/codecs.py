"""The codec: a feature tensor to a payload of bytes, and back.

    feature (c, h, w) float32
       |  quantize                    quantizer.py
    codes (c, h, w) uint8, min, max
       |  tile, stretch, compress     tiling.py and here; `raw` packs the codes as they are
    coded bytes
       |
    payload = min, max (two little-endian float32) + coded bytes

`decode` walks the same way back. It trusts nothing it is given: the length, the image's size and format and the
range are checked before any pixel is decoded, so no payload makes it use more memory than its own shape needs.
What no decoder can see is a wrong bit inside the coded bytes that still decodes: the connection protects those.
"""

import struct
from typing import Any, Dict, Tuple, Type

import numpy as np

from . import jpeg, png
from .errors import CodecError, PayloadError, UnknownNameError
from .quantizer import dequantize, levels_from_bits, quantize, range_is_valid
from .tiling import Shape, canvas_shape, tile, untile

_RANGE = struct.Struct("<ff")

# A feature map of VGG's first block at 512 x 512 pixels; a larger one is a mistake, or an attack on the memory.
MAX_FEATURE_VALUES = 1 << 24


class Codec:
    """Features of one shape to payloads and back. See `codec_from_spec`.

    Attributes:
        name: one of CODEC_NAMES.
        shape: (c, h, w) of every feature.
        bits: of the quantiser, 1..8.
        quality: JPEG's, 1..100; without meaning for the others.
        lossless: whether `decode_codes` gives back every code as it was, so that only the quantiser loses anything.
        max_payload_bytes: no payload of this codec is longer, and `decode` refuses longer ones unread.
    """

    name = ""
    lossless = False

    def __init__(self, shape: Shape, bits: int, quality: int) -> None:
        self.shape = shape
        self.bits = bits
        self.quality = quality
        self.max_payload_bytes = _RANGE.size + self._max_coded_bytes()

    def encode(self, feature: np.ndarray) -> bytes:
        """The payload of a feature (c, h, w) float32; CodecError for another shape or type, NaN or infinity."""
        self._check_shape("feature", feature)
        codes, low, high = quantize(feature, self.bits)
        return _RANGE.pack(low, high) + self.encode_codes(codes)

    def decode(self, payload: bytes) -> np.ndarray:
        """The feature (c, h, w) float32 of a payload; PayloadError for bytes that are no payload of this codec."""
        if not _RANGE.size < len(payload) <= self.max_payload_bytes:
            raise PayloadError(
                "a {} payload of features {} has {} to {} bytes, not {}".format(
                    self.name, self.shape, _RANGE.size + 1, self.max_payload_bytes, len(payload)
                )
            )
        low, high = _RANGE.unpack_from(payload)
        if not range_is_valid(low, high):
            raise PayloadError(
                "the payload's range {!r} to {!r} is no finite minimum and maximum".format(low, high)
            )
        return dequantize(self.decode_codes(bytes(payload[_RANGE.size :])), low, high, self.bits)

    def encode_codes(self, codes: np.ndarray) -> bytes:
        """The coded bytes of codes (c, h, w) uint8: the payload without the range."""
        self._check_shape("codes", codes)
        if codes.dtype != np.uint8:
            raise CodecError("codes are uint8, not {}".format(codes.dtype))
        levels = levels_from_bits(self.bits)
        if levels < 255 and int(codes.max()) > levels:
            raise CodecError(
                "the code {} is above {}, the largest of {} bits".format(codes.max(), levels, self.bits)
            )
        return self._coded_from_codes(codes)

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8 of coded bytes; JPEG's are near those encoded, the others' equal."""
        raise NotImplementedError

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        raise NotImplementedError

    def _max_coded_bytes(self) -> int:
        raise NotImplementedError

    def _check_shape(self, what: str, array: np.ndarray) -> None:
        shape = getattr(array, "shape", None)
        if shape != self.shape:
            raise CodecError("this {} codec takes {} {}, not {}".format(self.name, what, self.shape, shape))

    def __repr__(self) -> str:
        return "Codec(name={!r}, shape={}, bits={}, quality={})".format(
            self.name, self.shape, self.bits, self.quality
        )


class RawCodec(Codec):
    """Codes one after the other, `bits` bits each, highest bit first; the spare bits of the last byte are 0."""

    name = "raw"
    lossless = True

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8, exactly those encoded."""
        expected = self._max_coded_bytes()
        if len(coded) != expected:
            raise PayloadError(
                "raw codes of features {} with {} bits have {} bytes, not {}".format(
                    self.shape, self.bits, expected, len(coded)
                )
            )
        packed = np.frombuffer(coded, dtype=np.uint8)
        if self.bits == 8:
            return packed.reshape(self.shape).copy()
        bits = np.unpackbits(packed)
        used = self._values() * self.bits
        if bits[used:].any():
            raise PayloadError("the spare bits behind the last raw code are not 0; the payload was damaged")
        padded = np.zeros((self._values(), 8), dtype=np.uint8)
        padded[:, 8 - self.bits :] = bits[:used].reshape(-1, self.bits)
        return np.packbits(padded, axis=1).reshape(self.shape)

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        if self.bits == 8:
            return codes.tobytes()
        bits = np.unpackbits(codes.reshape(-1, 1), axis=1)[:, 8 - self.bits :]
        return np.packbits(bits).tobytes()

    def _max_coded_bytes(self) -> int:
        return (self._values() * self.bits + 7) // 8

    def _values(self) -> int:
        c, h, w = self.shape
        return c * h * w


class _ImageCodec(Codec):
    """Codes tiled into a gray image and stretched to 0..255, so that n-bit codes use JPEG's whole range.

    code k of n bits -> pixel round(k * 255 / (2^n - 1)), and pixel -> nearest code. Neither meets a tie.
    """

    def __init__(self, shape: Shape, bits: int, quality: int) -> None:
        self.canvas = canvas_shape(*shape)
        levels = levels_from_bits(bits)
        self._pixel_from_code = ((np.arange(levels + 1) * 510 + levels) // (2 * levels)).astype(np.uint8)
        self._code_from_pixel = ((np.arange(256) * 2 * levels + 255) // 510).astype(np.uint8)
        super().__init__(shape, bits, quality)

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8: those encoded, or with JPEG near them."""
        pixels = self._pixels_from_image(coded)
        if pixels.shape != self.canvas or pixels.dtype != np.uint8:
            raise PayloadError("the payload's image decoded to {} {}".format(pixels.dtype, pixels.shape))
        codes: np.ndarray = self._code_from_pixel[untile(pixels, self.shape)]
        return codes

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        return self._image_from_pixels(self._pixel_from_code[tile(codes)])

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        raise NotImplementedError

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        raise NotImplementedError


class JpegCodec(_ImageCodec):
    """A complete gray baseline JPEG file of the canvas (BottleNet, section 2.2)."""

    name = "jpeg"

    def __init__(self, shape: Shape, bits: int, quality: int) -> None:
        self._coder = jpeg.GrayJpeg(canvas_shape(*shape), quality)
        super().__init__(shape, bits, quality)

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return self._coder.encode(pixels)

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return self._coder.decode(coded)

    def _max_coded_bytes(self) -> int:
        return self._coder.max_bytes


class PngCodec(_ImageCodec):
    """A complete gray 8-bit PNG file of the canvas: lossless."""

    name = "png"
    lossless = True

    def _image_from_pixels(self, pixels: np.ndarray) -> bytes:
        return png.gray_png_from_pixels(pixels)

    def _pixels_from_image(self, coded: bytes) -> np.ndarray:
        return png.pixels_from_gray_png(coded, self.canvas)

    def _max_coded_bytes(self) -> int:
        return png.max_bytes(self.canvas)


_CODECS: Dict[str, Type[Codec]] = {cls.name: cls for cls in (JpegCodec, PngCodec, RawCodec)}
CODEC_NAMES = tuple(_CODECS)


def codec_from_spec(spec: Dict[str, Any], shape: Tuple[int, int, int]) -> Codec:
    """The codec for features of `shape` (c, h, w) that `spec`, {"name", "bits", "quality"}, describes.

    Raises:
        UnknownNameError: a name that is not in CODEC_NAMES.
        CodecError: missing or unfitting settings, or a shape the codec cannot take.
    """
    missing = [key for key in ("name", "bits", "quality") if key not in spec]
    if missing:
        raise CodecError("the codec's settings lack {}; they are name, bits and quality".format(", ".join(missing)))
    name, bits, quality = spec["name"], spec["bits"], spec["quality"]
    if not isinstance(name, str) or name not in _CODECS:
        raise UnknownNameError("codec", str(name), CODEC_NAMES)
    levels_from_bits(bits)
    if not _is_integer(quality) or not 1 <= quality <= 100:
        raise CodecError("the codec's quality is 1 to 100, not {!r}".format(quality))
    if len(shape) != 3 or not all(_is_integer(size) and size >= 1 for size in shape):
        raise CodecError("a codec works on features (c, h, w) of at least 1 each, not {!r}".format(tuple(shape)))
    c, h, w = (int(size) for size in shape)
    if c * h * w > MAX_FEATURE_VALUES:
        raise CodecError("features {} have more than {} values".format((c, h, w), MAX_FEATURE_VALUES))
    return _CODECS[name]((c, h, w), int(bits), int(quality))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
