"""General-purpose compression with a dictionary of what training images gave.

Deflate, because Python 3.6 has it wherever it runs, with preset dictionaries, and because its bare stream has no
header and no checksum. Zstandard would need another package on the device and puts a frame around each payload.
"""

import zlib

import numpy as np

from ..errors import CodecError, PayloadError
from .base import Codec, Tables

# Deflate looks back no further.
_WINDOW_BYTES = 32768
# Negative: a bare stream.
_WINDOW_BITS = -15


class DictionaryCodec(Codec):
    """Codes one byte each, channel by channel, row by row, as one bare Deflate stream (RFC 1951).

    Table: `dictionary` uint8 (k,), k at most 32768: codes of training images in the same order, one image after the
    other. Both ends behave as if it had just been sent. Without it, plain Deflate.
    """

    name = "zdict"
    lossless = True
    learns = True
    tables_needed = ("dictionary",)

    def tables_from_codes(self, codes: np.ndarray) -> Tables:
        """As many of the codes (n, c, h, w) as fit, from images evenly spread over all of them."""
        count = min(len(codes), max(1, _WINDOW_BYTES // self._values()))
        chosen = codes[[place * len(codes) // count for place in range(count)]]
        return {"dictionary": np.ascontiguousarray(chosen).reshape(-1)[:_WINDOW_BYTES].copy()}

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8, exactly those encoded."""
        inflater = zlib.decompressobj(_WINDOW_BITS, zdict=self._dictionary)
        expected = self._values()
        try:
            codes = inflater.decompress(coded, expected + 1)
        except zlib.error as error:
            raise PayloadError("the payload's Deflate stream is damaged: {}".format(error))
        if len(codes) != expected or not inflater.eof or inflater.unused_data:
            raise PayloadError("the payload's Deflate stream does not hold exactly {} codes".format(expected))
        found = np.frombuffer(codes, dtype=np.uint8).reshape(self.shape)
        if int(found.max()) >> self.bits:
            raise PayloadError(
                "the payload holds the code {}, which {} bits have not".format(found.max(), self.bits)
            )
        return found.copy()

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        deflater = zlib.compressobj(9, zlib.DEFLATED, _WINDOW_BITS, 9, zlib.Z_DEFAULT_STRATEGY, self._dictionary)
        return deflater.compress(codes.tobytes()) + deflater.flush()

    def _take_tables(self, tables: Tables) -> None:
        dictionary = tables.get("dictionary", np.zeros(0, dtype=np.uint8))
        if dictionary.dtype != np.uint8 or dictionary.ndim != 1 or len(dictionary) > _WINDOW_BYTES:
            raise CodecError(
                "the codec's dictionary is uint8 (k,), k up to {}, not {} {}".format(
                    _WINDOW_BYTES, dictionary.dtype, dictionary.shape
                )
            )
        self._dictionary = dictionary.tobytes()

    def _max_coded_bytes(self) -> int:
        # Codes that do not shrink are stored, 5 bytes more for every 65535; Huffman codes have their own tables.
        return self._values() + self._values() // 1024 + 512
