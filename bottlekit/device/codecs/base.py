"""What every codec is: quantiser, coder, and the checks around them."""

import struct
from typing import Dict, Optional, Tuple

import numpy as np

from ..errors import CodecError, PayloadError
from ..quantizer import dequantize, levels_from_bits, quantize, range_is_valid
from ..tiling import Shape

# What a codec needs beyond its settings, by name, as codec.npz in a bundle holds it.
Tables = Dict[str, np.ndarray]

_RANGE = struct.Struct("<ff")

# A feature map of VGG's first block at 512 x 512 pixels; a larger one is a mistake, or an attack on the memory.
MAX_FEATURE_VALUES = 1 << 24


class Codec:
    """Features of one shape to payloads and back. See `codec_from_spec`.

    Attributes:
        name: one of CODEC_NAMES.
        version: of the codec's bitstream and tables.
        shape: (c, h, w) of every feature.
        bits: of the quantiser, 1..8.
        quality: JPEG's and lossy WebP's, 1..100; without meaning for the others.
        value_range: (low, high) float32 values that the codes span, the same for every image; None where each
            image is quantised over its own minimum and maximum, which then travel in the payload.
        lossless: whether `decode_codes` gives back every code as it was, so that only the quantiser loses anything.
        tables_needed: names of the tables without which a bundle of this codec is not whole. A codec made without
            them works, with nothing learned.
        learns: whether those tables come from training images, and not from the settings alone.
        max_payload_bytes: no payload of this codec is longer, and `decode` refuses longer ones unread.
    """

    name = ""
    version = 1
    lossless = False
    tables_needed: Tuple[str, ...] = ()
    learns = False

    def __init__(
        self,
        shape: Shape,
        bits: int,
        quality: int,
        value_range: Optional[Tuple[float, float]] = None,
        tables: Optional[Tables] = None,
    ) -> None:
        self.shape = shape
        self.bits = bits
        self.quality = quality
        self.value_range = value_range
        self._range_bytes = _RANGE.size if value_range is None else 0
        self._take_tables(tables or {})
        self.max_payload_bytes = self._range_bytes + self._max_coded_bytes()

    def encode(self, feature: np.ndarray) -> bytes:
        """The payload of a feature (c, h, w) float32; CodecError for another shape or type, NaN or infinity."""
        self._check_shape("feature", feature)
        return self.encode_quantised(*quantize(feature, self.bits, self.value_range))

    def encode_quantised(self, codes: np.ndarray, low: float, high: float) -> bytes:
        """The payload of what `quantize` gave with this codec's bits and range; the GPU may have computed it."""
        coded = self.encode_codes(codes)
        return _RANGE.pack(low, high) + coded if self.value_range is None else coded

    def decode(self, payload: bytes) -> np.ndarray:
        """The feature (c, h, w) float32 of a payload; PayloadError for bytes that are no payload of this codec."""
        return dequantize(*self.decode_quantised(payload), self.bits)

    def decode_quantised(self, payload: bytes) -> Tuple[np.ndarray, float, float]:
        """The codes (c, h, w) uint8 of a payload and their range, for who dequantises elsewhere; as `decode`."""
        shortest = self._range_bytes + 1
        if not shortest <= len(payload) <= self.max_payload_bytes:
            raise PayloadError(
                "a {} payload of features {} has {} to {} bytes, not {}".format(
                    self.name, self.shape, shortest, self.max_payload_bytes, len(payload)
                )
            )
        low, high = self.value_range or _RANGE.unpack_from(payload)
        if not range_is_valid(low, high):
            raise PayloadError(
                "the payload's range {!r} to {!r} is no finite minimum and maximum".format(low, high)
            )
        return self.decode_codes(bytes(payload[self._range_bytes :])), low, high

    def codes(self, feature: np.ndarray) -> np.ndarray:
        """The codes (c, h, w) uint8 of a feature (c, h, w) float32, before any coder; CodecError as `encode`."""
        self._check_shape("feature", feature)
        return quantize(feature, self.bits, self.value_range)[0]

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
        """The codes (c, h, w) uint8 of coded bytes: those encoded, or near them where the codec is not lossless."""
        raise NotImplementedError

    def tables_from_codes(self, codes: np.ndarray) -> Tables:
        """This codec's own tables, learned from the codes (n, c, h, w) uint8 of training images."""
        return {}

    def _take_tables(self, tables: Tables) -> None:
        """Keep what this codec uses of the bundle's tables; CodecError where they do not fit."""

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        raise NotImplementedError

    def _max_coded_bytes(self) -> int:
        raise NotImplementedError

    def _values(self) -> int:
        """How many values a feature has."""
        c, h, w = self.shape
        return c * h * w

    def _check_shape(self, what: str, array: np.ndarray) -> None:
        shape = getattr(array, "shape", None)
        if shape != self.shape:
            raise CodecError("this {} codec takes {} {}, not {}".format(self.name, what, self.shape, shape))

    def __repr__(self) -> str:
        values = "image" if self.value_range is None else "{:g} to {:g}".format(*self.value_range)
        return "Codec(name={!r}, shape={}, bits={}, quality={}, range={})".format(
            self.name, self.shape, self.bits, self.quality, values
        )
