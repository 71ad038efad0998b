"""Running ONNX files with ONNX Runtime on the CPU, and making engines of them: 1.10 (Python 3.6) and later.

An engine is the graph after ONNX Runtime's basic optimisations (constants folded, batch norms merged into
convolutions, dead nodes removed), so that it holds standard ONNX operators, which every tool can read. The
extended ones write operators of ONNX Runtime's own, and the layout ones operators for the vector width of the
processor that built. Leaving them out costs nothing: every session applies them when it loads the engine.
"""

import os
import platform
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .errors import EngineError, TargetError, UsageError
from .runner import Runner, TensorInfo

# ONNX Runtime's names of element types, for those a classifier's graphs can have at their edges.
_DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}

GRAPH_LEVEL = "basic"

# Below this everything ONNX Runtime prints itself: failures arrive as exceptions and are told once.
_FATAL = 4


def import_onnxruntime() -> Any:
    """The onnxruntime module; TargetError with what to type where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise TargetError(
            "ONNX Runtime is needed to run on the CPU, and cannot be imported ({}); "
            "type: pip install onnxruntime".format(error)
        )
    # Its remarks about absent GPUs are nothing a user of the CPU provider can act on.
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def check_threads(threads: Optional[int]) -> None:
    """UsageError for fewer threads than one."""
    if threads is not None and threads < 1:
        raise UsageError("--threads must be at least 1, not {}".format(threads))


def session_options(threads: Optional[int] = None, spin: bool = True) -> Any:
    """Options for a session that runs one operator after the other on `threads` threads (None: all cores)."""
    check_threads(threads)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if spin:
        # From ONNX Runtime 1.12; older ones go on spinning for a while after a run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxRuntimeRunner(Runner):
    """An ONNX file on ONNX Runtime's CPU provider.

    `threads` for one operator: None takes all cores. With `spin`, idle threads wait busily for the next operator
    while a graph runs, never between runs. That is fastest alone, and unfair to other processes on the same cores:
    two graphs at once then take twice as long as they need. With `exact`, nothing is optimised that depends on what
    else is in the graph: memory layouts for the processor, which other sums come of.
    Several threads may call `run` at once.
    """

    def __init__(self, path: str, threads: Optional[int] = None, spin: bool = True, exact: bool = False) -> None:
        super().__init__(os.fspath(path))
        self.path = os.fspath(path)
        self.threads = threads
        self.spin = spin
        self.exact = exact
        self._session: Any = None

    def _activate(self) -> Tuple[List[TensorInfo], List[TensorInfo]]:
        if not os.path.isfile(self.path):
            raise EngineError("no engine at {}: the file does not exist".format(self.path))
        options = session_options(self.threads, self.spin)
        if self.exact:
            options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session = session_from_onnx(self.path, options)
        inputs = [_tensor_info(self.path, node) for node in session.get_inputs()]
        outputs = [_tensor_info(self.path, node) for node in session.get_outputs()]
        self._session = session
        return inputs, outputs

    def _deactivate(self) -> None:
        self._session = None

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        names = [info.name for info in self._outputs]
        try:
            return dict(zip(names, self._session.run(names, feeds)))
        except Exception as error:
            raise EngineError("{} failed to run: {}".format(self.path, one_line(error)))


def session_from_onnx(path: str, options: Any) -> Any:
    """An InferenceSession on the CPU; EngineError in one line when the file is no graph it can run."""
    onnxruntime = import_onnxruntime()
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own.
        raise EngineError("ONNX Runtime cannot load {}: {}".format(path, one_line(error)))


def optimise_onnx(onnx_path: str, path: str) -> None:
    """Write ONNX Runtime's optimised form of a graph to `path`; EngineError when it refuses the graph."""
    options = session_options()
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = os.fspath(path)
    session_from_onnx(os.fspath(onnx_path), options)


def onnxruntime_key(version: Optional[str] = None, cpu_arch: Optional[str] = None) -> Dict[str, Any]:
    """What of a machine decides an engine for ONNX Runtime; without arguments, of this one.

    ONNX Runtime stamps its file with all the operator sets it knows, and an older one refuses newer sets: so its
    version counts.
    """
    return {
        "compiler": "onnxruntime",
        "compiler_version": version or import_onnxruntime().__version__,
        "graph_level": GRAPH_LEVEL,
        "cpu_arch": cpu_arch or platform.machine(),
    }


def one_line(error: BaseException) -> str:
    """An exception's words on one line, without ONNX Runtime's prefix."""
    text = " ".join(str(error).split())
    return text.replace("[ONNXRuntimeError] : ", "") or type(error).__name__


def _tensor_info(path: str, node: Any) -> TensorInfo:
    if node.type not in _DTYPES:
        raise EngineError("{}: '{}' is a {}, which bottlekit cannot feed".format(path, node.name, node.type))
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return TensorInfo(node.name, shape, _DTYPES[node.type])
