"""Entropy coding with a prior learned from training images."""

from bisect import bisect_right
from itertools import chain
from typing import List

import numpy as np

from ..errors import CodecError, PayloadError
from .base import Codec, Tables
from .prior import neighbours_sum, precision_from_bits, prior_from_codes
from .rans import LOW, START, coded_from_symbols, state_and_words

# Python takes about half a microsecond for each value: a larger feature would hold a server up.
MAX_VALUES = 1 << 18


class LearnedCodec(Codec):
    """Each code costs as many bits as it is unlikely in its place: after its channel and what is around it.

        codes (c, h, w) --channel by channel, row by row--> code
        context: class of (left + upper neighbour), of the same channel; 0 outside
        (channel, class) -> frequencies of the codes, out of 2^p         tables, from training images
        code, frequency, all frequencies below it -> rans.py -> bytes

    Tables: `frequencies` uint16 (c, classes, 2^bits), each at least 1 and each row 2^p in all; `classes` uint8
    (2 * levels + 1,), the class of every sum of two neighbours. Without tables all codes are equally likely, and a
    payload has about as many bytes as raw codes. p is 12 up to 6 bits and 16 above: `precision_from_bits`.

    Lossless, and integers only: the same bytes on every machine.
    """

    name = "learned"
    lossless = True
    learns = True
    tables_needed = ("frequencies", "classes")

    def tables_from_codes(self, codes: np.ndarray) -> Tables:
        """The prior that makes codes (n, c, h, w) of training images short."""
        return prior_from_codes(codes, self.bits)

    def decode_codes(self, coded: bytes) -> np.ndarray:
        """The codes (c, h, w) uint8, exactly those encoded."""
        if len(coded) > self._max_coded_bytes():
            raise PayloadError(
                "learned codes of features {} have up to {} bytes, not {}".format(
                    self.shape, self._max_coded_bytes(), len(coded)
                )
            )
        state, words = state_and_words(coded)
        next_word = 0
        words_left = len(words)
        _, h, w = self.shape
        precision = self._precision
        mask = (1 << precision) - 1
        lines: List[List[int]] = []
        for sections in self._sections:
            line = [0] * w
            for _ in range(h):
                above, line, left = line, [], 0
                for up in above:
                    section = sections[left + up]
                    slot = state & mask
                    left = bisect_right(section, slot) - 1
                    start = section[left]
                    state = (section[left + 1] - start) * (state >> precision) + slot - start
                    if state < LOW and words_left:
                        state = state << 16 | words[next_word]
                        next_word += 1
                        words_left -= 1
                    line.append(left)
                lines.append(line)
        if state != START or words_left:
            raise PayloadError("the payload's coded bytes do not end where its codes end: it was cut or damaged")
        return np.frombuffer(bytes(chain.from_iterable(lines)), dtype=np.uint8).reshape(self.shape).copy()

    def _coded_from_codes(self, codes: np.ndarray) -> bytes:
        c = self.shape[0]
        rows = np.arange(c).reshape(c, 1, 1), self._classes[neighbours_sum(codes)], codes
        starts, ends = self._cumulated[rows], self._cumulated[rows[0], rows[1], codes.astype(np.int64) + 1]
        frequencies = (ends - starts).ravel().tolist()
        return coded_from_symbols(starts.ravel().tolist(), frequencies, self._precision)

    def _take_tables(self, tables: Tables) -> None:
        if self._values() > MAX_VALUES:
            raise CodecError(
                "the codec learned takes features of up to {} values, and {} has {}; reduce the feature further, "
                "or take another codec".format(MAX_VALUES, self.shape, self._values())
            )
        levels = (1 << self.bits) - 1
        self._precision = precision_from_bits(self.bits)
        slots = 1 << self._precision
        if "frequencies" in tables or "classes" in tables:
            frequencies, classes = tables.get("frequencies"), tables.get("classes")
        else:
            frequencies = np.full((self.shape[0], 1, levels + 1), slots // (levels + 1), dtype=np.uint16)
            classes = np.zeros(2 * levels + 1, dtype=np.uint8)
        if (
            not isinstance(frequencies, np.ndarray)
            or not isinstance(classes, np.ndarray)
            or frequencies.dtype != np.uint16
            or frequencies.ndim != 3
            or (frequencies.shape[0], frequencies.shape[2]) != (self.shape[0], levels + 1)
            or classes.dtype != np.uint8
            or classes.shape != (2 * levels + 1,)
        ):
            raise CodecError(
                "the tables of the codec learned do not fit features {} with {} bits; export it again".format(
                    self.shape, self.bits
                )
            )
        cumulated = np.zeros(frequencies.shape[:2] + (levels + 2,), dtype=np.int64)
        np.cumsum(frequencies, axis=2, out=cumulated[:, :, 1:])
        if frequencies.min() < 1 or (cumulated[:, :, -1] != slots).any() or classes.max() >= frequencies.shape[1]:
            raise CodecError(
                "the tables of the codec learned are damaged: each of its rows has a frequency from 1 on for every "
                "code, {} in all, and a class for every neighbourhood; export the bundle again".format(slots)
            )
        self._cumulated = cumulated
        self._classes = classes
        # By channel, then by the sum of the neighbours: where each code's slots begin.
        self._sections: List[List[List[int]]] = []
        for rows in cumulated:
            of_class = [row.tolist() for row in rows]
            self._sections.append([of_class[k] for k in classes])

    def _max_coded_bytes(self) -> int:
        # A code of frequency 1 costs at most 16 bits; the state is at most 6 bytes.
        return 2 * self._values() + 6
