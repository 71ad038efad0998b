"""Building and running plans with trtexec, where TensorRT is installed without its Python bindings.

::

    graph.onnx --trtexec--> engine.plan                         flags per version, each of them given
    image.bin + engine.plan --trtexec--> outputs.json           slow, and good enough to compare outputs

Its flags changed over the years (8.2: --workspace in MiB; 8.4: --memPoolSize; 8.6: --skipInference for
--buildOnly; 11: no precision flags), and so did its defaults (8.2 plans with 16 MiB of workspace): so nothing is
left to a default. What it prints is taken as TensorRT's log.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .errors import EngineError, TargetError, UnknownNameError
from .runner import Runner, TensorInfo, shape_text
from .trt import PlanOptions
from .trt_errors import cause_of_exit, explain
from .trt_log import LogLine, RecordedLog

_BANNER = re.compile(r"\[TensorRT v(\d+)\](?: \[b(\d+)\])?")
_LINE = re.compile(r"\[[\d/:-]+\] \[([VIWEF])\] ?(.*)")
_SEVERITIES = {"V": "VERBOSE", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "INTERNAL_ERROR"}
_BUILT = re.compile(r"Engine built in ([\d.]+) sec")
_VERSION_TIMEOUT_S = 60
_PRECISIONS = ("typed", "fp32", "fp16", "int8")


def trtexec_version(path: str) -> Optional[str]:
    """The version in trtexec's banner, like 8.2.1 or (since TensorRT 10) 10.16.1.11; None where it tells none."""
    try:
        done = subprocess.run(
            [path, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _BANNER.search(done.stdout.decode("utf-8", "replace"))
    if found is None:
        return None
    number, build = int(found.group(1)), found.group(2)
    # One number holds three parts; TensorRT 10 gave the minor one another digit.
    major, rest = divmod(number, 1000 if number < 10000 else 10000)
    return ".".join([str(major), str(rest // 100), str(rest % 100)] + ([build] if build else []))


def build_flags(version: str, options: PlanOptions) -> List[str]:
    """The flags that make trtexec of a version compile as `plan_from_onnx` would.

    TargetError where that version's trtexec cannot be told.
    """
    numbers = _numbers(version)
    workspace_mib = options.workspace_bytes >> 20
    flags = [
        "--memPoolSize=workspace:{}".format(workspace_mib)
        if numbers >= (8, 4)
        else "--workspace={}".format(workspace_mib),
        "--skipInference" if numbers >= (8, 6) else "--buildOnly",
    ]
    flags += _precision_flags(version, options)
    for bound, name in enumerate(("--minShapes", "--optShapes", "--maxShapes")):
        shapes = ["{}:{}".format(tensor, shape_text(p[bound])) for tensor, p in (options.profiles or {}).items()]
        flags += ["{}={}".format(name, ",".join(shapes))] if shapes else []
    return flags


def _precision_flags(version: str, options: PlanOptions) -> List[str]:
    numbers = _numbers(version)
    if options.precision not in _PRECISIONS:
        raise UnknownNameError("precision", options.precision, _PRECISIONS)
    if options.precision != "typed" and numbers >= (11,):
        raise TargetError(
            "trtexec {} takes the precision from the graph, not from a flag; lower the graph to {} first".format(
                version, options.precision
            )
        )
    if options.precision != "fp16":
        typed = options.precision == "typed" and (9,) <= numbers < (11,)
        more = ["--stronglyTyped"] if typed else ["--int8"] if options.precision == "int8" else []
        return ["--noTF32"] + more
    if not options.fp32_layers:
        return ["--fp16"]
    if numbers < (8, 4):
        raise TargetError(
            "trtexec {} cannot keep single layers in FP32; install TensorRT's Python bindings, or use "
            "--precision fp32".format(version)
        )
    layers = ",".join("{}:fp32".format(layer) for layer in options.fp32_layers)
    constraints = ["--precisionConstraints=obey", "--layerPrecisions=" + layers, "--layerOutputTypes=" + layers]
    return ["--fp16"] + constraints


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def build_with_trtexec(
    path: str, version: str, onnx_path: str, plan_path: str, options: PlanOptions, cache_path: str, log: RecordedLog
) -> float:
    """Compile `onnx_path` into `plan_path`; returns the time it took in ms.

    The timing cache in `cache_path` is used where there is one that fits, and written. TargetError for what this
    trtexec cannot be told; EngineError with its own words when it refuses the graph, or dies.
    """
    command = [path, "--onnx=" + onnx_path, "--saveEngine=" + plan_path, "--timingCacheFile=" + cache_path]
    started = time.perf_counter()
    lines = _run(command + build_flags(version, options), "build " + onnx_path, log)
    build_ms = (time.perf_counter() - started) * 1e3
    if not os.path.isfile(plan_path) or os.path.getsize(plan_path) == 0:
        raise EngineError("trtexec said nothing is wrong, and wrote no plan of {}; see its log".format(onnx_path))
    # Its own clock leaves out the start of CUDA.
    said = [float(found.group(1)) * 1e3 for found in map(_BUILT.search, lines) if found]
    return said[-1] if said else build_ms


def _run(command: Sequence[str], what: str, log: RecordedLog) -> List[str]:
    """Run trtexec; its lines go into the log as they come. EngineError unless it says that it passed."""
    try:
        process = subprocess.Popen(list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise TargetError("{} cannot be started: {}".format(command[0], error.strerror or error))
    assert process.stdout is not None
    lines = []
    with process:
        for raw in process.stdout:
            lines.append(raw.decode("utf-8", "replace").rstrip())
            found = _LINE.match(lines[-1])
            log.take(
                LogLine(_SEVERITIES[found.group(1)] if found else "INFO", found.group(2) if found else lines[-1])
            )
    if process.returncode == 0:
        return lines
    cause = cause_of_exit(process.returncode)
    if cause is not None:
        raise EngineError("trtexec cannot {}: {}; {}".format(what, cause.meaning, cause.advice))
    raise EngineError("trtexec cannot {}: {}".format(what, explain(log.errors())))


def _log_line(text: str) -> LogLine:
    """A printed line as TensorRT logged it; what is not in its form (the banner, help) counts as INFO."""
    found = _LINE.match(text)
    return LogLine(_SEVERITIES[found.group(1)], found.group(2)) if found else LogLine("INFO", text)


class TrtexecRunner(Runner):
    """A plan that is run by trtexec, a process for each call: for comparing outputs, not for measuring.

    `inputs` and `outputs` are those of the graph, as trtexec does not list them for a program; an input's first
    size is the number of samples that one call takes, and `dynamic` says whether the plan takes others as well.
    """

    def __init__(
        self,
        path: str,
        version: str,
        plan_path: str,
        inputs: List[TensorInfo],
        outputs: List[TensorInfo],
        dynamic: bool,
        log: Optional[RecordedLog] = None,
    ) -> None:
        super().__init__(plan_path)
        self._path = path
        self._version = version
        self._infos = (inputs, outputs)
        self._dynamic = dynamic
        self.log = log or RecordedLog()

    def _activate(self) -> Tuple[List[TensorInfo], List[TensorInfo]]:
        return self._infos

    def _deactivate(self) -> None:
        """Every call ended by itself."""

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory(prefix="bottlekit-trtexec-") as folder:
            loads, shapes = [], []
            for number, (name, array) in enumerate(sorted(feeds.items())):
                file = os.path.join(folder, "{}.bin".format(number))
                np.ascontiguousarray(array).tofile(file)
                loads.append("{}:{}".format(name, file))
                shapes.append("{}:{}".format(name, shape_text(array.shape)))
            answer = os.path.join(folder, "outputs.json")
            command = [
                self._path, "--loadEngine=" + self.name, "--loadInputs=" + ",".join(loads),
                "--exportOutput=" + answer, "--iterations=1", "--duration=0", "--warmUp=0",
            ]  # fmt: skip
            # It refuses shapes for a plan whose own are fixed.
            command += ["--shapes=" + ",".join(shapes)] if self._dynamic else []
            # Since 11 nothing is copied unless it is asked for.
            command += ["--includeDataTransfers"] if _numbers(self._version) >= (11,) else []
            _run(command, "run " + self.name, self.log)
            return self._outputs_from_json(answer)

    def _outputs_from_json(self, path: str) -> Dict[str, np.ndarray]:
        """What --exportOutput wrote: [{"name": ..., "dimensions": "1x4x8x8", "values": [...]}, ...]."""
        try:
            with open(path, encoding="utf-8") as file:
                # NaN and infinity are printed as C++ prints them.
                text = re.sub(r"-?\b(?:nan|inf)\b", "NaN", file.read())
            rows = {row["name"]: row for row in json.loads(text)}
            return {info.name: _array(rows[info.name], info.dtype) for info in self._outputs}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError("trtexec gave outputs of {} that cannot be read: {!r}".format(self.name, error))


def _array(row: Dict[str, Any], dtype: Any) -> np.ndarray:
    shape = tuple(int(size) for size in row["dimensions"].split("x"))
    return np.array(row["values"], dtype=dtype).reshape(shape)
