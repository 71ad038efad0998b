"""ONNX files as plain functions from (n, ...) to (n, ...), whatever batch size they were exported with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bottlekit.device.ort_runner import OnnxRuntimeRunner, import_onnxruntime, one_line, session_options
from bottlekit.device.runner import Runner, TensorInfo
from bottlekit.errors import EngineError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[np.float32]
Function = Callable[[Array], Array]


@contextlib.contextmanager
def graph_from_file(path: Path, batch: int | None, threads: int | None = None) -> Iterator[Function]:
    """The one-input, one-output FP32 graph in `path` on ONNX Runtime, fed `batch` samples at a time.

    `batch` None takes all samples at once, which a graph with a dynamic batch dimension allows.
    """
    # Spinning threads would take the cores from torch, which computes the other side.
    with OnnxRuntimeRunner(str(path), threads=threads, spin=False) as runner:
        input_name = runner.inputs[0].name
        output_name = runner.outputs[0].name

        def run(samples: Array) -> Array:
            output: Array = runner.run({input_name: samples})[output_name]
            return output

        yield run if batch is None else in_batches(run, batch)


def session_from_model(model: onnx.ModelProto, optimised: bool = True) -> Any:
    """An ONNX Runtime session of a graph in memory; without optimisations every node runs as it is written.

    EngineError in one line if ONNX Runtime cannot load it.
    """
    onnxruntime = import_onnxruntime()
    options = session_options(spin=False)
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own.
        raise EngineError(f"ONNX Runtime cannot load the graph '{model.graph.name}': {one_line(error)}") from error


def function_from_model(model: onnx.ModelProto, batch: int | None, optimised: bool = True) -> Function:
    """A one-input, one-output graph in memory as a function; `batch` as in `graph_from_file`."""
    session = session_from_model(model, optimised)
    name = session.get_inputs()[0].name

    def run(samples: Array) -> Array:
        output: Array = session.run(None, {name: samples})[0]
        return output

    return run if batch is None else in_batches(run, batch)


class ModelRunner(Runner):
    """A graph in memory on ONNX Runtime without optimisations: every node runs as it is written."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(f"the graph '{model.graph.name}'")
        self._model = model
        self._session: Any = None

    def _activate(self) -> tuple[list[TensorInfo], list[TensorInfo]]:
        self._session = session_from_model(self._model, optimised=False)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return [_float_tensor(node) for node in inputs], [_float_tensor(node) for node in outputs]

    def _deactivate(self) -> None:
        self._session = None

    def _infer(self, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip([info.name for info in self._outputs], self._session.run(None, feeds), strict=True))


def _float_tensor(node: Any) -> TensorInfo:
    """An FP32 input or output of a session; sizes with a name are free."""
    return TensorInfo(node.name, tuple(size if isinstance(size, int) else None for size in node.shape), np.float32)


def in_batches(function: Function, batch: int) -> Function:
    """`function` fed exactly `batch` samples at a time; the last batch is filled up with copies and cut off."""

    def run(samples: Array) -> Array:
        outputs = []
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            missing = batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            outputs.append(function(np.ascontiguousarray(filled))[: len(part)])
        return np.concatenate(outputs)

    return run
