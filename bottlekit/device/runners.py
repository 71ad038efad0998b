"""The runner that fits an engine.

::

    Engine --runner_from_engine--> Runner --with--> run({"image": array}) -> {"feature": array}
"""

from typing import Optional

from .engine import Engine
from .errors import TargetError
from .ort_runner import OnnxRuntimeRunner
from .runner import Runner, TensorInfo, check_feeds, shape_text

__all__ = ["Runner", "TensorInfo", "check_feeds", "runner_from_engine", "shape_text"]


def runner_from_engine(engine: Engine, threads: Optional[int] = None, spin: bool = True) -> Runner:
    """The runner for an engine's kind; nothing is loaded before `with`.

    `threads` and `spin` are those of OnnxRuntimeRunner. TargetError for kinds that cannot run here.
    """
    if engine.kind == "onnxruntime":
        return OnnxRuntimeRunner(engine.path, threads=threads, spin=spin)
    raise TargetError(
        "{} was compiled ahead of time for {} and cannot run on this machine, which has no GPU that bottlekit "
        "can use; to run here, type: bottlekit build BUNDLE --target cpu".format(engine.path, engine.target)
    )
