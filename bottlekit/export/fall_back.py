"""Which layers of a graph must stay FP32, so that the rest can be FP16.

::

    1. weights beyond FP16's range                                       always stay
    2. tensors that FP16 cannot hold (too large, nearly all lost):       stay, if the outputs need it
       the node that makes them, those that read them
    3. the nodes that FP16 harms most, and those they read from:         1, 2, 4, ... until the outputs hold
    4. what turns out not to be needed goes back to FP16, in halves

"The outputs hold" is `compare_lowered`: FP16 is simulated on the bundle's golden inputs, and the outputs are
compared with those of the FP32 graph. The same graph and inputs give the same layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from bottlekit.errors import EngineError
from bottlekit.export.equivalence import Comparison
from bottlekit.export.lowering import constants_of, fits_fp16, fp16_model, fp16_values, layer_name, layers_of
from bottlekit.export.rounding import Tensors, compare_lowered, simulated_model
from bottlekit.export.sessions import Array, function_from_model

# Rounding to FP16 changes a tensor by 2e-4 of its norm. Where it changes it by this much, most of it is lost.
LOST = 1e-2
# Comparisons spent on giving layers back to FP16.
MOST_RETURNS = 40


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A graph typed FP16 (`model`) whose `fp32_layers` (names of nodes, in order) stay FP32.

    `layers` is how many could have been FP16; where all of them are kept, `model` is the FP32 graph itself.
    """

    model: onnx.ModelProto
    fp32_layers: tuple[str, ...]
    layers: int
    comparison: Comparison

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for the sidecar."""
        return {**self.comparison.to_dict(), "fp32_layers": list(self.fp32_layers), "layers": self.layers}


def fp32_layers_for(
    path: Path | str, inputs: Array, batch: int | None = None, bits: int | None = None
) -> tuple[str, ...]:
    """The layers of the graph in `path` that must stay FP32, for a compiler that is told so by name.

    Arguments and errors as of `lowered_model`.
    """
    return lowered_model(onnx.load(str(path)), inputs, batch, Path(path).name, bits).fp32_layers


def lowered_model(
    model: onnx.ModelProto, inputs: Array, batch: int | None, what: str, bits: int | None = None
) -> Lowered:
    """Type an FP32 `model` FP16 as far as its outputs for `inputs` (n, ...) allow.

    `what` names it in the comparison; `batch` as in `graph_from_file`; `bits` of the quantiser behind it, where
    there is one (a head's). EngineError if the FP32 graph itself gives NaN or infinity, or cannot be typed.
    """
    reference = function_from_model(model, batch)(inputs)
    if not np.isfinite(reference).all():
        raise EngineError(f"{what} gives NaN or infinity for its golden inputs in FP32 already; train it again")

    def compare(typed: onnx.ModelProto) -> Comparison:
        return compare_lowered(f"{what} in FP16", reference, typed, inputs, batch, bits)

    search = _Search(model, inputs, compare)
    kept = search.kept()
    return Lowered(
        search.typed(kept),
        tuple(name for name in search.layers if name in kept),
        len(search.layers),
        search.comparison(kept),
    )


class _Search:
    """One search: a graph, inputs, and how an FP16-typed graph is judged; each set of layers is judged once."""

    def __init__(
        self, model: onnx.ModelProto, inputs: Array, compare: Callable[[onnx.ModelProto], Comparison]
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._compare = compare
        self.layers = layers_of(model)
        self._compared: dict[frozenset[str], Comparison] = {}
        self._nodes = {layer_name(node): node for node in model.graph.node}
        self._maker = {name: layer for layer, node in self._nodes.items() for name in node.output}

    def kept(self) -> frozenset[str]:
        """The layers to keep in FP32."""
        needed = frozenset(self._with_weights_too_large())
        if self._passes(needed):
            return needed
        kept = needed | self._around_lost_tensors()
        if not self._passes(kept):
            kept = self._with_the_worst(kept)
        return self._without_the_idle(kept, needed)

    def typed(self, kept: Collection[str]) -> onnx.ModelProto:
        """The graph with these layers in FP32."""
        return self._model if len(kept) == len(self.layers) else fp16_model(self._model, kept)

    def comparison(self, kept: frozenset[str]) -> Comparison:
        """How the graph with these layers in FP32 compares."""
        if kept not in self._compared:
            self._compared[kept] = self._compare(self.typed(kept))
        return self._compared[kept]

    def _passes(self, kept: frozenset[str]) -> bool:
        return self.comparison(kept).passed

    def _with_weights_too_large(self) -> Iterator[str]:
        weights = _weights(self._model)
        for layer in self.layers:
            if not all(fits_fp16(weights[name]) for name in self._nodes[layer].input if name in weights):
                yield layer

    def _around_lost_tensors(self) -> set[str]:
        """The layers that make or read a tensor, or have a weight, of which FP16 keeps too little."""
        lost = {name for name, values in _weights(self._model).items() if _is_lost(*_loss(values))}
        tensors = Tensors(self._model)
        losses: dict[str, tuple[float, float]] = {}
        for sample in self._samples():
            for name, values in tensors.of(sample).items():
                error, size = _loss(values)
                before = losses.get(name, (0.0, 0.0))
                losses[name] = (before[0] + error, before[1] + size)
        lost |= {name for name, loss in losses.items() if _is_lost(*loss)}
        return {layer for layer in self.layers if lost & {*self._nodes[layer].input, *self._nodes[layer].output}}

    def _with_the_worst(self, kept: frozenset[str]) -> frozenset[str]:
        """`kept` and as many of the layers that FP16 harms most, with those they read from, as it takes."""
        worst = self._by_harm(kept)
        count = 1
        while count < len(worst):
            grown = kept | {name for layer in worst[:count] for name in (layer, *self._read_by(layer))}
            if self._passes(grown):
                return grown
            count *= 2
        return frozenset(self.layers)

    def _by_harm(self, kept: frozenset[str]) -> list[str]:
        """The layers that are not kept, those first whose output FP16 changes most beyond what comes in.

        Changes are means over all samples in units of the largest value of the FP32 tensor.
        """
        exact = Tensors(self._model)
        rounded = Tensors(simulated_model(self.typed(kept)), only=exact.names)
        changes: dict[str, float] = {}
        for sample in self._samples():
            right, ours = exact.of(sample), rounded.of(sample)
            for name in right.keys() & ours.keys():
                with np.errstate(invalid="ignore"):
                    change = np.abs(ours[name] - right[name]).mean() / (np.abs(right[name]).max() or 1.0)
                changes[name] = changes.get(name, 0.0) + (float(change) if np.isfinite(change) else np.inf)

        def harm(layer: str) -> float:
            node = self._nodes[layer]
            out = max((changes.get(name, 0.0) for name in node.output), default=0.0)
            into = max((changes.get(name, 0.0) for name in node.input), default=0.0)
            return 0.0 if np.isinf(into) else out - into

        # Stable: layers of equal harm stay in the graph's order.
        return sorted((layer for layer in self.layers if layer not in kept), key=lambda layer: -harm(layer))

    def _without_the_idle(self, kept: frozenset[str], needed: frozenset[str]) -> frozenset[str]:
        """`kept` less what can be FP16 after all: tried in halves, quarters, ... down to single layers."""
        returns = 0
        free = [layer for layer in self.layers if layer in kept - needed]
        size = max(1, len(free) // 2)
        while free and returns < MOST_RETURNS:
            for start in range(0, len(free), size)[::-1]:
                fewer = free[:start] + free[start + size :]
                returns += 1
                if returns <= MOST_RETURNS and self._passes(needed.union(fewer)):
                    free = fewer
            if size == 1:
                break
            size //= 2
        return needed.union(free)

    def _read_by(self, layer: str) -> Iterator[str]:
        """The layers whose outputs a layer reads."""
        for name in self._nodes[layer].input:
            maker = self._maker.get(name)
            if maker in self.layers:
                yield maker

    def _samples(self) -> Iterator[Array]:
        for place in range(len(self._inputs)):
            yield self._inputs[place : place + 1]


def _weights(model: onnx.ModelProto) -> dict[str, Array]:
    """The FP32 constants of a graph."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in constants_of(model)
        if tensor.data_type == TensorProto.FLOAT
    }


def _loss(values: Array) -> tuple[float, float]:
    """The squared norms of what FP16 loses of `values`, and of `values`."""
    exact = values.astype(np.float64)
    if not fits_fp16(values):
        return np.inf, 1.0
    return float(np.square(fp16_values(values) - exact).sum()), float(np.square(exact).sum())


def _is_lost(error: float, size: float) -> bool:
    return error > LOST**2 * size
