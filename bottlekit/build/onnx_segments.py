"""The segments of an ONNX classifier as both machines of a schedule use them, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bottlekit.build.segments import SegmentedGraph, segmented_from_file
from bottlekit.device.bundle import Bundle
from bottlekit.device.files import sha256_of_file
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import whole_part
from bottlekit.device.runner import Runner
from bottlekit.device.segments.source import Edges, Segments, Span
from bottlekit.errors import BundleError

if TYPE_CHECKING:
    import onnx

# How many groups are kept loaded; a schedule has a few, and many clients may have schedules of their own.
MOST_LOADED = 256


def classifier_file(path: Path) -> Path:
    """The ONNX file of a classifier: `path` itself, or of a bundle its uncompressed network, else the whole one."""
    if not path.is_dir():
        return path
    bundle = Bundle.load(str(path))
    return Path(bundle.onnx_path(whole_part(bundle)))


class OnnxSegments(Segments):
    """The layers of the classifier in `path`, used as `with OnnxSegments(path) as segments:`.

    classifier.onnx --cut i..j--> part.onnx in a temporary folder --> OnnxRuntimeRunner, kept
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self._threads = threads
        self._graph: SegmentedGraph = segmented_from_file(path)
        self._shapes = _shapes(self._graph.model)
        self.sha256 = sha256_of_file(str(path))
        self.count = len(self._graph.layers)
        self.input_name = next(one.name for one in self._graph.tensors if one.source == 0)
        self.result_names = [one.name for one in self._graph.model.graph.output]
        self._loaded: dict[tuple[Span, bool], Runner] = {}
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> OnnxSegments:
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="bottlekit-segments-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.clear()
        self._open.close()

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """(n, c, h, w) of the network's input; None where the size is free."""
        return self._shapes[self.input_name]

    def edges(self, span: Span) -> Edges:
        """See Segments."""
        return Edges(*self._graph.edges(span.first, span.last))

    def crossing(self, boundary: int) -> list[str]:
        """See Segments."""
        return list(self._graph.crossing(boundary))

    def opened(self, span: Span, exact: bool) -> Runner:
        """See Segments. BundleError when more groups are loaded than a server should hold."""
        if self._folder is None:
            raise BundleError("segments are used inside `with OnnxSegments(...)`")
        with self._lock:
            key = (span, exact)
            if key not in self._loaded:
                if len(self._loaded) >= MOST_LOADED:
                    raise BundleError(f"{MOST_LOADED} groups of layers are loaded, that is the limit here")
                path = self._folder / f"{span.first}-{span.last}.onnx"
                path.write_bytes(self._part(span).SerializeToString())
                runner = OnnxRuntimeRunner(str(path), self._threads, spin=False, exact=exact)
                self._loaded[key] = self._open.enter_context(runner)
            return self._loaded[key]

    def _part(self, span: Span) -> onnx.ModelProto:
        """The group as a model whose inputs have their shapes, so that what is fed can be checked."""
        from onnx import helper

        part = self._graph.segment(span.first, span.last)
        for value in part.graph.input:
            kind = value.type.tensor_type.elem_type
            sizes = [f"size{at}" if size is None else size for at, size in enumerate(self._shapes[value.name])]
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, sizes))
        return part


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of all tensors that have one; sizes that are free are None."""
    graph = model.graph
    return {
        one.name: tuple(dim.dim_value or None for dim in one.type.tensor_type.shape.dim)
        for one in (*graph.input, *graph.value_info, *graph.output)
        if one.type.tensor_type.HasField("shape")
    }
