"""Damaged and hostile payloads for codecs as bundles hold them: calibrated, with their tables, of both ranges."""

import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.device.codecs import CODEC_NAMES, codec_from_spec
from bottlekit.device.errors import CodecError, PayloadError

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from calibrated import calibrated_codecs

RANGE = struct.pack("<ff", 0, 1)


CASES = list(calibrated_codecs())
cases = st.sampled_from(CASES)
places_and_values = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), min_size=1, max_size=8)


def refused_or_right(codec, payload):
    """Whether it is refused; whatever comes out otherwise is a feature of the codec's shape."""
    try:
        feature = codec.decode(payload)
    except PayloadError:
        return True
    assert (feature.shape, feature.dtype) == (codec.shape, np.float32)
    assert np.isfinite(feature).all()
    if codec.value_range is not None:
        low, high = codec.value_range
        assert low <= feature.min()
        assert feature.max() <= high
    return False


def test_every_kind_of_codec_is_here():
    assert {codec.name for codec, _ in CASES} == set(CODEC_NAMES)
    for codec, payload in CASES:
        assert not refused_or_right(codec, payload)


@given(cases, places_and_values)
def test_changed_bytes(case, changes):
    codec, payload = case
    changed = bytearray(payload)
    for place, value in changes:
        changed[place % len(changed)] ^= value
    refused_or_right(codec, bytes(changed))


@given(cases, st.integers(0, 1 << 16), st.binary(max_size=40))
def test_cut_payloads_with_other_bytes_behind_the_cut(case, place, others):
    codec, payload = case
    refused_or_right(codec, payload[: place % len(payload)] + others)


@given(cases, st.binary(max_size=400))
def test_bytes_that_no_codec_wrote(case, payload):
    codec, _ = case
    refused_or_right(codec, payload)
    refused_or_right(codec, RANGE + payload)


@given(cases, st.integers(1, 1 << 16))
def test_too_long_a_payload(case, more):
    codec, payload = case
    room = codec.max_payload_bytes - len(payload)
    assert refused_or_right(codec, payload + b"\xff" * (room + more))


@given(cases, cases)
def test_the_payload_of_another_bundle(sender, receiver):
    refused_or_right(receiver[0], sender[1])


def hostile_payloads(codec, payload):
    """Streams that would unpack to a lot, claim to, or are as long as the codec takes."""
    head = b"" if codec.value_range is not None else RANGE
    for byte in (b"\x00", b"\xff"):
        yield head + byte * (codec.max_payload_bytes - len(head))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = deflater.compress(bytes(1 << 24)) + deflater.flush()
    yield head + zeros[: codec.max_payload_bytes - len(head)]
    for place in range(len(head), min(len(payload), 40)):  # sizes are near the beginning of a file
        yield payload[:place] + b"\xff\xff\xff\xff" + payload[place + 4 :]


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_no_payload_takes_much_memory(name):
    """A decoder's own memory: what libraries take for themselves is what the fuzzer's limit is for."""
    codec, payload = next(case for case in CASES if case[0].name == name and case[0].shape == (1, 28, 28))
    codec.decode(payload)  # what is made once is not counted
    payloads = list(hostile_payloads(codec, payload))
    tracemalloc.start()
    try:
        for hostile in payloads:
            refused_or_right(codec, hostile)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", CODEC_NAMES)
@pytest.mark.parametrize(
    ("setting", "values", "why"),
    [("bits", (0, 9, 17), "1 to 8 bits per code, not {}"), ("quality", (0, 101), "quality is 1 to 100, not {}")],
)
def test_settings_out_of_range_are_refused_with_what_was_asked(name, setting, values, why):
    for value in values:
        spec = dict({"name": name, "bits": 8, "quality": 20}, **{setting: value})
        with pytest.raises(CodecError, match=why.format(value)):
            codec_from_spec(spec, (1, 2, 2))
