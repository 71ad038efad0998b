"""An entropy coder of integers: range asymmetric numeral systems (Duda, "Asymmetric numeral systems", 2013).

A state, one integer, holds the symbols like a number its digits. A symbol that has `frequency` of the 2^p slots,
from `start` on, is put in front with

    state -> state // frequency * 2^p + start + state % frequency        log2(2^p / frequency) bits more

and taken off the same way backwards, last in, first out: so the encoder begins with the last symbol. When a symbol
would make the state 2^48 or more, its lowest 16 bits are first moved out as a word, and the decoder takes a word in
when the state falls below 2^32. The encoder starts with a state of 170, and the decoder must end with it. That
costs one or two bytes, as the first symbols take p bits, and in return a stream that was cut or damaged hardly ever
ends there: what is left of its state shrinks to less than the frequency of the symbol that begins at slot 0, and of
that many values, or of none, one is 170.

    coded bytes = state, big-endian, without leading zeros (5 or 6 bytes where words follow, else 1 to 6)
                  + words, 2 bytes each, big-endian, in the order the decoder takes them

Python's integers do not overflow and nothing is rounded, so every machine makes and reads the same bytes.
"""

from typing import List, Sequence, Tuple

import numpy as np

from ..errors import PayloadError

# The state lies from here to 65536 times as much while there are words.
LOW = 1 << 32
START = 170
_STATE_BITS = 48
_STATE_BYTES = 6


def coded_from_symbols(starts: Sequence[int], frequencies: Sequence[int], precision_bits: int) -> bytes:
    """The bytes of symbols given by their slots, out of 2^precision_bits (at most 16), in the order of decoding."""
    shift = _STATE_BITS - precision_bits
    state = START
    words: List[int] = []
    for start, frequency in zip(reversed(starts), reversed(frequencies)):
        if state >= frequency << shift:
            words.append(state & 0xFFFF)
            state >>= 16
        quotient, remainder = divmod(state, frequency)
        state = (quotient << precision_bits) + start + remainder
    head = state.to_bytes((state.bit_length() + 7) // 8, "big")
    words.reverse()
    return head + np.array(words, dtype=">u2").tobytes()


def state_and_words(coded: bytes) -> Tuple[int, List[int]]:
    """What `coded_from_symbols` ended with; PayloadError for bytes that it does not write."""
    size = len(coded)
    # A state with words has 5 or 6 bytes and a word has 2, so an odd length means 5.
    head = size if size <= _STATE_BYTES else _STATE_BYTES - size % 2
    if size == 0 or coded[0] == 0:
        raise PayloadError("the payload's coded bytes are none, or begin with a 0: it was damaged")
    words: List[int] = np.frombuffer(coded, dtype=">u2", offset=head).tolist() if size > head else []
    return int.from_bytes(coded[:head], "big"), words
