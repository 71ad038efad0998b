"""Codes as they are, packed bit after bit."""

import numpy as np

from ..errors import PayloadError
from .base import Codec


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
