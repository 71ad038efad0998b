"""What a codec needs beyond its settings, from the features of training images."""

from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..errors import CodecError
from ..quantizer import dequantize, quantize
from .base import Tables
from .registry import codec_from_spec

# The ends to choose from, by the fraction of values below: clipping a few leaves finer steps for the rest.
_HIGH_ENDS = (0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
_MAX_VALUES = 1 << 22


def calibrated_tables(
    spec: Dict[str, Any], shape: Tuple[int, int, int], features: np.ndarray, known: Optional[Tables] = None
) -> Tables:
    """The tables for `codec_from_spec(spec, shape, tables)`, from features (n, c, h, w) float32 of training images.

    A `range` in `known` is taken as it is.

    Raises CodecError for NaN or infinity, or no feature at all; UnknownNameError and CodecError as
    `codec_from_spec`.
    """
    if features.shape[1:] != tuple(shape) or not len(features):
        raise CodecError("calibration takes features (n, {}, {}, {}), not {}".format(*(shape + (features.shape,))))
    tables: Tables = {}
    if spec.get("range") == "static":
        settled = (known or {}).get("range")
        tables["range"] = range_from_features(features, spec["bits"]) if settled is None else settled
    codec = codec_from_spec(spec, shape, tables)
    codes = np.stack([codec.codes(feature) for feature in features])
    tables.update(codec.tables_from_codes(codes))
    return tables


def range_from_features(features: np.ndarray, bits: int) -> np.ndarray:
    """The range (low, high) float32 whose codes of `bits` bits come back nearest to `features` (n, c, h, w).

    Nearest in the squared mean. The low end is the smallest value, which is 0 behind a ReLU; the high end is the
    best of some quantiles.
    """
    if not np.isfinite(features).all():
        raise CodecError("the features of training images hold NaN or infinity; check the head's output")
    values = features[:: max(1, features.size // _MAX_VALUES)]
    low = np.float32(values.min())
    best, least = None, np.inf
    for high in np.unique(np.quantile(values, _HIGH_ENDS).astype(np.float32)):
        if high <= low:
            continue
        ends = float(low), float(high)
        loss = float(np.square(dequantize(quantize(values, bits, ends)[0], ends[0], ends[1], bits) - values).mean())
        if loss < least:
            best, least = high, loss
    if best is None:
        raise CodecError("all features of training images are {!r}: a range needs two values".format(float(low)))
    return np.array([low, best], dtype=np.float32)
