import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottlekit.errors import UsageError
from bottlekit.planning.roofline import Layer, Peak, Point, Roofline, fitted_roofline

PEAK = Peak(gflops=1000.0, gbytes_per_s=50.0, bytes_per_element=2)


def layer(flops: float, elements: float = 0.0, **more: object) -> Layer:
    return dataclasses.replace(Layer("a", "Conv", flops, elements, 0.0, 0.0), **more)


def networks(seed: int, count: int = 6) -> list[tuple[Layer, ...]]:
    """Networks of 5 to 60 layers, some bound by arithmetic and some by memory."""
    chance = random.Random(seed)
    return [
        tuple(layer(10 ** chance.uniform(5, 9), 10 ** chance.uniform(3, 7)) for _ in range(chance.randint(5, 60)))
        for _ in range(count)
    ]


def points_of(roofline: Roofline, seed: int = 0, noise: float = 0.0) -> list[Point]:
    chance = random.Random(seed + 1)
    return [
        Point(f"n{i}", layers, roofline.network_ms(layers, PEAK) * (1 + chance.uniform(-noise, noise)))
        for i, layers in enumerate(networks(seed))
    ]


def test_a_layer_takes_the_larger_of_its_bounds_and_its_launch() -> None:
    roofline = Roofline(efficiency=0.5, launch_ms=0.25)
    # 1e9 FLOP at half of 1000 GFLOP/s: 2 ms. 5e7 elements of 2 bytes at half of 50 GB/s: 4 ms.
    assert roofline.network_ms([layer(1e9)], PEAK) == pytest.approx(2.25, rel=1e-12)
    assert roofline.network_ms([layer(1e9, 5e7)], PEAK) == pytest.approx(4.25, rel=1e-12)
    assert roofline.network_ms([layer(1e9, 5e7), layer(1e9)], PEAK) == pytest.approx(6.5, rel=1e-12)


def test_weights_pass_the_memory_once_for_a_whole_batch() -> None:
    one = Layer("a", "Conv", 0.0, 3e6, 2e6, 1e6)
    assert PEAK.memory_ms(one, 4) - PEAK.memory_ms(one, 1) == pytest.approx(3 * 5e6 * 2 / 50e6, rel=1e-12)
    assert PEAK.compute_ms(layer(1e9), 4) == pytest.approx(4 * PEAK.compute_ms(layer(1e9)), rel=1e-12)


def test_winograd_does_16_of_36_multiplications() -> None:
    assert PEAK.compute_ms(layer(36e6, winograd=True)) == pytest.approx(PEAK.compute_ms(layer(16e6)), rel=1e-12)


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_a_machine_that_is_a_roofline_is_recovered(efficiency: float, launch_ms: float, seed: int) -> None:
    fitted = fitted_roofline(points_of(Roofline(efficiency, launch_ms), seed), PEAK)
    assert fitted.roofline.efficiency == pytest.approx(efficiency, rel=1e-4)
    assert fitted.roofline.launch_ms == pytest.approx(launch_ms, abs=1e-4)
    assert abs(fitted.worst.error) < 1e-3


def test_no_other_efficiency_and_launch_are_nearer_to_the_points() -> None:
    points = points_of(Roofline(0.4, 0.05), noise=0.1)
    best = fitted_roofline(points, PEAK).roofline

    def cost(roofline: Roofline) -> float:
        return sum((roofline.network_ms(p.layers, PEAK) / p.measured_ms - 1) ** 2 for p in points)

    for efficiency in (0.999, 1.001):
        for launch in (0.999, 1.001):
            assert cost(best) < cost(Roofline(best.efficiency * efficiency, best.launch_ms * launch))


def test_a_point_is_predicted_by_a_fit_that_has_not_seen_it() -> None:
    points = points_of(Roofline(0.4, 0.05))
    points[2] = dataclasses.replace(points[2], measured_ms=3 * points[2].measured_ms)
    fitted = fitted_roofline(points, PEAK)
    assert fitted.worst.point is points[2]
    assert fitted.worst.error == pytest.approx(-2 / 3, rel=1e-6)
    assert [prediction.point for prediction in fitted.left_out] == points
    # The one that is wrong spoils the predictions of the others, and that shows.
    assert fitted.median_error > 0.01


def test_a_launch_is_never_less_than_nothing() -> None:
    # Time grows faster than the work: a line through it would start below zero.
    layers = [(layer(1e8 * n),) * 3 for n in (1, 2, 4, 8)]
    points = [Point(str(i), one, sum(x.flops for x in one) ** 2 / 1e16) for i, one in enumerate(layers)]
    roofline = fitted_roofline(points, PEAK).roofline
    assert roofline.launch_ms == 0.0
    assert roofline.efficiency > 0.0


def test_two_points_are_too_few_to_leave_one_out() -> None:
    with pytest.raises(UsageError, match="at least 3 published times, not 2"):
        fitted_roofline(points_of(Roofline(0.5, 0.1))[:2], PEAK)


def test_layers_that_do_nothing_fit_no_roofline() -> None:
    points = [Point("n", (layer(0.0),), 1.0)] * 3
    with pytest.raises(UsageError, match="their layers do nothing"):
        fitted_roofline(points, PEAK)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_an_impossible_layer_is_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="the flops of the layer a must be 0 or more"):
        layer(bad)
