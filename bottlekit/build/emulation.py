"""Times of a bundle on a machine that is not here, from the layers of its ONNX graphs.

    targets/emulation --points--> fitted_roofline --> Emulation     efficiency, launch, leave-one-out error
    bundle's graphs --layers_from_file--> Layers ------> its time for each phase, origin "emulated"

Nothing runs, so there are no samples, no engine and no golden outputs compared. The codec runs on the machine's
CPU, of which nothing is published: its phases count the bytes they move, like every operator whose cost is unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottlekit.build.layers import layers_from_file, unknown_operators
from bottlekit.device.bench import bench_bundle, profile_from_entries
from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.device.environment import environment
from bottlekit.device.phases import phases_of_bundle
from bottlekit.errors import TargetError, UnknownNameError
from bottlekit.planning.roofline import FittedRoofline, Layer, Peak, Point, fitted_roofline
from bottlekit.targets import loader
from bottlekit.targets.loader import TargetSpec
from bottlekit.targets.published import (
    PublishedNetwork,
    PublishedTimes,
    peak_from_mode,
    published_network,
    published_times,
)

BYTES_PER_ELEMENT = {"fp32": 4, "fp16": 2}


@dataclasses.dataclass(frozen=True)
class Emulation:
    """A machine in one mode and precision, and how well published times are predicted from each other."""

    target: TargetSpec
    mode: str
    precision: str
    peak: Peak
    fitted: FittedRoofline
    published: tuple[PublishedTimes, ...]

    def time_ms(self, layers: Sequence[Layer]) -> float:
        """The emulated time of these kernels for one image, in ms."""
        return self.fitted.roofline.network_ms(layers, self.peak)

    def to_dict(self) -> dict[str, Any]:
        """What a profile tells of it; `leave_one_out` are the errors that belong to every figure."""
        worst = self.fitted.worst
        return {
            "target": self.target.name,
            "mode": self.mode,
            "precision": self.precision,
            "efficiency": self.fitted.roofline.efficiency,
            "launch_ms": self.fitted.roofline.launch_ms,
            "leave_one_out": {
                "points": len(self.fitted.left_out),
                "median_error": self.fitted.median_error,
                "worst_error": abs(worst.error),
                "worst_network": worst.point.network,
            },
            "fitted_at": self.published[0].mode,
            "sources": [times.source for times in self.published],
        }


def emulation_of(target: TargetSpec, mode: str | None = None, precision: str | None = None) -> Emulation:
    """The emulation of a target; without `mode` and `precision` those of the published times it is fitted to.

    In another mode efficiency and launch stay what they are, and the peaks are that mode's. TargetError for a
    target without published times or an unknown mode; UnknownNameError for a precision that nobody timed.
    """
    published = published_times(target.name)
    precisions = [name for name in target.precisions if name in {times.precision for times in published}]
    chosen = precisions[0] if precision is None else precision
    if chosen not in precisions:
        raise UnknownNameError(f"precision with published times for {target.name}", chosen, precisions)
    published = tuple(times for times in published if times.precision == chosen)
    fitted_at = {times.mode for times in published}
    if len(fitted_at) != 1:
        raise TargetError(
            f"the published times of {target.name} are of several modes: {', '.join(sorted(fitted_at))}"
        )
    points = [
        Point(name, kernels(published_network(name), times.compiled), time_ms, times.batch)
        for times in published
        for name, time_ms in times.times_ms.items()
    ]
    fitted = fitted_roofline(points, _peak(peak_from_mode(target, published[0].mode), chosen))
    here = peak_from_mode(target, published[0].mode if mode is None else mode)
    return Emulation(target, here.mode, chosen, _peak(here, chosen), fitted, published)


def kernels(network: PublishedNetwork, compiled: bool) -> tuple[Layer, ...]:
    """The kernels of a published network: as a compiler fuses them, or one for each operator without one."""
    layers = [
        Layer(name, operators, flops, read, written, weights, winograd=winograd)
        for name, operators, flops, read, written, weights, winograd in network.rows
    ]
    if compiled:
        return tuple(layers)
    return tuple(kernel for layer in layers for kernel in _one_by_one(layer, network.batch_norm))


def emulated_profile(
    fleet: Sequence[Bundle], emulation: Emulation, phases: Sequence[str] | None, bottlekit: str, command: str
) -> dict[str, Any]:
    """The profile of a fleet on an emulated machine; `emulated` and `emulation` say that it is one.

    Raises UnknownNameError for a phase that a bundle does not have, BundleError for a graph that cannot be read.
    """
    entries = []
    for bundle in fleet:
        known = phases_of_bundle(bundle)
        for name in phases or []:
            if name not in known:
                raise UnknownNameError("phase", name, known)
        entry = bench_bundle(bundle, {}, phases=[])
        entry["emulated"] = True
        entry["phases"] = {
            name: _part(Path(bundle.onnx_path(name)), emulation)
            if name in PARTS
            else _codec(bundle, name, emulation)
            for name in (known if phases is None else phases)
        }
        entries.append(entry)
    nowhere: dict[str, Any] = dict.fromkeys(environment())
    nowhere["board"] = f"emulated: {emulation.target.title}, {emulation.mode}, {emulation.precision}"
    profile = profile_from_entries(entries, emulation.target.name, nowhere, bottlekit, command)
    return {**profile, "emulated": True, "emulation": emulation.to_dict()}


def _part(path: Path, emulation: Emulation) -> dict[str, Any]:
    layers = layers_from_file(path)
    return _phase(emulation, emulation.time_ms(layers), len(layers), unknown_operators(layers))


def _codec(bundle: Bundle, name: str, emulation: Emulation) -> dict[str, Any]:
    """Float features on one side of the codec, the payload on the other."""
    channels, height, width = bundle.feature_shape
    elements = float(channels * height * width)
    payload = bundle.manifest["payload_bytes"]["mean"] / BYTES_PER_ELEMENT["fp32"]
    layer = Layer(name, name, 0.0, elements, payload, 0.0, known=False)
    peak = dataclasses.replace(emulation.peak, bytes_per_element=BYTES_PER_ELEMENT["fp32"])
    return _phase(emulation, emulation.fitted.roofline.network_ms([layer], peak), 1, (name,), "fp32")


def _phase(
    emulation: Emulation, time_ms: float, count: int, bytes_only: Sequence[str], precision: str | None = None
) -> dict[str, Any]:
    """A phase as profiles have it: one time, no samples, nothing compared."""
    return {
        "origin": "emulated",
        "emulated": True,
        "kind": None,
        "precision": precision or emulation.precision,
        "engine_sha256": None,
        "golden": {"compared": False, "why_not": "emulated: nothing ran"},
        "warm_up": None,
        "kernels": count,
        "bytes_only": list(bytes_only),
        "samples_ms": [],
        "summary": {
            "count": 0,
            "mean_ms": time_ms,
            "min_ms": None,
            "max_ms": None,
            "p50_ms": time_ms,
            "p90_ms": None,
            "p95_ms": None,
            "p99_ms": None,
            "outliers": None,
            "stable": None,
        },
    }


def _peak(peak: loader.Peak, precision: str) -> Peak:
    gflops = peak.fp16_gflops if precision == "fp16" else peak.fp32_gflops
    return Peak(gflops, peak.memory_gbytes_per_s, BYTES_PER_ELEMENT[precision])


def _one_by_one(layer: Layer, batch_norm: bool) -> list[Layer]:
    """A fused layer as the operators it is made of, each reading what the one before wrote."""
    first, *others = layer.operator.split("+")
    second_inputs = layer.written * others.count("Add")
    found = [dataclasses.replace(layer, operator=first, read=layer.read - second_inputs)]
    if batch_norm and first == "Conv":
        others = ["BatchNormalization", *others]
    for operator in others:
        read = layer.written * (2 if operator == "Add" else 1)
        found.append(Layer(f"{layer.name} {operator}", operator, layer.written, read, layer.written, 0.0))
    return found
