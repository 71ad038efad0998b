"""What the comparison with sc2bench computes here: times of phases, and the bytes of codes in several coders."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def gap(benchmark_module: Callable[[str], ModuleType]) -> Any:
    return benchmark_module("sc2bench_gap")


@pytest.fixture(scope="module")
def times(benchmark_module: Callable[[str], ModuleType]) -> Any:
    return benchmark_module("phase_times")


def test_every_phase_takes_what_the_one_before_gave(times: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    ticks = itertools.count()
    monkeypatch.setattr(times.time, "perf_counter", lambda: float(next(ticks)))

    def phase(name: str, add: int) -> Any:
        return lambda value: seen.append((name, value)) or value + add

    samples = times.phases_in_turns({"head": phase("head", 10), "encode": phase("encode", 100)}, [1, 2], warm_ups=1)
    assert samples == {"head": [1000.0, 1000.0], "encode": [1000.0, 1000.0]}
    # The warm-up takes the inputs that come last.
    assert seen == [("head", 2), ("encode", 12), ("head", 1), ("encode", 11), ("head", 2), ("encode", 12)]


def test_codes_that_their_neighbours_tell_are_shorter_after_them_than_after_one_table(gap: Any) -> None:
    random = np.random.default_rng(0)
    # Each image is one value, and no value is likelier than another: 16 images of 64 codes, 2 bits each by a table.
    flat = np.broadcast_to(random.permutation(np.arange(400) % 4)[:, None, None, None], (400, 1, 8, 8))
    found = gap.bytes_of_codes(flat[:200] - 100, flat[200:] - 100)
    assert found["values"] == 4
    assert found["table_bytes"] == pytest.approx(16, rel=0.02)
    assert found["learned_bytes"] < 4


def test_codes_without_neighbours_to_go_by_take_what_one_table_says(gap: Any) -> None:
    random = np.random.default_rng(0)
    noise = random.choice(3, size=(600, 2, 10, 10), p=[0.9, 0.05, 0.05])
    found = gap.bytes_of_codes(noise[:300], noise[300:])
    entropy_bits = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.05))
    assert found["table_bytes"] == pytest.approx(200 * entropy_bits / 8, rel=0.02)
    assert found["learned_bytes"] == pytest.approx(found["table_bytes"] + 1, abs=1)


def test_more_values_than_the_codec_takes_are_refused(gap: Any) -> None:
    codes = np.arange(257).reshape(1, 1, 1, 257)
    with pytest.raises(ValueError, match="257 values, and the codec `learned` takes up to 256"):
        gap.bytes_of_codes(codes, codes)


def test_a_value_that_only_held_out_images_have_is_coded(gap: Any) -> None:
    known, new = np.zeros((20, 1, 4, 4), np.int16), np.full((2, 1, 4, 4), -3, np.int16)
    found = gap.bytes_of_codes(known, new)
    assert found["values"] == 1
    assert found["table_bytes"] > 10
