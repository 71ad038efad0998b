"""Profiling groups of layers: each is cut out, compared with the whole network, and run (JointDNN, section 3.1).

    classifier.onnx --run once, all crossing tensors--> reference
                    --cut i..j--> segment --run--> equal to the reference? --time--> samples_ms

Every contiguous group, or with `sample` only single layers and the groups that begin at the first layer or end at
the last, 3 n of them; who reads the profile interpolates the others and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bottlekit.build.segments import SegmentedGraph, segmented_from_file
from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.files import sha256_of_file
from bottlekit.device.ort_runner import import_onnxruntime, one_line, session_options
from bottlekit.device.stats import summary
from bottlekit.errors import BundleError, EngineError, UsageError
from bottlekit.specs import LAYERS_FORMAT, LAYERS_VERSION, groups_to_measure

Values = Mapping[str, npt.NDArray[Any]]
# Segments are optimised differently from the whole: the difference allowed, of the largest value.
TOLERANCE = 1e-3
WARM_UP = 2


def layers_from_classifier(
    path: Path,
    *,
    sample: bool = False,
    samples: int = 7,
    codec: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """The profile of the classifier in `path` on this machine, as layers.json holds it, without its environment.

    `samples`: timed runs of each group, at least 5. `codec`: png or jpeg with 8 bits for what is sent and has the
    shape (1, c, h, w); None: float32 as it is. Raises BundleError for a graph that cannot be cut, EngineError for a
    group that cannot run or computes something else.
    """
    if samples < 5:
        raise UsageError(f"--samples must be at least 5, not {samples}")
    graph = segmented_from_file(path)
    image = _image(graph, path)
    reference = _reference(graph, image, threads)
    count = len(graph.layers)
    wanted = groups_to_measure(count, sample)
    groups = []
    for done, (first, last) in enumerate(wanted):
        progress(done, len(wanted))
        taken = _timed(graph, first, last, reference, samples, threads)
        groups.append({"first": first, "last": last, "samples_ms": taken, "summary": summary(taken)})
    return {
        "format": LAYERS_FORMAT,
        "version": LAYERS_VERSION,
        "model": {"name": path.stem, "sha256": sha256_of_file(str(path)), "input_shape": list(image.shape)},
        "mode": "sample" if sample else "all",
        "origin": "measured",
        "codec": codec or "none",
        "layers": [{"name": layer.name, "kind": layer.kind} for layer in graph.layers],
        "tensors": [
            {
                "name": one.name,
                "source": one.source,
                "readers": list(one.readers),
                "shape": list(reference[one.name].shape),
                "raw_bytes": reference[one.name].nbytes,
                "wire_bytes": _wire_bytes(reference[one.name], codec),
            }
            for one in graph.tensors
        ],
        "groups": groups,
    }


def _image(graph: SegmentedGraph, path: Path) -> npt.NDArray[np.float32]:
    """A fixed random input of the graph's shape; a batch dimension without a size is 1."""
    weights = {one.name for one in graph.model.graph.initializer}
    tensor = next(one for one in graph.model.graph.input if one.name not in weights).type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    if not dims or any(size <= 0 for size in dims[1:]):
        raise BundleError(f"{path}: the input has no fixed shape behind the batch dimension; export it with one")
    shape = (1, *dims[1:])
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _session(model: Any, threads: int | None) -> Any:
    try:
        return import_onnxruntime().InferenceSession(
            model.SerializeToString(), session_options(threads, spin=False), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own.
        raise EngineError(f"ONNX Runtime cannot load '{model.graph.name}': {one_line(error)}") from error


def _reference(graph: SegmentedGraph, image: npt.NDArray[np.float32], threads: int | None) -> Values:
    """Every tensor that crosses a boundary, from one run of the whole network."""
    whole = graph.segment(0, len(graph.layers) - 1)
    outputs = {one.name for one in whole.graph.output}
    from onnx import helper

    kinds = {one.name: one for one in graph.model.graph.value_info}
    for tensor in graph.tensors:
        if tensor.source and tensor.name not in outputs:
            kind = kinds[tensor.name].type.tensor_type.elem_type
            whole.graph.output.append(helper.make_tensor_value_info(tensor.name, kind, None))
    session = _session(whole, threads)
    names = [one.name for one in session.get_outputs()]
    source = next(one.name for one in graph.tensors if one.source == 0)
    values = dict(zip(names, session.run(names, {source: image}), strict=True))
    return {source: image, **values}


def _timed(
    graph: SegmentedGraph, first: int, last: int, reference: Values, samples: int, threads: int | None
) -> list[float]:
    """Compare one group with the whole network, then time it, in ms."""
    session = _session(graph.segment(first, last), threads)
    names = [one.name for one in session.get_outputs()]
    feeds = {one.name: reference[one.name] for one in session.get_inputs()}
    for name, value in zip(names, session.run(names, feeds), strict=True):
        expected = np.asarray(reference[name], dtype=np.float64)
        largest = float(np.abs(expected).max(initial=1.0))
        difference = float(np.abs(np.asarray(value, dtype=np.float64) - expected).max(initial=0.0))
        if not difference <= TOLERANCE * largest:
            raise EngineError(
                f"the layers {first}..{last} alone give {name} with a difference of {difference:g} to the whole "
                f"network, more than {TOLERANCE * largest:g}: nothing is timed that is not the same"
            )
    taken: list[float] = []
    for _ in range(WARM_UP):
        session.run(names, feeds)
    for _ in range(samples):
        started = time.perf_counter()
        session.run(names, feeds)
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _wire_bytes(value: npt.NDArray[Any], codec: str | None) -> int:
    """What is sent: the codec's payload of a feature (1, c, h, w), the raw bytes of anything else."""
    if codec is None or value.ndim != 4 or value.dtype != np.float32:
        return int(value.nbytes)
    channels, height, width = value.shape[1:]
    coder = codec_from_spec({"name": codec, "bits": 8, "quality": 90}, (channels, height, width))
    return len(coder.encode(value[0]))
