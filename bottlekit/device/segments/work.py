"""What a server does with its segments: an object for each connection, and the one for inference."""

from typing import Dict, List

import numpy as np

from ..errors import BundleError, EngineError, PayloadError
from ..runner import check_feeds
from ..wire.layers import load_layers_rpc
from .source import Segments, Span, check_spans


class Work:
    """What one connection asked for in its hello. One call at a time; `close` when the connection is over."""

    def run(
        self, task: int, segment: int, arrays: Dict[str, np.ndarray], wanted: List[str]
    ) -> Dict[str, np.ndarray]:
        """Do a task of `layers.thrift` with a segment, by its number. PayloadError for what does not fit."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what was held."""


class Inference(Work):
    """Segments of a classifier, run for one image after the other.

    ::

        arrays --keep--> held tensors --runner--> held tensors --wanted--> answer

    A tensor that was sent or made here stays until the next image begins, with the first segment: residual
    connections end in later segments. Nothing is kept that no segment reads.
    """

    def __init__(self, segments: Segments, network: str, spans: List[Span], exact: bool) -> None:
        if network != segments.sha256:
            raise BundleError(
                "another network is served here: {}...; yours is {}...; use the same file on both sides".format(
                    segments.sha256[:12], network[:12]
                )
            )
        checked = check_spans(segments, [(span.first, span.last) for span in spans])
        self._runners = [segments.opened(span, exact) for span in checked]
        self._read = {info.name for runner in self._runners for info in runner.inputs}
        self._held: Dict[str, np.ndarray] = {}

    def run(
        self, task: int, segment: int, arrays: Dict[str, np.ndarray], wanted: List[str]
    ) -> Dict[str, np.ndarray]:
        """One segment; see Work."""
        if task != load_layers_rpc().types.Task.INFER:
            raise PayloadError("task {} is for training; this server runs a classifier".format(task))
        if not 0 <= segment < len(self._runners):
            raise PayloadError("there is no segment {} in the hello".format(segment))
        if segment == 0:
            self._held = {}
        unread = sorted(set(arrays) - self._read)
        if unread:
            raise PayloadError("no segment of the hello reads {}".format(unread[0]))
        self._held.update(arrays)
        runner = self._runners[segment]
        names = [info.name for info in runner.inputs]
        missing = [name for name in names if name not in self._held]
        if missing:
            raise PayloadError("segment {} reads {}, which never came".format(segment, missing[0]))
        feeds = {name: self._held[name] for name in names}
        try:
            check_feeds(runner.name, runner.inputs, feeds)
        except EngineError as error:
            raise PayloadError(str(error))
        self._held.update(runner.run(feeds))
        unknown = [name for name in wanted if name not in self._held]
        if unknown:
            raise PayloadError("{} is wanted, which is not here".format(unknown[0]))
        return {name: self._held[name] for name in wanted}

    def close(self) -> None:
        """Forget the tensors; the runners belong to the segments."""
        self._held = {}
