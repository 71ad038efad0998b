"""What a head gives where the quantiser runs on the GPU, and what a tail takes there: codes in place of features.

    words  (n, padded / 4) INT32   the canvas of each image, four codes a word, padded with zeros to whole words
    range  (n, 2) FLOAT            low and high of each image
    status (n) INT32               0, or 1 where an image holds NaN or infinity

The fused kernel (fused.py) and the TensorRT plugin give the same three.
"""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from .codecs import Codec
from .errors import CodecError
from .quantizer import quantize
from .runner import TensorInfo
from .tiling import Shape, canvas_shape, tile, untile

WORDS, RANGE, STATUS = "words", "range", "status"
FEATURE = "feature"
CODES_PER_WORD = 4


class Quantised(NamedTuple):
    """One quantised feature: codes (c, h, w) uint8, and the range that they span."""

    codes: np.ndarray
    low: float
    high: float


def words_per_image(shape: Shape) -> int:
    """How many 32-bit words the canvas of a feature (c, h, w) takes."""
    height, width = canvas_shape(*shape)
    return -(-height * width // CODES_PER_WORD)


def quantised_tensors(shape: Shape) -> List[TensorInfo]:
    """The three outputs of a head that quantises features (c, h, w), for any number of images."""
    int32, float32 = np.dtype(np.int32), np.dtype(np.float32)
    return [
        TensorInfo(WORDS, (None, words_per_image(shape)), int32),
        TensorInfo(RANGE, (None, 2), float32),
        TensorInfo(STATUS, (None,), int32),
    ]


def gives_codes(outputs: List[TensorInfo]) -> bool:
    """Whether these are the outputs of a head that quantises."""
    return {WORDS, RANGE, STATUS} <= {info.name for info in outputs}


def takes_codes(inputs: List[TensorInfo]) -> bool:
    """Whether these are the inputs of a tail that dequantises."""
    return {WORDS, RANGE} == {info.name for info in inputs}


def quantised_from_outputs(outputs: Dict[str, np.ndarray], shape: Shape) -> List[Quantised]:
    """The codes and the range of each image; CodecError for one with NaN or infinity, as from the codec."""
    if outputs[STATUS].any():
        raise CodecError("the feature holds NaN or infinity, which have no code; check the head's output")
    height, width = canvas_shape(*shape)
    canvases = np.ascontiguousarray(outputs[WORDS]).view(np.uint8)[:, : height * width]
    return [
        Quantised(untile(canvas.reshape(height, width), shape), float(low), float(high))
        for canvas, (low, high) in zip(canvases, outputs[RANGE])
    ]


def payload_from_outputs(codec: Codec, outputs: Dict[str, np.ndarray]) -> bytes:
    """The payload of the first image of what a head gave: a feature, or its codes."""
    if FEATURE in outputs:
        return codec.encode(outputs[FEATURE][0])
    first = {name: array[:1] for name, array in outputs.items()}
    return codec.encode_quantised(*quantised_from_outputs(first, codec.shape)[0])


def feeds_from_quantised(quantised: List[Quantised]) -> Dict[str, np.ndarray]:
    """What a tail that dequantises is fed, for images of one shape."""
    words = np.zeros((len(quantised), words_per_image(_shape(quantised)) * CODES_PER_WORD), np.uint8)
    for row, one in zip(words, quantised):
        canvas = tile(one.codes).reshape(-1)
        row[: canvas.size] = canvas
    ranges = np.array([[one.low, one.high] for one in quantised], np.float32)
    return {WORDS: words.view(np.int32), RANGE: ranges}


def codes_again(decoded: np.ndarray, feature: np.ndarray, codec: Codec) -> Quantised:
    """The codes that a decoded feature stands for; `feature` is what it was before, which gives the range.

    A value lies within a small part of a step of the one that its code stands for, so rounding finds the code.
    """
    _, low, high = quantize(feature, codec.bits, codec.value_range)
    return Quantised(*quantize(decoded, codec.bits, (low, high)))


def feeds_from_payload(codec: Codec, payload: bytes, inputs: List[TensorInfo]) -> Dict[str, np.ndarray]:
    """What a tail with these inputs is fed: the feature of a payload, or its codes. PayloadError as the codec."""
    if takes_codes(inputs):
        return feeds_from_quantised([Quantised(*codec.decode_quantised(payload))])
    return {FEATURE: codec.decode(payload)[np.newaxis]}


def _shape(quantised: List[Quantised]) -> Tuple[int, int, int]:
    c, h, w = quantised[0].codes.shape
    return c, h, w
