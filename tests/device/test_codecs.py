import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, features

from bottlekit.device.codecs import CODEC_NAMES, MAX_FEATURE_VALUES, codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables, range_from_features
from bottlekit.device.errors import CodecError, PayloadError, UnknownNameError
from bottlekit.device.quantizer import dequantize, quantize

LARGEST = float(np.finfo(np.float32).max)
RANGE_BYTES = 8

# What carries no byte more than its codes need does not surely notice that it was cut: the connection does.
# Whatever comes out has the right shape.
WITHOUT_AN_END = ("jpeg-lean", "learned", "webp", "webp-lossless")
LOSSLESS = ("learned", "png", "raw", "webp-lossless", "zdict")

names = st.sampled_from(CODEC_NAMES)
bits_1_to_8 = st.integers(1, 8)
qualities = st.integers(1, 100)
shapes = st.one_of(
    st.sampled_from([(1, 1, 1), (3, 1, 1), (1, 28, 28), (5, 7, 7), (10, 4, 4), (2, 14, 14), (17, 1, 3), (1, 1, 9)]),
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
)


def codec_of(name, shape, bits=8, quality=20):
    return codec_from_spec({"name": name, "bits": bits, "quality": quality}, shape)


def feature_of(shape, seed=0):
    """A feature like a network's: smooth maps with noise, cut off at 0."""
    random = np.random.RandomState(seed)
    _, h, w = shape
    smooth = np.linspace(-1, 1, h)[:, np.newaxis] * np.linspace(-1, 2, w) * random.uniform(-2, 2, (shape[0], 1, 1))
    return np.maximum(smooth + random.uniform(-0.3, 0.3, shape), 0).astype(np.float32)


def exact_feature(feature, bits):
    """What a codec without losses makes of a feature."""
    codes, low, high = quantize(feature, bits)
    return dequantize(codes, low, high, bits)


@st.composite
def codecs(draw):
    return codec_of(draw(names), draw(shapes), draw(bits_1_to_8), draw(qualities))


@st.composite
def codecs_and_features(draw):
    codec = draw(codecs())
    elements = draw(st.sampled_from([st.floats(-LARGEST, LARGEST, width=32), st.floats(-4, 4, width=32)]))
    return codec, draw(hnp.arrays(np.float32, codec.shape, elements=elements))


# What comes out, whatever goes in


@given(codecs_and_features())
def test_what_is_encoded_decodes_to_the_same_shape_within_the_features_range(case):
    codec, feature = case
    payload = codec.encode(feature)
    assert isinstance(payload, bytes)
    assert len(payload) <= codec.max_payload_bytes
    back = codec.decode(payload)
    assert back.shape == codec.shape
    assert back.dtype == np.float32
    assert np.isfinite(back).all()
    assert feature.min() <= back.min()
    assert back.max() <= feature.max()
    if codec.lossless:
        assert np.array_equal(back, exact_feature(feature, codec.bits))


@given(st.sampled_from(LOSSLESS), shapes, bits_1_to_8, st.randoms(use_true_random=False))
def test_lossless_codecs_give_back_every_code(name, shape, bits, random):
    codes = np.array([random.randrange(2**bits) for _ in range(np.prod(shape))], dtype=np.uint8).reshape(shape)
    codec = codec_of(name, shape, bits)
    back = codec.decode_codes(codec.encode_codes(codes))
    assert back.dtype == np.uint8
    assert np.array_equal(back, codes)


@given(names, shapes, bits_1_to_8, st.integers(0, 255))
def test_constant_codes_of_one_channel_come_back_exactly_from_every_codec(name, shape, bits, value):
    # One channel has no spare slots next to it, and of a constant block JPEG at quality 100 keeps the mean. WebP
    # squeezes gray into 16..235.
    if name == "webp":
        return
    shape = (1,) + shape[1:]
    codec = codec_of(name, shape, bits, quality=100)
    codes = np.full(shape, value % 2**bits, dtype=np.uint8)
    assert np.array_equal(codec.decode_codes(codec.encode_codes(codes)), codes)


@given(codecs(), st.floats(-LARGEST, LARGEST, width=32))
@example(codec_of("jpeg", (5, 7, 7)), -1.5)
def test_a_constant_feature_comes_back_exactly_from_every_codec(codec, value):
    feature = np.full(codec.shape, value, dtype=np.float32)
    assert np.array_equal(codec.decode(codec.encode(feature)), feature)


@given(codecs())
def test_a_payload_is_the_range_and_the_coded_codes(codec):
    feature = feature_of(codec.shape)
    codes, low, high = quantize(feature, codec.bits)
    payload = codec.encode(feature)
    assert struct.unpack("<ff", payload[:RANGE_BYTES]) == (low, high)
    assert payload[RANGE_BYTES:] == codec.encode_codes(codes)
    decoded_codes = codec.decode_codes(payload[RANGE_BYTES:])
    assert np.array_equal(codec.decode(payload), dequantize(decoded_codes, low, high, codec.bits))


@given(codecs())
def test_encoding_is_the_same_every_time_and_leaves_the_feature_alone(codec):
    feature = feature_of(codec.shape)
    before = feature.copy()
    assert codec.encode(feature) == codec.encode(np.asfortranarray(feature))
    assert np.array_equal(feature, before)


@given(codecs())
def test_what_was_decoded_can_be_written_to(codec):
    payload = codec.encode(feature_of(codec.shape))
    first = codec.decode(payload)
    first += 1
    codec.decode_codes(payload[RANGE_BYTES:])[:] = 0
    assert np.array_equal(codec.decode(payload) + np.float32(1), first)


def test_payloads_may_be_any_bytes_like_object():
    for name in CODEC_NAMES:
        codec = codec_of(name, (5, 7, 7))
        payload = codec.encode(feature_of(codec.shape))
        for same in (bytearray(payload), memoryview(payload)):
            assert np.array_equal(codec.decode(same), codec.decode(payload))


def test_raw_codes_are_packed_highest_bit_first():
    codes = np.array([1, 7, 0, 5], dtype=np.uint8).reshape(1, 2, 2)
    # 001 111 000 101 and four spare bits
    assert codec_of("raw", (1, 2, 2), bits=3).encode_codes(codes) == bytes([0b00111100, 0b01010000])
    assert codec_of("raw", (1, 2, 2), bits=8).encode_codes(codes) == bytes([1, 7, 0, 5])


@pytest.mark.parametrize("bits", range(1, 9))
def test_raw_payloads_have_exactly_the_length_their_bits_need(bits):
    codec = codec_of("raw", (5, 7, 7), bits)
    assert len(codec.encode(feature_of(codec.shape))) == 8 + -(-5 * 7 * 7 * bits // 8) == codec.max_payload_bytes


@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_image_payloads_are_complete_gray_files_of_the_canvas(name):
    codec = codec_of(name, (5, 7, 6))
    with Image.open(io.BytesIO(codec.encode(feature_of(codec.shape))[RANGE_BYTES:])) as image:
        assert (image.format, image.mode, image.size) == (name.upper(), "L", (6 * 4, 7 * 2))
        image.load()


def test_jpegs_losses_shrink_as_quality_grows():
    feature = feature_of((4, 14, 14))
    errors = []
    for quality in (5, 20, 60, 95):
        codec = codec_of("jpeg", feature.shape, quality=quality)
        errors.append(float(np.abs(codec.decode(codec.encode(feature)) - feature).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * float(np.ptp(feature))


def test_few_bits_use_the_whole_range_of_the_image():
    codec = codec_of("png", (1, 1, 8), bits=3)
    codes = np.arange(8, dtype=np.uint8).reshape(1, 1, 8)
    with Image.open(io.BytesIO(codec.encode_codes(codes))) as image:
        # 255 / 7 = 36.43 apart, each rounded
        assert np.asarray(image).tolist() == [[0, 36, 73, 109, 146, 182, 219, 255]]


# What is refused on the way in


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_features_of_another_shape_or_type_are_refused(name):
    codec = codec_of(name, (2, 3, 4))
    for shape in ((2, 4, 3), (1, 2, 3, 4), (24,), ()):
        with pytest.raises(CodecError, match=r"takes feature \(2, 3, 4\), not"):
            codec.encode(np.zeros(shape, dtype=np.float32))
    with pytest.raises(CodecError, match="float32"):
        codec.encode(np.zeros((2, 3, 4)))
    with pytest.raises(CodecError, match="not None"):
        codec.encode([[0.0]])
    for value in (float("nan"), float("inf")):
        with pytest.raises(CodecError, match="NaN or infinity"):
            codec.encode(np.full((2, 3, 4), value, dtype=np.float32))


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_codes_of_another_shape_type_or_size_are_refused(name):
    codec = codec_of(name, (2, 3, 4), bits=3)
    with pytest.raises(CodecError, match="takes codes"):
        codec.encode_codes(np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(CodecError, match="uint8"):
        codec.encode_codes(np.zeros((2, 3, 4), dtype=np.int64))
    with pytest.raises(CodecError, match="code 8 is above 7, the largest of 3 bits"):
        codec.encode_codes(np.full((2, 3, 4), 8, dtype=np.uint8))


def test_an_unknown_codec_is_refused_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="codec 'gif' does not exist; there are: jpeg, jpeg-lean, learned"):
        codec_of("gif", (1, 1, 1))
    for name in (None, 3, ["raw"], {}):
        with pytest.raises(UnknownNameError):
            codec_of(name, (1, 1, 1))


@pytest.mark.parametrize("key", ["name", "bits", "quality"])
def test_missing_settings_are_named(key):
    spec = {"name": "raw", "bits": 8, "quality": 20}
    del spec[key]
    with pytest.raises(CodecError, match="lack {};".format(key)):
        codec_from_spec(spec, (1, 1, 1))


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_settings_and_shapes_that_do_not_fit_are_refused(name):
    for bits in (0, 9, 1.0, "8", None, True):
        with pytest.raises(CodecError, match="1 to 8 bits"):
            codec_of(name, (1, 1, 1), bits=bits)
    for quality in (0, 101, 20.0, "20", None, True):
        with pytest.raises(CodecError, match="quality is 1 to 100"):
            codec_of(name, (1, 1, 1), quality=quality)
    for shape in ((1, 1), (1, 1, 0), (1, -1, 1), (1, 1, 1, 1), (1.0, 1, 1), ("1", 1, 1), ()):
        with pytest.raises(CodecError, match=r"features \(c, h, w\)"):
            codec_of(name, shape)
    with pytest.raises(CodecError, match="more than {} values".format(MAX_FEATURE_VALUES)):
        codec_of(name, (1 << 20, 1 << 20, 1 << 20))


def test_a_canvas_that_jpeg_cannot_hold_is_refused_when_the_codec_is_made():
    with pytest.raises(CodecError, match="at most 65500 pixels a side"):
        codec_of("jpeg", (1, 65501, 1))


# What is refused on the way out


@given(codecs(), st.binary(max_size=600))
@example(codec_of("raw", (1, 1, 1)), b"")
def test_arbitrary_bytes_never_decode_to_another_shape(codec, payload):
    check_refused_or_right(codec, payload)


@given(codecs(), st.binary(max_size=600))
def test_arbitrary_bytes_behind_a_good_range_never_decode_to_another_shape(codec, coded):
    check_refused_or_right(codec, struct.pack("<ff", -1, 1) + coded)


def check_refused_or_right(codec, payload):
    try:
        feature = codec.decode(payload)
    except PayloadError:
        return
    assert feature.shape == codec.shape
    assert feature.dtype == np.float32
    assert np.isfinite(feature).all()


@given(codecs())
@settings(max_examples=30)
def test_every_truncation_is_refused(codec):
    payload = codec.encode(feature_of(codec.shape))
    for length in range(len(payload)):
        if codec.name in WITHOUT_AN_END:
            check_refused_or_right(codec, payload[:length])
            continue
        with pytest.raises(PayloadError):
            codec.decode(payload[:length])


@given(codecs(), st.binary(min_size=1, max_size=40))
def test_every_extension_is_refused(codec, extra):
    payload = codec.encode(feature_of(codec.shape))
    for longer in (payload + extra, payload[:RANGE_BYTES] + extra + payload[RANGE_BYTES:], payload + payload):
        if codec.name in WITHOUT_AN_END:
            check_refused_or_right(codec, longer)
            continue
        with pytest.raises(PayloadError):
            codec.decode(longer)


@given(codecs(), st.data())
def test_a_flipped_bit_is_refused_or_changes_values_but_never_the_shape(codec, data):
    payload = bytearray(codec.encode(feature_of(codec.shape)))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= 1 << data.draw(st.integers(0, 7))
    check_refused_or_right(codec, bytes(payload))
    if codec.name == "png" and position >= RANGE_BYTES:
        with pytest.raises(PayloadError):
            codec.decode(bytes(payload))


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize(
    ("low", "high"),
    [(1, 0), (float("nan"), 1), (0, float("nan")), (0, float("inf")), (float("-inf"), 0), (float("inf"),) * 2],
)
def test_ranges_that_no_feature_has_are_refused(name, low, high):
    codec = codec_of(name, (1, 2, 2))
    coded = codec.encode(feature_of(codec.shape))[RANGE_BYTES:]
    with pytest.raises(PayloadError, match="no finite minimum and maximum"):
        codec.decode(struct.pack("<ff", low, high) + coded)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_a_payload_of_another_codec_or_shape_is_refused(name):
    shape = (3, 8, 8)
    payload = codec_of(name, shape).encode(feature_of(shape))
    others = [codec_of(other, shape) for other in CODEC_NAMES if other != name]
    others += [codec_of(name, other) for other in ((3, 8, 9), (3, 16, 8), (5, 8, 8), (1, 8, 8))]
    for other in others:
        if other.name in WITHOUT_AN_END:
            check_refused_or_right(other, payload)
            continue
        with pytest.raises(PayloadError):
            other.decode(payload)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_a_payload_longer_than_any_can_be_is_refused_by_its_length(name):
    codec = codec_of(name, (2, 7, 7))
    payload = codec.encode(feature_of(codec.shape))
    too_long = payload + b"\0" * (codec.max_payload_bytes - len(payload) + 1)
    with pytest.raises(PayloadError, match="bytes, not {}".format(len(too_long))):
        codec.decode(too_long)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
def test_spare_bits_of_raw_codes_must_be_0(bits):
    codec = codec_of("raw", (1, 1, 3), bits)
    spare = -3 * bits % 8
    payload = bytearray(codec.encode(feature_of(codec.shape)))
    for bit in range(spare):
        damaged = payload[:]
        damaged[-1] |= 1 << bit
        with pytest.raises(PayloadError, match="spare bits"):
            codec.decode(bytes(damaged))
    assert spare > 0


def test_noise_is_no_longer_than_the_stated_maximum():
    random = np.random.RandomState(3)
    for name in CODEC_NAMES:
        for quality in (1, 100):
            codec = codec_of(name, (1, 24, 24), quality=quality)
            codes = (random.randint(0, 2, codec.shape) * 255).astype(np.uint8)
            assert len(codec.encode_codes(codes)) + RANGE_BYTES <= codec.max_payload_bytes


# JPEG without what every file has


@given(shapes, bits_1_to_8, qualities, st.integers(0, 1 << 30))
def test_a_lean_jpeg_is_rebuilt_to_the_byte(shape, bits, quality, seed):
    codes = np.random.RandomState(seed).randint(0, 2**bits, shape).astype(np.uint8)
    lean, whole = codec_of("jpeg-lean", shape, bits, quality), codec_of("jpeg", shape, bits, quality)
    scan, file = lean.encode_codes(codes), whole.encode_codes(codes)
    assert lean.header + scan + b"\xff\xd9" == file
    assert np.array_equal(lean.decode_codes(scan), whole.decode_codes(file))


def test_a_lean_jpeg_is_about_a_third_of_a_file_at_the_papers_setting():
    feature = feature_of((1, 28, 28))
    lean, whole = (codec_of(name, feature.shape).encode(feature) for name in ("jpeg-lean", "jpeg"))
    assert len(lean) <= 0.35 * len(whole)


def test_the_header_in_the_bundle_must_be_the_one_that_is_written_here():
    header = np.frombuffer(codec_of("jpeg-lean", (1, 8, 8)).header, dtype=np.uint8)
    spec = {"name": "jpeg-lean", "bits": 8, "quality": 20}
    codec = codec_from_spec(spec, (1, 8, 8), {"jpeg_header": header})
    assert codec.header == header.tobytes()
    with pytest.raises(CodecError, match="JPEG library writes other headers"):
        codec_from_spec(spec, (1, 8, 9), {"jpeg_header": header})


# One range for all images


def static(name, shape, low, high, bits=8, quality=20):
    spec = {"name": name, "bits": bits, "quality": quality, "range": "static"}
    return codec_from_spec(spec, shape, {"range": np.array([low, high], np.float32)})


@given(names, shapes, bits_1_to_8, st.floats(-1e3, 1e3, width=32), st.floats(0.125, 1e3, width=32), st.randoms())
def test_a_static_range_saves_its_bytes_and_moves_what_lies_outside(name, shape, bits, low, span, random):
    low, high = float(np.float32(low)), float(np.float32(low + span))
    codec, usual = static(name, shape, low, high, bits), codec_of(name, shape, bits)
    values = [random.uniform(low - span, high + span) for _ in range(int(np.prod(shape)))]
    feature = np.array(values, dtype=np.float32).reshape(shape)
    inside = np.clip(feature, np.float32(low), np.float32(high))
    payload = codec.encode(feature)
    assert codec.max_payload_bytes == usual.max_payload_bytes - RANGE_BYTES
    assert payload == codec.encode(inside) == codec.encode_codes(codec.codes(feature))
    back = codec.decode(payload)
    assert back.shape == shape
    assert low <= back.min()
    assert back.max() <= high
    if codec.lossless:
        step = span / (2**bits - 1)
        assert np.abs(back - inside).max() <= step * 0.501 + 1e-3


def test_a_static_range_refuses_what_no_range_is():
    spec = {"name": "raw", "bits": 8, "quality": 20, "range": "static"}
    with pytest.raises(CodecError, match="comes from calibration"):
        codec_from_spec(spec, (1, 1, 1))
    for wrong in ([0, 1, 2], [[0, 1]], [1]):
        with pytest.raises(CodecError, match=r"float32 \(2,\)"):
            codec_from_spec(spec, (1, 1, 1), {"range": np.array(wrong, np.float32)})
    with pytest.raises(CodecError, match=r"float32 \(2,\)"):
        codec_from_spec(spec, (1, 1, 1), {"range": np.array([0.0, 1.0])})
    for low, high in ((1, 0), (1, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(CodecError, match="spans no finite values"):
            static("raw", (1, 1, 1), low, high)
    with pytest.raises(CodecError, match="range is image or static, not 'all'"):
        codec_from_spec(dict(spec, range="all"), (1, 1, 1))
    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(CodecError, match="NaN or infinity"):
            static("raw", (1, 1, 1), 0, 1).encode(np.full((1, 1, 1), value, np.float32))


def test_versions_that_are_not_known_are_refused():
    spec = {"name": "raw", "bits": 8, "quality": 20}
    assert codec_from_spec(dict(spec, version=1), (1, 1, 1)).version == 1
    with pytest.raises(CodecError, match="codec raw has version 2, and this bottlekit knows up to 1"):
        codec_from_spec(dict(spec, version=2), (1, 1, 1))
    for wrong in (0, "1", 1.0, None, True):
        with pytest.raises(CodecError, match="version is an integer"):
            codec_from_spec(dict(spec, version=wrong), (1, 1, 1))


def test_codecs_know_whether_they_are_lossless():
    assert [name for name in CODEC_NAMES if codec_of(name, (1, 1, 1)).lossless] == list(LOSSLESS)


# Tables learned from training images


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize("value_range", ["image", "static"])
@pytest.mark.parametrize(("shape", "bits"), [((1, 1, 1), 1), ((2, 5, 3), 2), ((3, 6, 6), 5), ((1, 12, 12), 8)])
def test_calibrated_codecs_code_features_they_have_never_seen(name, value_range, shape, bits):
    spec = {"name": name, "bits": bits, "quality": 50, "range": value_range}
    seen = np.stack([feature_of(shape, seed) for seed in range(7)])
    seen[0].flat[0] = 3
    tables = calibrated_tables(spec, shape, seen)
    codec, again = (codec_from_spec(spec, shape, tables) for _ in range(2))
    assert set(codec.tables_needed) <= set(tables)
    assert ("range" in tables) == (value_range == "static")
    for feature in (feature_of(shape, 99), np.zeros(shape, np.float32), np.full(shape, 1e6, np.float32)):
        payload = codec.encode(feature)
        assert len(payload) <= codec.max_payload_bytes
        assert np.array_equal(codec.decode(payload), again.decode(payload))
        if codec.lossless:
            decoded = codec.decode_codes(payload[RANGE_BYTES if value_range == "image" else 0 :])
            assert np.array_equal(decoded, codec.codes(feature))


def test_the_static_range_is_the_one_whose_codes_come_back_nearest():
    random = np.random.RandomState(4)
    features = random.exponential(1, (50, 2, 8, 8)).astype(np.float32)
    features[0, 0, 0, 0] = 20
    low, high = range_from_features(features, 4)
    assert low == features.min()
    assert 4 < high < 12
    assert range_from_features(np.float32([[[[0, 1]]]]), 1).tolist() == [0, 1]
    negative = -features[:, :1]
    assert range_from_features(negative, 8)[0] == -20


def test_calibration_refuses_what_no_features_are():
    spec = {"name": "raw", "bits": 8, "quality": 20, "range": "static"}
    with pytest.raises(CodecError, match=r"takes features \(n, 1, 2, 2\), not \(3, 1, 2, 3\)"):
        calibrated_tables(spec, (1, 2, 2), np.zeros((3, 1, 2, 3), np.float32))
    with pytest.raises(CodecError, match="takes features"):
        calibrated_tables(spec, (1, 2, 2), np.zeros((0, 1, 2, 2), np.float32))
    with pytest.raises(CodecError, match="a range needs two values"):
        calibrated_tables(spec, (1, 2, 2), np.ones((3, 1, 2, 2), np.float32))
    with pytest.raises(CodecError, match="NaN or infinity"):
        calibrated_tables(spec, (1, 2, 2), np.full((3, 1, 2, 2), np.nan, np.float32))
    with pytest.raises(CodecError, match="NaN or infinity"):
        calibrated_tables(dict(spec, range="image"), (1, 2, 2), np.full((3, 1, 2, 2), np.inf, np.float32))


def test_a_dictionary_of_training_codes_shortens_codes_like_them():
    shape = (2, 14, 14)
    features = np.stack([feature_of(shape, seed % 5) for seed in range(20)])
    spec = {"name": "zdict", "bits": 6, "quality": 20}
    tables = calibrated_tables(spec, shape, features)
    assert tables["dictionary"].shape == (20 * 2 * 14 * 14,)
    trained, plain = codec_from_spec(spec, shape, tables), codec_from_spec(spec, shape)
    assert len(trained.encode(features[3])) < 0.2 * len(plain.encode(features[3]))
    with pytest.raises(PayloadError):
        plain.decode(trained.encode(features[3]))
    for wrong in (np.zeros(32769, np.uint8), np.zeros(5, np.int64), np.zeros((5, 5), np.uint8)):
        with pytest.raises(CodecError, match="dictionary is uint8"):
            codec_from_spec(spec, shape, {"dictionary": wrong})


def test_a_stream_that_inflates_to_a_code_the_bits_have_not_is_refused():
    codec = codec_of("zdict", (1, 1, 2), bits=3)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = deflater.compress(bytes([7, 8])) + deflater.flush()
    with pytest.raises(PayloadError, match="the code 8, which 3 bits have not"):
        codec.decode(struct.pack("<ff", 0, 1) + coded)


def test_a_stream_that_would_inflate_to_gigabytes_is_refused_early():
    codec = codec_of("zdict", (16, 56, 56))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = deflater.compress(b"\0" * 40000000) + deflater.flush()
    assert len(coded) < codec.max_payload_bytes
    with pytest.raises(PayloadError, match="exactly 50176 codes"):
        codec.decode(struct.pack("<ff", 0, 1) + coded)


def test_a_webp_of_another_size_is_refused_before_it_is_decoded():
    for name in ("webp", "webp-lossless"):
        codec, larger = codec_of(name, (1, 8, 8)), codec_of(name, (1, 8, 9))
        coded = larger.encode(feature_of((1, 8, 9)))
        with pytest.raises(PayloadError, match="no 8 x 8 WebP image"):
            codec.decode(coded)


def test_a_pillow_without_webp_is_told(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    for name in ("webp", "webp-lossless"):
        with pytest.raises(CodecError, match="needs a Pillow with WebP, and this one has none"):
            codec_of(name, (1, 8, 8))
    assert codec_of("jpeg", (1, 8, 8)).name == "jpeg"


def test_a_codec_says_what_it_is():
    assert (
        repr(codec_of("jpeg", (5, 7, 7), 6, 30))
        == "Codec(name='jpeg', shape=(5, 7, 7), bits=6, quality=30, range=image)"
    )
