"""Tensors on the wire: float32, float16 and int64, named, with a shape that is checked before it is believed."""

from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np

from ..codecs import codec_from_spec
from ..errors import BottlekitError, PayloadError
from ..wire.layers import load_layers_rpc
from ..wire.refusals import foreign_words

# Codecs that a schedule may send features with, all with 8 bits; the quality matters to jpeg alone.
CODECS = ("png", "jpeg")
CODEC_BITS = 8
CODEC_QUALITY = 90
MAX_RANK = 8
MAX_NAME_CHARACTERS = 300

_DTYPES: Dict[int, Any] = {1: np.dtype("<f4"), 2: np.dtype("<f2"), 3: np.dtype("<i8")}
_ELEMENTS = {dtype: element for element, dtype in _DTYPES.items()}


def can_be_coded(shape: Tuple[int, ...], dtype: Any) -> bool:
    """Whether a codec can take it: the float32 feature of one image, (1, c, h, w)."""
    return dtype == np.float32 and len(shape) == 4 and shape[0] == 1


def wire_from_arrays(arrays: Dict[str, np.ndarray], codec: Optional[str] = None) -> List[Any]:
    """Arrays of the wire. `codec` is for the features among them; everything else goes as it is.

    Raises PayloadError for numbers of another kind than float32, float16 and int64.
    """
    array_type = load_layers_rpc().types.Array
    found = []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _ELEMENTS:
            raise PayloadError(
                "the tensor {} is {}; only float32, float16 and int64 can be sent".format(name, array.dtype)
            )
        shape = list(array.shape)
        if codec is not None and can_be_coded(array.shape, array.dtype):
            data = _coder(codec, array.shape).encode(array[0])
            found.append(array_type(name, _ELEMENTS[dtype], shape, data, codec))
        else:
            found.append(array_type(name, _ELEMENTS[dtype], shape, array.astype(dtype).tobytes()))
    return found


def arrays_from_wire(items: Optional[Iterable[Any]]) -> Dict[str, np.ndarray]:
    """Arrays by name. PayloadError for whatever is no array: it names the tensor and what is wrong.

    Nothing is allocated that is larger than a fixed multiple of what was received.
    """
    found: Dict[str, np.ndarray] = {}
    for item in items or ():
        name = item.name
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS or name in found:
            raise PayloadError("a tensor without a name of its own: '{}'".format(foreign_words(name)[:40]))
        try:
            found[name] = _array(item)
        except BottlekitError as error:
            raise PayloadError("the tensor {}: {}".format(foreign_words(name), error))
    return found


def _array(item: Any) -> np.ndarray:
    dtype = _DTYPES.get(item.element)
    if dtype is None:
        raise PayloadError("an unknown kind of numbers, {}".format(item.element))
    shape = item.shape if item.shape is not None else [0]
    if len(shape) > MAX_RANK or any(size < 1 for size in shape):
        raise PayloadError("the shape {} is none of up to {} positive sizes".format(shape[:16], MAX_RANK))
    data = item.data if isinstance(item.data, bytes) else b""
    if item.codec is not None:
        if item.codec not in CODECS:
            raise PayloadError("no codec '{}'".format(foreign_words(item.codec)[:40]))
        if not can_be_coded(tuple(shape), np.dtype(np.float32)) or dtype != np.float32:
            raise PayloadError("a codec sends float32 (1, c, h, w), not {}".format(shape))
        feature: np.ndarray = _coder(item.codec, tuple(shape)).decode(data)
        return feature[np.newaxis]
    # Python's own integers: a product of sizes from the wire does not overflow.
    wanted = dtype.itemsize
    for size in shape:
        wanted *= size
    if len(data) != wanted:
        raise PayloadError("{} bytes for the shape {}, which takes {}".format(len(data), shape, wanted))
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return array


def _coder(codec: str, shape: Tuple[int, ...]) -> Any:
    spec = {"name": codec, "bits": CODEC_BITS, "quality": CODEC_QUALITY}
    return codec_from_spec(spec, (shape[1], shape[2], shape[3]))
