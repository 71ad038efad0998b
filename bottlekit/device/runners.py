"""The runner that fits an engine.

::

    Engine --runner_from_engine--> Runner --with--> run({"image": array}) -> {"feature": array}
"""

from typing import Optional

from .engine import Engine
from .ort_runner import OnnxRuntimeRunner
from .runner import Runner, TensorInfo, check_feeds, shape_text
from .trt_runner import TensorRTRunner

__all__ = ["Runner", "TensorInfo", "check_feeds", "runner_from_engine", "shape_text"]


def runner_from_engine(engine: Engine, threads: Optional[int] = None, spin: bool = True) -> Runner:
    """The runner for an engine's kind; nothing is loaded before `with`.

    `threads` and `spin` are those of OnnxRuntimeRunner; a plan runs on the GPU. Inside `with`: TargetError where
    the machine has no GPU or no TensorRT, EngineError where it is another one than the plan was built for.
    """
    if engine.kind == "onnxruntime":
        return OnnxRuntimeRunner(engine.path, threads=threads, spin=spin)
    return TensorRTRunner(engine.path, flavour=engine.kind, key=engine.sidecar.get("key"))
