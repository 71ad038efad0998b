"""One protocol for everything that runs a graph: named arrays in, named arrays out, inside a `with`.

::

    Runner --with--> run({"image": array}) -> {"feature": array}

A runner that was only constructed holds nothing: no session, no GPU memory. `with` loads the graph, and the
end of the block frees it.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from .errors import EngineError


class TensorInfo(NamedTuple):
    """One input or output of a graph: its name, its shape (None where the size is free), its dtype."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: Any


class Runner:
    """A graph that can be run.

    ::

        feeds {name: array} --check names, dtypes, shapes--> _infer --> {name: array}

    Subclasses write `_activate`, `_deactivate` and `_infer`. A runner can be entered again after it was
    left. One thread at a time calls `run`, unless the subclass says otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: List[TensorInfo] = []
        self._outputs: List[TensorInfo] = []
        self._active = False

    def __enter__(self) -> "Runner":
        if self._active:
            raise EngineError(
                "{} is loaded already; leave its `with` block before entering again".format(self.name)
            )
        self._inputs, self._outputs = self._activate()
        self._active = True
        return self

    def __exit__(self, *_exception: object) -> None:
        self._active = False
        self._deactivate()

    @property
    def inputs(self) -> List[TensorInfo]:
        """The inputs, in the graph's order; EngineError outside `with`."""
        self._check_active()
        return list(self._inputs)

    @property
    def outputs(self) -> List[TensorInfo]:
        """The outputs, in the graph's order; EngineError outside `with`."""
        self._check_active()
        return list(self._outputs)

    def run(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run the graph once; EngineError when the feeds do not fit its inputs or the run fails."""
        self._check_active()
        check_feeds(self.name, self._inputs, feeds)
        return self._infer(feeds)

    def _check_active(self) -> None:
        if not self._active:
            raise EngineError("{} is not loaded; use it inside `with runner:`".format(self.name))

    def _activate(self) -> Tuple[List[TensorInfo], List[TensorInfo]]:
        """Load the graph; return its inputs and outputs."""
        raise NotImplementedError

    def _deactivate(self) -> None:
        """Free what `_activate` took."""
        raise NotImplementedError

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run the graph on feeds that were checked."""
        raise NotImplementedError


def check_feeds(where: str, inputs: List[TensorInfo], feeds: Dict[str, np.ndarray]) -> None:
    """Raise EngineError unless `feeds` holds exactly the inputs, each with its dtype and a shape that fits."""
    expected = {info.name: info for info in inputs}
    if set(feeds) != set(expected):
        raise EngineError("{} takes the inputs {}, but got {}".format(where, sorted(expected), sorted(feeds)))
    for name, info in expected.items():
        array = feeds[name]
        if not isinstance(array, np.ndarray):
            raise EngineError(
                "{}: input '{}' must be a numpy array, not a {}".format(where, name, type(array).__name__)
            )
        if array.dtype != info.dtype:
            raise EngineError("{}: input '{}' must be {}, not {}".format(where, name, info.dtype, array.dtype))
        fits = len(array.shape) == len(info.shape) and all(
            size is None or size == given for size, given in zip(info.shape, array.shape)
        )
        if not fits or 0 in array.shape:
            raise EngineError(
                "{}: input '{}' must have the shape {}, not {}".format(
                    where, name, shape_text(info.shape), shape_text(array.shape)
                )
            )


def shape_text(shape: Tuple[Optional[int], ...]) -> str:
    """A shape for people: 1x3x64x64, with n where the size is free."""
    return "x".join("n" if size is None else str(size) for size in shape) or "scalar"
