"""Calibrated codecs of every kind, for tests that decode what nobody encoded."""

import numpy as np

from bottlekit.device.codecs import CODEC_NAMES, codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables

SHAPES = ((1, 1, 1), (2, 8, 8), (5, 7, 7), (1, 28, 28))


def calibrated_codecs():
    """(codec, a payload of it) for every kind of codec and range, and some shapes and bits."""
    random = np.random.RandomState(0)
    for number, shape in enumerate(SHAPES):
        features = np.maximum(random.normal(0, 1, (12,) + shape), 0).astype(np.float32)
        features[0].flat[0] = 1
        for name in CODEC_NAMES:
            for value_range in ("image", "static"):
                spec = {"name": name, "bits": 8 - 2 * number, "quality": 20, "range": value_range}
                codec = codec_from_spec(spec, shape, calibrated_tables(spec, shape, features))
                yield codec, codec.encode(features[1])
