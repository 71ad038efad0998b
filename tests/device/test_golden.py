import os

import numpy as np
import pytest

from bottlekit.device.codecs import CODEC_NAMES, codec_from_spec
from bottlekit.device.images import image_from_file, input_from_image

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "golden")
CASES = sorted(name[: -len(".payload")] for name in os.listdir(GOLDEN) if name.endswith(".payload"))
# How well zlib and libwebp compress differs from build to build; what it stands for does not.
ENCODERS_DIFFER = ("png", "webp", "webp-lossless", "zdict")


def read(case):
    """The codec, payload and arrays of a case; its name is <codec>-b<bits>-q<quality>-<c>x<h>x<w>.

    <codec> may be followed by +static. What the codec needs beyond its settings is in <case>.tables.npz.
    """
    name, bits, quality, shape = case.rsplit("-", 3)
    name, _, static = name.partition("+")
    spec = {"name": name, "bits": int(bits[1:]), "quality": int(quality[1:]), "range": static or "image"}
    tables = None
    if os.path.exists(os.path.join(GOLDEN, case + ".tables.npz")):
        with np.load(os.path.join(GOLDEN, case + ".tables.npz"), allow_pickle=False) as arrays:
            tables = dict(arrays)
    with open(os.path.join(GOLDEN, case + ".payload"), "rb") as file:
        payload = file.read()
    with np.load(os.path.join(GOLDEN, case + ".npz"), allow_pickle=False) as arrays:
        return codec_from_spec(spec, tuple(int(size) for size in shape.split("x")), tables), payload, dict(arrays)


def same_bits(left, right):
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def range_bytes(codec):
    return 8 if codec.value_range is None else 0


def test_there_are_golden_payloads_of_every_codec():
    assert {read(case)[0].name for case in CASES} == set(CODEC_NAMES)


@pytest.mark.parametrize("case", CASES)
def test_golden_payloads_decode_bit_for_bit(case):
    codec, payload, arrays = read(case)
    assert same_bits(codec.decode_codes(payload[range_bytes(codec) :]), arrays["codes"])
    assert same_bits(codec.decode(payload), arrays["decoded"])


@pytest.mark.parametrize("case", CASES)
def test_golden_features_encode_bit_for_bit(case):
    codec, payload, arrays = read(case)
    encoded = codec.encode(arrays["feature"])
    if codec.name in ENCODERS_DIFFER:
        assert encoded[: range_bytes(codec)] == payload[: range_bytes(codec)]
        if codec.lossless:
            assert same_bits(codec.decode(encoded), codec.decode(payload))
        else:
            assert codec.decode(encoded).shape == codec.shape
    else:
        assert encoded == payload


def test_the_golden_photo_gives_the_golden_input_bit_for_bit():
    image = image_from_file(os.path.join(GOLDEN, "photo.png"))
    preprocessing = {"resize": 20, "crop": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    with np.load(os.path.join(GOLDEN, "photo.npz"), allow_pickle=False) as arrays:
        assert same_bits(input_from_image(image, preprocessing), arrays["input"])
