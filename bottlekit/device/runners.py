"""The runner that fits an engine.

::

    Engine --runner_from_engine--> Runner --with--> run({"image": array}) -> {"feature": array}
                                                    a head that quantises -> {"words", "range", "status"}
"""

from typing import Optional

from .codecs import Codec
from .engine import Engine
from .fused import FusedQuantiser
from .ort_runner import OnnxRuntimeRunner
from .runner import Runner, TensorInfo, check_feeds, shape_text
from .trt_runner import TensorRTRunner

__all__ = ["Runner", "TensorInfo", "check_feeds", "runner_from_engine", "shape_text"]


def runner_from_engine(
    engine: Engine, threads: Optional[int] = None, spin: bool = True, codec: Optional[Codec] = None
) -> Runner:
    """The runner for an engine's kind; nothing is loaded before `with`.

    `threads` and `spin` are those of OnnxRuntimeRunner; a plan runs on the GPU. With `codec`, a head on a GPU also
    quantises there, where it can, and gives codes (codes.py). Inside `with`: TargetError where
    the machine has no GPU or no TensorRT, EngineError where it is another one than the plan was built for.
    """
    if engine.kind == "onnxruntime":
        return OnnxRuntimeRunner(engine.path, threads=threads, spin=spin)
    fused = codec is not None and engine.part == "head" and not engine.has_plugin
    return TensorRTRunner(
        engine.path,
        flavour=engine.kind,
        key=engine.sidecar.get("key"),
        quantiser=FusedQuantiser.from_codec(codec) if fused and codec is not None else None,
        plugin_library=engine.plugin_library,
    )
