import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.codecs.learned import MAX_VALUES
from bottlekit.device.codecs.prior import frequencies_from_probabilities, neighbours_sum, prior_from_codes
from bottlekit.device.codecs.rans import coded_from_symbols, state_and_words
from bottlekit.device.errors import CodecError, PayloadError


def learned(shape, bits, tables=None):
    return codec_from_spec({"name": "learned", "bits": bits, "quality": 20}, shape, tables)


def slots_of(bits):
    return 4096 if bits <= 6 else 65536


def smooth_codes(n, shape, bits, seed=0):
    """Codes that depend on their neighbours, mostly small, as behind a ReLU."""
    random = np.random.RandomState(seed)
    c, h, w = shape
    waves = np.sin(np.arange(h)[:, np.newaxis] / 3 + random.uniform(0, 6, (n, c, 1, 1)))
    waves = waves * np.cos(np.arange(w) / 4 + random.uniform(0, 6, (n, c, 1, 1)))
    values = np.clip(waves + random.normal(0, 0.03, (n,) + shape), 0, 1) * (2**bits - 1)
    return np.rint(values).astype(np.uint8)


@st.composite
def priors(draw):
    """A shape, bits, and tables with frequencies from very skewed to equal."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)))
    bits, classes = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    random = np.random.RandomState(draw(st.integers(0, 1 << 30)))
    rows = random.dirichlet(np.full(2**bits, draw(st.sampled_from([0.01, 0.3, 100]))), (shape[0], classes))
    tables = {
        "frequencies": frequencies_from_probabilities(rows, slots_of(bits)),
        "classes": random.randint(0, classes, 2 * (2**bits - 1) + 1).astype(np.uint8),
    }
    return shape, bits, tables, random


@given(priors())
@settings(max_examples=200)
def test_every_codes_come_back_under_every_prior(case):
    shape, bits, tables, random = case
    codec = learned(shape, bits, tables)
    for codes in (
        random.randint(0, 2**bits, shape).astype(np.uint8),
        np.zeros(shape, np.uint8),
        np.full(shape, 2**bits - 1, np.uint8),
    ):
        coded = codec.encode_codes(codes)
        assert np.array_equal(codec.decode_codes(coded), codes)
        assert len(coded) <= codec.max_payload_bytes - 8


@given(priors())
@settings(max_examples=200)
def test_payloads_are_at_most_three_bytes_longer_than_the_prior_says(case):
    shape, bits, tables, random = case
    codec = learned(shape, bits, tables)
    codes = random.randint(0, 2**bits, shape).astype(np.uint8)
    channel = np.arange(shape[0]).reshape(-1, 1, 1)
    frequency = tables["frequencies"][channel, tables["classes"][neighbours_sum(codes)], codes]
    ideal_bytes = -np.log2(frequency / slots_of(bits)).sum() / 8
    # They may be shorter: codes 0 at the very end leave the state as it is where 0 is likely.
    assert len(codec.encode_codes(codes)) <= ideal_bytes + 3


def test_a_stream_worked_out_by_hand():
    # Encoded last first, from a state of 170: 170 // 8192 * 65536 + 0 + 170 % 8192 = 170, then 16384 + 170 = 16554,
    # and 16554 // 16384 * 65536 + 16384 + 16554 % 16384 = 82090.
    starts, frequencies = [16384, 16384, 0], [16384, 32768, 8192]
    assert coded_from_symbols(starts, frequencies, 16) == (82090).to_bytes(3, "big")
    assert state_and_words(b"\x80\x00") == (32768, [])
    assert state_and_words(b"\x01\x02\x03\x04\x05\x06\x07") == (0x0102030405, [0x0607])
    assert state_and_words(b"\x01\x02\x03\x04\x05\x06\x07\x08") == (0x010203040506, [0x0708])
    assert coded_from_symbols([0], [65535], 16) == b"\xaa"


@pytest.mark.parametrize("coded", [b"", b"\0", b"\0\1", b"\0\0", b"\0" * 9])
def test_streams_that_no_encoder_writes_are_refused(coded):
    with pytest.raises(PayloadError, match="are none, or begin with a 0"):
        state_and_words(coded)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_prior_makes_what_is_like_the_training_images_shorter(bits):
    shape = (2, 14, 14)
    tables = prior_from_codes(smooth_codes(60, shape, bits), bits)
    trained, flat = learned(shape, bits, tables), learned(shape, bits)
    sizes = [
        (len(trained.encode_codes(one)), len(flat.encode_codes(one))) for one in smooth_codes(20, shape, bits, 9)
    ]
    ours, raw = np.mean(sizes, axis=0)
    assert raw <= 2 * 14 * 14 * bits / 8 + 2
    assert ours < 0.75 * raw


def test_neighbours_are_left_and_above_in_the_same_channel():
    codes = np.array([[[1, 2], [3, 4]], [[255, 255], [255, 255]]], dtype=np.uint8)
    assert neighbours_sum(codes).tolist() == [[[0, 1], [1, 5]], [[0, 255], [255, 510]]]


def test_the_prior_is_the_same_every_time_and_fits_one_image_or_many():
    codes = smooth_codes(9, (3, 5, 4), 3)
    for count in (1, 2, 3, 9):
        first, second = prior_from_codes(codes[:count], 3), prior_from_codes(codes[:count], 3)
        assert all(np.array_equal(first[name], second[name]) for name in first)
        assert first["frequencies"].sum(axis=2).tolist() == [[4096] * first["frequencies"].shape[1]] * 3
        assert int(first["classes"].max()) == first["frequencies"].shape[1] - 1


def test_more_channels_get_fewer_classes_so_that_the_tables_stay_small():
    tables = prior_from_codes(np.zeros((3, 1000, 1, 1), np.uint8), 8)
    assert tables["frequencies"].size <= 1 << 20


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_cut_longer_and_flipped_streams_are_nearly_always_noticed(bits):
    shape = (2, 8, 8)
    codec = learned(shape, bits, prior_from_codes(smooth_codes(40, shape, bits), bits))
    random = np.random.RandomState(1)
    noticed = {"cut": [], "longer": [], "flipped": []}
    for codes in smooth_codes(60, shape, bits, 5):
        coded = codec.encode_codes(codes)
        flipped = bytearray(coded)
        flipped[random.randint(len(coded))] ^= 1 << random.randint(8)
        cases = {
            "cut": [coded[:length] for length in range(len(coded))],
            "longer": [coded + bytes([random.randint(256)])],
            "flipped": [bytes(flipped)],
        }
        for what, streams in cases.items():
            for stream in streams:
                try:
                    found = codec.decode_codes(stream)
                    assert (found.shape, found.dtype) == (shape, np.uint8)
                    assert int(found.max()) < 2**bits
                    noticed[what].append(False)
                except PayloadError:
                    noticed[what].append(True)
    assert {what: np.mean(seen) > 0.98 for what, seen in noticed.items()} == dict.fromkeys(noticed, True)


@given(priors(), st.binary(max_size=300))
def test_hostile_streams_end_with_an_error_or_the_right_shape(case, stream):
    shape, bits, tables, _ = case
    codec = learned(shape, bits, tables)
    try:
        found = codec.decode_codes(stream)
    except PayloadError:
        return
    assert found.shape == shape
    assert int(found.max()) < 2**bits


def test_a_stream_longer_than_any_can_be_is_refused_unread():
    codec = learned((1, 2, 2), 8)
    with pytest.raises(PayloadError, match="up to 14 bytes, not 15"):
        codec.decode_codes(b"\1" * 15)


def test_tables_that_do_not_fit_are_refused():
    tables = prior_from_codes(smooth_codes(6, (2, 5, 5), 3), 3)
    assert learned((2, 5, 5), 3, tables).bits == 3
    for shape, bits in (((3, 5, 5), 3), ((2, 5, 5), 4)):
        with pytest.raises(CodecError, match="do not fit features"):
            learned(shape, bits, tables)
    for name in tables:
        for wrong in (None, tables[name].astype(np.int64), tables[name][:-1], tables[name][np.newaxis]):
            with pytest.raises(CodecError, match="do not fit features"):
                learned((2, 5, 5), 3, dict(tables, **{name: wrong}))


def test_damaged_tables_are_refused():
    tables = prior_from_codes(smooth_codes(6, (2, 5, 5), 3), 3)
    for change in (1, 2):
        frequencies = tables["frequencies"].copy()
        frequencies[1, 0, 0] += change
        with pytest.raises(CodecError, match="are damaged"):
            learned((2, 5, 5), 3, dict(tables, frequencies=frequencies))
    frequencies = tables["frequencies"].copy()
    frequencies[0, 0] = [0, 4096 - 6, 1, 1, 1, 1, 1, 1]
    with pytest.raises(CodecError, match="are damaged"):
        learned((2, 5, 5), 3, dict(tables, frequencies=frequencies))
    classes = np.full_like(tables["classes"], tables["frequencies"].shape[1])
    with pytest.raises(CodecError, match="are damaged"):
        learned((2, 5, 5), 3, dict(tables, classes=classes))


def test_a_payload_of_another_bundle_is_nearly_always_noticed():
    shape = (2, 8, 8)
    ours = learned(shape, 4, prior_from_codes(smooth_codes(40, shape, 4), 4))
    theirs = learned(shape, 4, prior_from_codes(15 - smooth_codes(40, shape, 4), 4))
    refused = 0
    for codes in smooth_codes(40, shape, 4, 8):
        for sender, receiver, sent in ((ours, theirs, codes), (theirs, ours, 15 - codes)):
            try:
                receiver.decode_codes(sender.encode_codes(sent))
            except PayloadError:
                refused += 1
    assert refused >= 78


def test_a_feature_that_would_take_python_too_long_is_refused():
    with pytest.raises(CodecError, match="up to {} values".format(MAX_VALUES)):
        learned((1, 512, 513), 8)


def test_calibration_of_features_gives_a_working_codec():
    random = np.random.RandomState(0)
    features = np.maximum(random.normal(0, 1, (30, 2, 6, 6)), 0).astype(np.float32)
    spec = {"name": "learned", "bits": 2, "quality": 20, "range": "static"}
    tables = calibrated_tables(spec, (2, 6, 6), features)
    codec = codec_from_spec(spec, (2, 6, 6), tables)
    assert set(tables) == {"range", "frequencies", "classes"}
    assert np.array_equal(codec.decode_codes(codec.encode(features[3])), codec.codes(features[3]))
