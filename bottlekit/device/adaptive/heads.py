"""The graphs that a device holds: loaded when they are first needed, thrown out when memory is short."""

import contextlib
import os
from collections import OrderedDict
from typing import Callable, List, NamedTuple, Optional, Tuple

from ..bundle import Bundle
from ..engine import engines_for_bundle
from ..errors import EngineError, UsageError
from ..runner import Runner

RunnerFor = Callable[[Bundle, str], Runner]
SizeOf = Callable[[Bundle, str], int]


class _Held(NamedTuple):
    runner: Runner
    size_bytes: int


class Heads:
    """Open runners of parts of a fleet, used as `with Heads(...) as heads: heads.get(bundle, "head")`.

    Together their files have at most `budget_bytes` (None: no limit); what was not used for longest goes first.
    A graph in memory takes about its file's size and its activations, which the budget does not count.
    One thread at a time.
    """

    def __init__(self, runner_for: RunnerFor, size_of: SizeOf, budget_bytes: Optional[int] = None) -> None:
        if budget_bytes is not None and budget_bytes < 1:
            raise UsageError("a memory budget must be at least 1 byte, not {}".format(budget_bytes))
        self._runner_for = runner_for
        self._size_of = size_of
        self._budget_bytes = budget_bytes
        self._held: "OrderedDict[Tuple[str, str], _Held]" = OrderedDict()

    def __enter__(self) -> "Heads":
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.ExitStack() as closing:
            for held in self._held.values():
                closing.callback(held.runner.__exit__, None, None, None)
            self._held.clear()

    @property
    def names(self) -> List[Tuple[str, str]]:
        """The (bundle, part) that are loaded, the one used last at the end."""
        return list(self._held)

    @property
    def held_bytes(self) -> int:
        """The size of what is loaded."""
        return sum(held.size_bytes for held in self._held.values())

    def fits(self, bundle: Bundle, part: str, beside_bytes: int = 0) -> bool:
        """Whether this part can be held at all, beside something of that size."""
        return self._budget_bytes is None or self._size_of(bundle, part) + beside_bytes <= self._budget_bytes

    def get(self, bundle: Bundle, part: str, keep: Tuple[str, ...] = ()) -> Runner:
        """The open runner of a part; those of the parts `keep` are not thrown out for it.

        Raises EngineError for what does not fit, or does not load.
        """
        key = (bundle.name, part)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key].runner
        size_bytes = self._size_of(bundle, part)
        self._make_room(key, size_bytes, keep)
        runner = self._runner_for(bundle, part)
        runner.__enter__()
        self._held[key] = _Held(runner, size_bytes)
        return runner

    def _make_room(self, key: Tuple[str, str], size_bytes: int, keep: Tuple[str, ...]) -> None:
        if self._budget_bytes is None:
            return
        while self.held_bytes + size_bytes > self._budget_bytes:
            old = next((held for held in self._held if held[1] not in keep), None)
            if old is None:
                raise EngineError(
                    "the {} of {} has {} bytes, more than the memory budget of {} leaves".format(
                        key[1], key[0], size_bytes, self._budget_bytes
                    )
                )
            self._held.pop(old).runner.__exit__(None, None, None)


def graph_bytes(bundle: Bundle, part: str) -> int:
    """The size of a part's ONNX file."""
    return os.path.getsize(bundle.onnx_path(part))


def engine_bytes(engines_dir: str, target: str) -> SizeOf:
    """A function that gives the size of a part's engine; EngineError where there is none."""

    def size_of(bundle: Bundle, part: str) -> int:
        engines = engines_for_bundle(engines_dir, bundle, target)
        if part not in engines:
            raise EngineError("no engine of {}'s {} for {} in {}".format(bundle.name, part, target, engines_dir))
        return os.path.getsize(engines[part].path)

    return size_of
