"""How long a network would take on a machine that is not here: a roofline for each layer, summed up.

    time of a layer = max(FLOP / (efficiency * peak), bytes / (efficiency * bandwidth)) + launch
                        (Williams et al. 2009, and what starting a kernel costs)

    published times + layers of those networks + peaks --fit--> Roofline --leave one out--> how far to trust it

Efficiency and launch are fitted to published times so that the squared relative errors are least; each point is
then predicted by a fit that has not seen it. That error belongs to every number that comes from here.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from math import isfinite

from bottlekit.errors import UsageError

WINOGRAD_SAVING = 36 / 16
"""cuDNN and TensorRT compute a 3 x 3 convolution of stride 1 in tiles of 2 x 2 with 16 multiplications instead of
36 (Lavin and Gray 2016, F(2x2, 3x3)). Without that, VGG-16 would run above the peak of the GTX 1080 Ti.
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One kernel, for one image.

    `flops` are floating-point operations (two a multiply-accumulate) as the definition of the layer has them;
    `read`, `written` and `weights` are numbers of elements that pass the memory once. `known` is False where nobody
    knows the operations and only the elements count. `winograd`: a convolution with that cheaper algorithm.
    """

    name: str
    operator: str
    flops: float
    read: float
    written: float
    weights: float
    known: bool = True
    winograd: bool = False

    def __post_init__(self) -> None:
        for field in ("flops", "read", "written", "weights"):
            value = getattr(self, field)
            if not (isfinite(value) and value >= 0):
                raise UsageError(f"the {field} of the layer {self.name} must be 0 or more, not {value}")


@dataclasses.dataclass(frozen=True)
class Peak:
    """What a machine can do at best in one precision, `bytes_per_element` of which are moved."""

    gflops: float
    gbytes_per_s: float
    bytes_per_element: int

    def compute_ms(self, layer: Layer, batch: int = 1) -> float:
        """The time that the arithmetic takes at full rate."""
        flops = layer.flops / WINOGRAD_SAVING if layer.winograd else layer.flops
        return batch * flops / (self.gflops * 1e6)

    def memory_ms(self, layer: Layer, batch: int = 1) -> float:
        """The time that the memory takes at full rate; the weights pass it once for all images of a batch."""
        elements = batch * (layer.read + layer.written) + layer.weights
        return elements * self.bytes_per_element / (self.gbytes_per_s * 1e6)

    def bound_ms(self, layers: Sequence[Layer], batch: int = 1) -> float:
        """The shortest time the layers could take here: each the larger of its two bounds."""
        return sum(max(self.compute_ms(layer, batch), self.memory_ms(layer, batch)) for layer in layers)


@dataclasses.dataclass(frozen=True)
class Point:
    """A published time: `measured_ms` for the kernels of a network at `batch` images."""

    network: str
    layers: tuple[Layer, ...]
    measured_ms: float
    batch: int = 1


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What is known of a machine beside its peaks: the fraction of them that it reaches, what a launch costs."""

    efficiency: float
    launch_ms: float

    def network_ms(self, layers: Sequence[Layer], peak: Peak, batch: int = 1) -> float:
        """The time in ms of all kernels, one after the other."""
        return peak.bound_ms(layers, batch) / self.efficiency + len(layers) * self.launch_ms


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A published point, and what a fit to all the others says of it."""

    point: Point
    predicted_ms: float

    @property
    def error(self) -> float:
        """Predicted against published, as a fraction of the published time."""
        return self.predicted_ms / self.point.measured_ms - 1.0


@dataclasses.dataclass(frozen=True)
class FittedRoofline:
    """A roofline, and each point it was fitted to predicted from the others."""

    roofline: Roofline
    left_out: tuple[Prediction, ...]

    @property
    def median_error(self) -> float:
        """The median size of the leave-one-out errors, as a fraction."""
        return statistics.median(abs(prediction.error) for prediction in self.left_out)

    @property
    def worst(self) -> Prediction:
        """The point that the others predict worst."""
        return max(self.left_out, key=lambda prediction: abs(prediction.error))


def fitted_roofline(points: Sequence[Point], peak: Peak) -> FittedRoofline:
    """The roofline with the least squared relative errors at `points`, and its leave-one-out errors.

    Raises UsageError for fewer than three points: two numbers are fitted, and one point is left out at a time.
    """
    if len(points) < 3:
        raise UsageError(f"a roofline has two unknowns and needs at least 3 published times, not {len(points)}")
    left_out = []
    for index, point in enumerate(points):
        others = _fit([*points[:index], *points[index + 1 :]], peak)
        left_out.append(Prediction(point, others.network_ms(point.layers, peak, point.batch)))
    return FittedRoofline(_fit(points, peak), tuple(left_out))


def _fit(points: Sequence[Point], peak: Peak) -> Roofline:
    """Least squares of (bound / efficiency + kernels * launch) / published - 1; no launch is below nothing."""
    bounds = [peak.bound_ms(point.layers, point.batch) / point.measured_ms for point in points]
    kernels = [len(point.layers) / point.measured_ms for point in points]
    bb = sum(b * b for b in bounds)
    kk = sum(k * k for k in kernels)
    bk = sum(b * k for b, k in zip(bounds, kernels, strict=True))
    determinant = bb * kk - bk * bk
    if determinant > 1e-12 * bb * kk:
        slope = (sum(bounds) * kk - sum(kernels) * bk) / determinant
        launch_ms = (sum(kernels) * bb - sum(bounds) * bk) / determinant
        if slope > 0.0 and launch_ms >= 0.0:
            return Roofline(1.0 / slope, launch_ms)
    if not bb > 0.0:
        raise UsageError("no roofline fits the published times: their layers do nothing")
    return Roofline(bb / sum(bounds), 0.0)
