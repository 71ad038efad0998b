"""Bytes at equal accuracy: fronts, what lies between their points, and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def curves(benchmark_module: Any) -> Any:
    return benchmark_module("bytes_curves")


POINTS = st.lists(st.tuples(st.integers(1, 1000).map(float), st.integers(0, 100).map(lambda n: n / 100)))


def test_a_front_has_only_what_nothing_beats(curves: Any) -> None:
    points = [(40.0, 0.9), (20.0, 0.95), (10.0, 0.5), (10.0, 0.6), (80.0, 0.95), (90.0, 0.97)]
    assert curves.front(points) == [(10.0, 0.6), (20.0, 0.95), (90.0, 0.97)]


def test_between_two_points_the_logarithm_is_straight(curves: Any) -> None:
    of_front = [(10.0, 0.5), (40.0, 0.7), (50.0, 0.9)]
    assert curves.bytes_at(of_front, 0.6) == pytest.approx(20.0)
    assert curves.bytes_at(of_front, 0.7) == pytest.approx(40.0)
    assert curves.bytes_at(of_front, 0.9) == pytest.approx(50.0)


def test_outside_a_front(curves: Any) -> None:
    of_front = [(10.0, 0.5), (40.0, 0.7)]
    assert curves.bytes_at(of_front, 0.2) == 10.0
    assert curves.bytes_at(of_front, 0.71) is None
    assert curves.bytes_at([], 0.2) is None


@given(POINTS, st.integers(0, 100).map(lambda n: n / 100))
def test_no_point_is_as_accurate_with_fewer_bytes(curves: Any, points: list[Any], accuracy: float) -> None:
    found = curves.bytes_at(curves.front(points), accuracy)
    enough = [size for size, of_point in points if of_point >= accuracy]
    if not enough:
        assert found is None
    else:
        assert found is not None
        assert min(size for size, _ in points) <= found * (1 + 1e-9)
        assert found <= min(enough) * (1 + 1e-9)


def setting(curves: Any, sizes: list[list[float]], right: list[list[int]]) -> Any:
    return curves.Setting(np.array(sizes, dtype=float), np.array(right, dtype=float))


def test_a_method_against_itself_is_its_equal(curves: Any) -> None:
    one = setting(curves, [[10, 12, 14, 16]], [[1, 1, 0, 1]])
    found = curves.ratio_at([one], [one], 0.5)
    assert (found["ours_bytes"], found["theirs_bytes"]) == (13.0, 13.0)
    assert (found["ratio"], found["low"], found["high"]) == (1.0, 1.0, 1.0)


def test_half_the_bytes_for_every_image_is_a_half_however_they_are_drawn(curves: Any) -> None:
    right = [[1, 0, 1, 1], [1, 1, 1, 0]]
    left = setting(curves, [[10, 20, 30, 40]] * 2, right)
    other = setting(curves, [[20, 40, 60, 80]] * 2, right)
    found = curves.ratio_at([left], [other], 0.1)
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((0.5, 0.5, 0.5))


def test_an_accuracy_that_one_does_not_reach_has_no_ratio(curves: Any) -> None:
    good = setting(curves, [[10, 10]], [[1, 1]])
    bad = setting(curves, [[5, 5]], [[0, 0]])
    found = curves.ratio_at([good], [bad], 0.9)
    assert found["ours_bytes"] == 10.0
    assert found["theirs_bytes"] is None
    assert (found["ratio"], found["low"], found["high"], found["reached"]) == (None, None, None, 0.0)


def with_accuracies(curves: Any, *right_of_ten: int) -> list[Any]:
    return [setting(curves, [[10 * r] * 10], [[1] * r + [0] * (10 - r)]) for r in right_of_ten]


def test_accuracies_of_both(curves: Any) -> None:
    shared = curves.shared_accuracies(with_accuracies(curves, 2, 8), with_accuracies(curves, 4, 9), 3)
    assert shared == pytest.approx([0.4, 0.6, 0.8])


def test_of_methods_apart_the_best_of_the_worse_is_shared(curves: Any) -> None:
    assert curves.shared_accuracies(with_accuracies(curves, 6, 9), with_accuracies(curves, 1, 3)) == [0.3]


def test_few_images_leave_a_ratio_open(curves: Any) -> None:
    dice = np.random.default_rng(1)
    sizes = dice.uniform(5, 50, (2, 1, 12))
    ours, theirs = (setting(curves, some.tolist(), [[1] * 12]) for some in sizes)
    found = curves.ratio_at([ours], [theirs], 0.5)
    assert found["low"] < found["ratio"] < found["high"]
    assert found["reached"] == 1.0


def test_sizes_and_answers_must_fit(curves: Any) -> None:
    with pytest.raises(ValueError, match=r"\(seeds, images\)"):
        curves.Setting(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"\(seeds, images\)"):
        curves.Setting(np.zeros(3), np.zeros(3))
