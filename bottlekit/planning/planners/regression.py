"""Neurosurgeon's prediction (Kang et al. 2017, section 4.2): the time of a layer from its kind and its size.

samples of one machine -> one linear model for each kind of layer -> times of layers that were never measured
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.planning.energy import not_negative


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What is known of a layer without running it: its kind (such as an ONNX operator) and sizes.

    `macs`: multiply-accumulates; `input_elements`, `output_elements`: numbers read and written.
    """

    kind: str
    macs: float
    input_elements: float
    output_elements: float

    def features(self) -> tuple[float, ...]:
        """(4,): what a model is linear in."""
        return (1.0, self.macs, self.input_elements, self.output_elements)


@dataclasses.dataclass(frozen=True)
class LayerRegression:
    """A linear model of each kind of layer. `errors`: root mean square of what it misses its samples by, in ms."""

    coefficients: Mapping[str, npt.NDArray[np.float64]]
    errors: Mapping[str, float]

    @classmethod
    def fitted(cls, samples: Iterable[tuple[LayerShape, float]]) -> LayerRegression:
        """By least squares from (layer, measured ms). Features are scaled, so that MACs do not drown the rest."""
        by_kind: dict[str, list[tuple[tuple[float, ...], float]]] = {}
        for shape, ms in samples:
            not_negative(ms, f"the time of a layer {shape.kind}")
            by_kind.setdefault(shape.kind, []).append((shape.features(), ms))
        if not by_kind:
            raise UsageError("there is no measured layer to fit a regression to")
        coefficients, errors = {}, {}
        for kind, rows in by_kind.items():
            features = np.array([one for one, _ in rows])
            times = np.array([ms for _, ms in rows])
            scale = np.maximum(np.abs(features).max(axis=0), 1.0)
            solution = np.linalg.lstsq(features / scale, times, rcond=None)[0] / scale
            coefficients[kind] = solution
            errors[kind] = float(np.sqrt(np.mean((features @ solution - times) ** 2)))
        return cls(coefficients, errors)

    def predicted_ms(self, layers: Sequence[LayerShape]) -> list[float]:
        """The time of each layer, at least 0. UnknownNameError for a kind that was never measured."""
        times = []
        for layer in layers:
            if layer.kind not in self.coefficients:
                raise UnknownNameError("measured kind of layer", layer.kind, sorted(self.coefficients))
            times.append(max(0.0, float(np.dot(layer.features(), self.coefficients[layer.kind]))))
        return times
