"""The kernels' own text, run on the CPU, against the codec in numpy: equal to the last bit."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bottlekit.device.quantizer import dequantize, quantize

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))
import reference

PLUGINS = Path(__file__).parents[2] / "plugins"
THREADS = 32
SHAPES = [(1, 1, 1), (3, 5, 7), (4, 8, 8), (5, 3, 2), (9, 1, 11), (16, 7, 7), (33, 2, 3)]
LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture(scope="session", name="kernels")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    here = Path(__file__).parent
    command = ["g++", "-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += [
        "-pthread",
        f"-I{PLUGINS}",
        f"-I{PLUGINS / 'include'}",
        "-o",
        str(path),
        str(here / "host_kernels.cpp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(path))
    library.padded_size.restype = ctypes.c_int64
    return library


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def quantize_tile(
    kernels: Any,
    features: np.ndarray,
    bits: int,
    value_range: tuple[float, float] | None = None,
    threads: int = THREADS,
) -> tuple[np.ndarray, ...]:
    n, c, h, w = features.shape
    features = np.ascontiguousarray(features, np.float32)
    # What was there before must not show.
    canvases = np.full((n, kernels.padded_size(c, h, w)), 77, np.uint8)
    ranges, status = np.full((n, 2), 7, np.float32), np.full(n, 7, np.int32)
    low, high = value_range or (0.0, 0.0)
    floats = (ctypes.c_float(low), ctypes.c_float(high))
    outputs = (pointer(canvases), pointer(ranges), pointer(status))
    kernels.quantize_tile(
        pointer(features), n, c, h, w, bits, int(value_range is not None), *floats, threads, *outputs
    )
    return canvases, ranges, status


def untile_dequantize(
    kernels: Any, canvases: np.ndarray, ranges: np.ndarray, shape: tuple[int, int, int], bits: int
) -> tuple[np.ndarray, ...]:
    features, status = np.full((len(canvases), *shape), 7, np.float32), np.zeros(len(canvases), np.int32)
    outputs = (pointer(features), pointer(status))
    kernels.untile_dequantize(pointer(canvases), pointer(ranges), len(canvases), *shape, bits, THREADS, *outputs)
    return features, status


def assert_equal(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        # As bytes: a difference in the sign of zero is a difference.
        assert one.tobytes() == other.tobytes()


def features_of(shape: tuple[int, int, int], n: int = 3) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=(n, *shape)).astype(np.float32) * 10


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_width_and_odd_shapes_there_and_back(kernels: Any, shape: tuple[int, int, int], bits: int) -> None:
    features = features_of(shape)
    expected = reference.quantize_tile(features, bits)
    assert_equal(quantize_tile(kernels, features, bits), expected)
    canvases, ranges, _ = expected
    back = reference.untile_dequantize(canvases, ranges, shape, bits)
    assert_equal(untile_dequantize(kernels, canvases, ranges, shape, bits), back)
    for feature, restored in zip(features, back[0], strict=True):
        codes, low, high = quantize(feature, bits)
        np.testing.assert_array_equal(restored, dequantize(codes, low, high, bits))


@pytest.mark.parametrize("threads", [64, 128])
def test_the_number_of_threads_changes_nothing(kernels: Any, threads: int) -> None:
    features = features_of((5, 6, 7))
    assert_equal(quantize_tile(kernels, features, 8, threads=threads), reference.quantize_tile(features, 8))


@pytest.mark.parametrize("value_range", [(0.0, 6.0), (-3.0, 3.0), (0.0, LARGEST), (-LARGEST, LARGEST), (1.0, 1.5)])
def test_a_static_range_moves_what_is_outside(kernels: Any, value_range: tuple[float, float]) -> None:
    features = features_of((4, 5, 6))
    assert_equal(
        quantize_tile(kernels, features, 8, value_range), reference.quantize_tile(features, 8, value_range)
    )


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-0.0],
        [-0.0, 0.0],
        [3.5],
        [LARGEST],
        [-LARGEST, LARGEST],
        [1e-45, 0.0, 2e-45],
        [1e-38, -1e-38, 1e-40],
        [0.5, 1.5, 2.5, 255.0, 0.0],
        [np.nextafter(np.float32(1), np.float32(2)), 1.0],
    ],
    ids=str,
)
def test_hard_values(kernels: Any, values: list[float]) -> None:
    features = np.resize(np.array(values, np.float32), (2, 3, 2, 5))
    for bits in (1, 7, 8):
        expected = reference.quantize_tile(features, bits)
        assert_equal(quantize_tile(kernels, features, bits), expected)
        canvases, ranges, _ = expected
        back = reference.untile_dequantize(canvases, ranges, (3, 2, 5), bits)
        assert_equal(untile_dequantize(kernels, canvases, ranges, (3, 2, 5), bits), back)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 17, 59])
@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
def test_what_is_not_finite_is_flagged_for_its_image_alone(
    kernels: Any, bad: float, position: int, value_range: tuple[float, float] | None
) -> None:
    features = features_of((3, 4, 5))
    features[1].reshape(-1)[position] = bad
    got = quantize_tile(kernels, features, 8, value_range)
    assert got[2].tolist() == [0, reference.NOT_FINITE, 0]
    expected = reference.quantize_tile(features, 8, value_range)
    assert_equal((got[0], got[2]), (expected[0], expected[2]))
    assert_equal((got[1][[0, 2]],), (expected[1][[0, 2]],))


def test_halves_are_rounded_to_even(kernels: Any) -> None:
    features = np.arange(0, 256, 0.5, dtype=np.float32).reshape(1, 1, 16, 32)
    features[0, 0, -1, -1] = 255.0
    canvases, _, _ = quantize_tile(kernels, features, 8)
    np.testing.assert_array_equal(canvases[0], np.rint(features.reshape(-1)).astype(np.uint8))
    assert canvases[0][1:8:2].tolist() == [0, 2, 2, 4]


def test_all_codes_come_back_within_the_range(kernels: Any) -> None:
    for bits in range(1, 9):
        codes = np.arange(1 << bits, dtype=np.uint8)
        for low, high in [(0.0, 1.0), (-1.7, 3.3), (-LARGEST, LARGEST), (2.5, 2.5), (0.1, 0.3)]:
            values = np.empty(codes.size, np.float32)
            floats = (ctypes.c_float(low), ctypes.c_float(high))
            kernels.values_of(pointer(codes), ctypes.c_int64(codes.size), bits, *floats, pointer(values))
            expected = dequantize(codes, float(np.float32(low)), float(np.float32(high)), bits)
            assert values.tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    values=arrays.arrays(
        np.float32, st.integers(1, 400), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    ),
    bits=st.integers(1, 8),
)
def test_any_finite_values(kernels: Any, values: np.ndarray, bits: int) -> None:
    codes, low, high = quantize(values, bits)
    got = np.empty(values.size, np.uint8)
    floats = (ctypes.c_float(low), ctypes.c_float(high))
    kernels.codes_of(pointer(values), ctypes.c_int64(values.size), bits, *floats, pointer(got))
    np.testing.assert_array_equal(got, codes)
    back = np.empty(values.size, np.float32)
    kernels.values_of(pointer(got), ctypes.c_int64(values.size), bits, *floats, pointer(back))
    assert back.tobytes() == dequantize(codes, low, high, bits).tobytes()


def test_a_million_values(kernels: Any) -> None:
    values = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
    codes, low, high = quantize(values, 8)
    got = np.empty(values.size, np.uint8)
    floats = (ctypes.c_float(low), ctypes.c_float(high))
    kernels.codes_of(pointer(values), ctypes.c_int64(values.size), 8, *floats, pointer(got))
    np.testing.assert_array_equal(got, codes)


@pytest.mark.parametrize(
    ("code", "low", "high", "status"),
    [
        (16, 0.0, 1.0, reference.CODE_TOO_LARGE),
        (1, np.nan, 1.0, reference.NOT_FINITE),
        (1, 0.0, np.inf, reference.NOT_FINITE),
        (1, 1.0, 0.0, reference.NOT_FINITE),
        (255, np.nan, 1.0, reference.NOT_FINITE | reference.CODE_TOO_LARGE),
    ],
)
def test_what_no_quantiser_gave_is_flagged(kernels: Any, code: int, low: float, high: float, status: int) -> None:
    canvases = np.full((2, reference.padded_size(3, 4, 5)), 3, np.uint8)
    ranges = np.array([[0, 1], [low, high]], np.float32)
    canvases[1, 2] = code
    got = untile_dequantize(kernels, canvases, ranges, (3, 4, 5), 4)
    assert got[1].tolist() == [0, status]
    assert_equal(got, reference.untile_dequantize(canvases, ranges, (3, 4, 5), 4))
