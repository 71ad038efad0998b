import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bottlekit.device.errors import CodecError
from bottlekit.device.quantizer import dequantize, levels_from_bits, quantize, range_is_valid

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-149

bits_1_to_8 = st.integers(1, 8)
finite = st.floats(-LARGEST, LARGEST, width=32)
features = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=finite)


def float32(*values):
    return np.array(values, dtype=np.float32)


def test_the_papers_equation_on_values_worked_out_by_hand():
    codes, low, high = quantize(float32(0, 0.25, 0.5, 1), bits=2)
    # 0.25 * 3 = 0.75 -> 1, and 0.5 * 3 = 1.5 is a tie: half to even gives 2
    assert codes.tolist() == [0, 1, 2, 3]
    assert (low, high) == (0.0, 1.0)
    assert dequantize(codes, low, high, bits=2).tolist() == float32(0, 1 / 3, 2 / 3, 1).tolist()


def test_ties_are_rounded_to_the_even_code():
    # With 4 levels over 0..6, 1, 3 and 5 are codes 0.5, 1.5 and 2.5.
    assert quantize(float32(0, 1, 3, 5, 6), bits=2)[0].tolist() == [0, 0, 2, 2, 3]


@given(features, bits_1_to_8)
@example(float32(-3e38, 3e38, 0), 8)
@example(float32(-LARGEST, LARGEST), 8)
@example(float32(0, SMALLEST), 8)
@example(float32(1, np.nextafter(np.float32(1), np.float32(2))), 8)
def test_codes_and_values_stay_in_range_and_the_ends_are_hit(feature, bits):
    levels = levels_from_bits(bits)
    codes, low, high = quantize(feature, bits)
    assert codes.dtype == np.uint8
    assert codes.shape == feature.shape
    assert (low, high) == (float(feature.min()), float(feature.max()))
    if low < high:
        assert codes.flat[feature.argmin()] == 0
        assert codes.flat[feature.argmax()] == levels
    else:
        assert not codes.any()
    back = dequantize(codes, low, high, bits)
    assert back.dtype == np.float32
    assert back.shape == feature.shape
    assert np.isfinite(back).all()
    assert low <= back.min()
    assert back.max() <= high


@given(features, bits_1_to_8)
def test_the_error_is_at_most_half_a_step_and_float32_rounding(feature, bits):
    codes, low, high = quantize(feature, bits)
    error = np.abs(dequantize(codes, low, high, bits).astype(np.float64) - feature.astype(np.float64))
    half_step = (high - low) / levels_from_bits(bits) / 2
    # Each of the few float32 operations is off by at most 2^-24 of the largest magnitude.
    rounding = 8 * 2.0**-24 * max(abs(low), abs(high), high - low) + 4 * SMALLEST
    assert error.max() <= half_step + rounding


@given(features, bits_1_to_8)
def test_codes_keep_the_order_of_the_values(feature, bits):
    codes = quantize(feature, bits)[0].ravel()
    assert (np.diff(codes[np.argsort(feature.ravel(), kind="stable")].astype(int)) >= 0).all()


@given(finite, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), bits_1_to_8)
def test_a_constant_tensor_has_codes_0_and_comes_back_exactly(value, shape, bits):
    feature = np.full(shape, value, dtype=np.float32)
    codes, low, high = quantize(feature, bits)
    assert not codes.any()
    assert np.array_equal(dequantize(codes, low, high, bits), feature)


def test_every_code_of_every_number_of_bits_survives_a_second_round():
    for bits in range(1, 9):
        codes = np.arange(levels_from_bits(bits) + 1, dtype=np.uint8)
        for low, high in ((0.0, 1.0), (-3.0, 5.0), (0.0, float(np.float32(1e-38))), (-LARGEST, LARGEST)):
            again, low_again, _ = quantize(dequantize(codes, low, high, bits), bits)
            assert again.tolist() == codes.tolist()
            assert low_again == low


def test_subnormal_values_are_told_apart():
    feature = float32(0, SMALLEST, 2 * SMALLEST, 3 * SMALLEST)
    codes, low, high = quantize(feature, bits=2)
    assert codes.tolist() == [0, 1, 2, 3]
    assert dequantize(codes, low, high, bits=2).tolist() == feature.tolist()


def test_a_span_above_float32_gives_the_same_codes_as_half_of_it():
    feature = float32(-3e38, -1e38, 0, 2e38, 3e38)
    codes, low, high = quantize(feature, bits=8)
    assert codes.tolist() == quantize(feature / np.float32(2), bits=8)[0].tolist()
    assert np.isfinite(dequantize(codes, low, high, bits=8)).all()


def test_which_zero_is_the_minimum_does_not_depend_on_the_order():
    for values in ((-0.0, 0.0, 1.0), (0.0, -0.0, 1.0)):
        _, low, _ = quantize(float32(*values), bits=8)
        assert struct.pack("<f", low) == b"\0\0\0\0"


def test_memory_order_does_not_change_the_codes():
    feature = np.random.RandomState(0).uniform(-1, 1, (3, 4, 5)).astype(np.float32)
    turned = np.asfortranarray(feature)
    assert np.array_equal(quantize(turned, 8)[0], quantize(feature, 8)[0])
    assert np.array_equal(quantize(feature[:, ::-2], 8)[0], quantize(feature[:, ::-2].copy(), 8)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 17, 99])
def test_nan_and_infinity_are_refused(value, position):
    feature = np.zeros(100, dtype=np.float32)
    feature[position] = value
    with pytest.raises(CodecError, match="NaN or infinity"):
        quantize(feature, bits=8)


@pytest.mark.parametrize("feature", [np.zeros(3), np.zeros(3, np.float16), np.zeros(3, np.int32), [0.0, 1.0], None])
def test_anything_but_float32_is_refused(feature):
    with pytest.raises(CodecError, match="float32"):
        quantize(feature, bits=8)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_a_tensor_without_values_is_refused(shape):
    with pytest.raises(CodecError, match="at least one value"):
        quantize(np.zeros(shape, dtype=np.float32), bits=8)


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, "8", None, True])
def test_bits_outside_1_to_8_are_refused(bits):
    with pytest.raises(CodecError, match="1 to 8 bits"):
        quantize(float32(0, 1), bits)
    with pytest.raises(CodecError, match="1 to 8 bits"):
        dequantize(np.zeros(2, np.uint8), 0.0, 1.0, bits)


def test_a_code_above_the_largest_is_refused():
    with pytest.raises(CodecError, match="code 8 is above 7"):
        dequantize(np.array([0, 8], np.uint8), 0.0, 1.0, bits=3)


@pytest.mark.parametrize("codes", [np.zeros(2), np.zeros(2, np.int64), [0, 1]])
def test_codes_of_another_type_are_refused(codes):
    with pytest.raises(CodecError, match="uint8"):
        dequantize(codes, 0.0, 1.0, bits=8)


BAD_RANGES = [
    (1.0, 0.0),
    (float("nan"), 1.0),
    (0.0, float("nan")),
    (float("-inf"), 0.0),
    (0.0, float("inf")),
    (0.0, 1e39),
]


@pytest.mark.parametrize(("low", "high"), BAD_RANGES)
def test_a_range_that_no_feature_has_is_refused(low, high):
    assert not range_is_valid(low, high)
    with pytest.raises(CodecError, match="no finite float32"):
        dequantize(np.zeros(2, np.uint8), low, high, bits=8)


def test_no_codes_give_no_values():
    assert dequantize(np.zeros((0, 2), np.uint8), 0.0, 1.0, bits=3).shape == (0, 2)
