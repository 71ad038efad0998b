"""From the settings in a bundle to the codec they describe."""

from typing import Any, Dict, Optional, Tuple, Type

import numpy as np

from ..errors import CodecError, UnknownNameError
from ..quantizer import levels_from_bits, range_is_valid
from .base import MAX_FEATURE_VALUES, Codec, Tables
from .dictionary import DictionaryCodec
from .image import JpegCodec, LeanJpegCodec, LosslessWebpCodec, PngCodec, WebpCodec
from .learned import LearnedCodec
from .raw import RawCodec

_ALL: Tuple[Type[Codec], ...] = (
    JpegCodec,
    LeanJpegCodec,
    LearnedCodec,
    PngCodec,
    RawCodec,
    WebpCodec,
    LosslessWebpCodec,
    DictionaryCodec,
)
_CODECS: Dict[str, Type[Codec]] = {cls.name: cls for cls in _ALL}
CODEC_NAMES = tuple(_CODECS)

RANGES = ("image", "static")


def codec_from_spec(spec: Dict[str, Any], shape: Tuple[int, int, int], tables: Optional[Tables] = None) -> Codec:
    """The codec for features of `shape` (c, h, w) that `spec` describes.

    Args:
        spec: {"name", "bits", "quality"}, and where they are not the usual ones "range" ("image") and
            "version" (1).
        shape: (c, h, w) of every feature.
        tables: what was calibrated for it: `range` float32 (2,), low and high, for a static range; the others
            as the codec's class says. Without its own tables a codec works, with nothing learned.

    Raises:
        UnknownNameError: a name that is not in CODEC_NAMES.
        CodecError: missing or unfitting settings or tables, or a shape the codec cannot take.
    """
    missing = [key for key in ("name", "bits", "quality") if key not in spec]
    if missing:
        raise CodecError("the codec's settings lack {}; they are name, bits and quality".format(", ".join(missing)))
    cls = _class_of(spec["name"], spec.get("version", 1))
    bits, quality, value_range = spec["bits"], spec["quality"], spec.get("range", "image")
    levels_from_bits(bits)
    if not _is_integer(quality) or not 1 <= quality <= 100:
        raise CodecError("the codec's quality is 1 to 100, not {!r}".format(quality))
    if value_range not in RANGES:
        raise CodecError("the codec's range is {}, not {!r}".format(" or ".join(RANGES), value_range))
    if len(shape) != 3 or not all(_is_integer(size) and size >= 1 for size in shape):
        raise CodecError("a codec works on features (c, h, w) of at least 1 each, not {!r}".format(tuple(shape)))
    c, h, w = (int(size) for size in shape)
    if c * h * w > MAX_FEATURE_VALUES:
        raise CodecError("features {} have more than {} values".format((c, h, w), MAX_FEATURE_VALUES))
    static = _static_range(tables or {}) if value_range == "static" else None
    return cls((c, h, w), int(bits), int(quality), static, tables)


def _class_of(name: Any, version: Any) -> Type[Codec]:
    if not isinstance(name, str) or name not in _CODECS:
        raise UnknownNameError("codec", str(name), CODEC_NAMES)
    cls = _CODECS[name]
    if not _is_integer(version) or version < 1:
        raise CodecError("the codec's version is an integer from 1 on, not {!r}".format(version))
    if version > cls.version:
        raise CodecError(
            "the codec {} has version {}, and this bottlekit knows up to {}".format(name, version, cls.version)
        )
    return cls


def _static_range(tables: Tables) -> Tuple[float, float]:
    """The table `range`: low and high, finite float32 values."""
    found = tables.get("range")
    if found is None:
        raise CodecError(
            "a static range comes from calibration, and there is none here; `bottlekit export --range static` "
            "calibrates it"
        )
    if found.shape != (2,) or found.dtype != np.float32:
        raise CodecError("the codec's range is float32 (2,), not {} {}".format(found.dtype, found.shape))
    low, high = (float(value) for value in found)
    if not range_is_valid(low, high) or low == high:
        raise CodecError("the codec's range {!r} to {!r} spans no finite values".format(low, high))
    return low, high


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
