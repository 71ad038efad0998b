"""Building one engine, in this process: compile, run on the golden inputs, compare, write what came out.

    BuildJob --compiler_for--> onnxruntime | tensorrt | tensorrt_rtx | trtexec
             --compile-------> engine --run--> outputs --compare_with_golden--> kept, or refused
             --whole_folder--> out/: engine, answer.json, timing.cache

A compiler may end the process it runs in, so this runs in one of its own: see build_supervisor.py.
"""

import contextlib
import json
import os
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from .build_answer import (
    ANSWER_FILE,
    ANSWER_FORMAT,
    ANSWER_VERSION,
    CACHE_FILE,
    JOB_FILE,
    LOG_FILE,
    OUT_FOLDER,
    engine_file,
)
from .build_job import BuildJob
from .errors import EngineError, TargetError
from .fields import Fields
from .files import sha256_of_file, whole_folder, write_json
from .golden import compare_with_golden
from .machine import Compiler, compiler_for, machine_facts, machine_key, require_expected
from .ort_runner import OnnxRuntimeRunner, optimise_onnx
from .plugins import PluginLibrary, find_library, load_library
from .runner import TensorInfo
from .trt import PlanOptions, import_tensorrt, plan_from_onnx
from .trt_errors import classify
from .trt_log import LogLine, RecordedLog
from .trt_runner import TensorRTRunner
from .trtexec import TrtexecRunner, build_with_trtexec

Say = Callable[[str], None]

# What a compiler only remarks upon, and a person should know.
_REMARKABLE = ("slow-fp16", "fp16-overflow")


class _Made(NamedTuple):
    """What a compiler gave beside the files: its time, the comparison, its words, the engine's layers."""

    build_ms: float
    golden: Dict[str, Any]
    log: List[str]
    layers: Any = None


def run_job(folder: str, say: Say, provider: Any = "auto", halve: bool = False) -> Dict[str, Any]:
    """Build the job in `folder` and return the content of out/answer.json; `say` gets a line for each step.

    `provider` names the CUDA provider, or is one that is open; `halve` gives the compiler half the workspace.

    Raises:
        BundleError: the job was damaged, or does not belong to its bundle.
        TargetError: this machine is not what the job was made for, or lacks what building needs.
        EngineError: the compiler refuses the graph, the engine computes something else, or the disk is full.
        Nothing but build.log is left then.
    """
    job = BuildJob.load(folder)
    facts = machine_facts(provider, None if job.plugin is None else job.plugin.text("path"))
    compiler = compiler_for(facts, job.kind)
    require_expected(facts, compiler, job.target, job.expects_tensorrt, job.expects_sm)
    options = job.options
    if halve:
        options = options._replace(workspace_bytes=options.workspace_bytes // 2)
    where = os.path.join(folder, OUT_FOLDER)
    say("compiling the {} of {} with {}".format(job.part, job.bundle.name, _words(compiler, facts)))
    try:
        with _logging(os.path.join(folder, LOG_FILE)) as log, whole_folder(where, force=True) as out:
            made = _make(job, compiler, facts, options, out, log, say, provider)
            say("compiled in {:.0f} ms; its outputs are those of the bundle".format(made.build_ms))
            answer = _answer(job, facts, compiler, options, out, made, halve)
            write_json(os.path.join(out, ANSWER_FILE), answer)
    except OSError as error:
        raise EngineError("cannot write {}: {}; free some space there".format(where, error.strerror or error))
    return answer


def _words(compiler: Compiler, facts: Dict[str, Any]) -> str:
    gpu = "" if compiler.name == "onnxruntime" else " on {}".format(facts["gpu"]["name"])
    return "{} {}{}".format(compiler.name, compiler.version, gpu)


def _make(
    job: BuildJob,
    compiler: Compiler,
    facts: Dict[str, Any],
    options: PlanOptions,
    out: str,
    log: RecordedLog,
    say: Say,
    provider: Any,
) -> _Made:
    """Write the engine into the folder `out`, and compare it."""
    path = os.path.join(out, engine_file(job.kind))
    if compiler.name == "onnxruntime":
        return _with_onnxruntime(job, path)
    if compiler.name == "trtexec" and job.plugin is not None:
        raise TargetError("a plugin needs TensorRT's Python bindings, and only trtexec is here")
    if compiler.name == "trtexec":
        made = _with_trtexec(job, facts["trtexec"]["path"], compiler.version, options, path, log)
    else:
        made = _with_bindings(job, options, path, log, provider)
    for remark in _remarks(log):
        say(remark)
    return made


def _with_onnxruntime(job: BuildJob, path: str) -> _Made:
    started = time.perf_counter()
    optimise_onnx(job.graph_path, path)
    build_ms = (time.perf_counter() - started) * 1e3
    with OnnxRuntimeRunner(path) as runner:
        return _Made(build_ms, compare_with_golden(runner, job.bundle, job.part, job.tolerance), [])


def _with_bindings(job: BuildJob, options: PlanOptions, path: str, log: RecordedLog, provider: Any) -> _Made:
    """TensorRT through its Python bindings; `job.kind` is its flavour."""
    with open(job.graph_path, "rb") as file:
        onnx = file.read()
    where = "the {} of {}".format(job.part, job.bundle.name)
    trt = import_tensorrt(job.kind)
    if job.plugin is not None:
        load_library(trt, _library_of_job(job.plugin))
    plan = plan_from_onnx(trt, onnx, options, where, log)
    with open(path, "wb") as file:
        file.write(plan.content)
    if plan.timing_cache:
        with open(os.path.join(os.path.dirname(path), CACHE_FILE), "wb") as file:
            file.write(plan.timing_cache)
    runner = TensorRTRunner(path, flavour=job.kind, provider=provider)
    with runner:
        golden = compare_with_golden(runner, job.bundle, job.part, job.tolerance)
        return _Made(plan.build_ms, golden, plan.log, json.loads(runner.layers()))


def _library_of_job(plugin: Fields) -> PluginLibrary:
    """The plugin library that a job names; TargetError where it is gone, or was changed since the job was made."""
    library = find_library(plugin.text("path"))
    if library.sha256 != plugin.sha256("sha256"):
        raise TargetError("{} was changed after the job was made; make the job again".format(library.path))
    return library


def _with_trtexec(
    job: BuildJob, trtexec: str, version: str, options: PlanOptions, path: str, log: RecordedLog
) -> _Made:
    cache_path = os.path.join(os.path.dirname(path), CACHE_FILE)
    if options.timing_cache:
        with open(cache_path, "wb") as file:
            file.write(options.timing_cache)
    build_ms = build_with_trtexec(trtexec, version, job.graph_path, path, options, cache_path, log)
    inputs, outputs = _tensors(job, options)
    with TrtexecRunner(trtexec, version, path, inputs, outputs, dynamic=bool(options.profiles), log=log) as runner:
        golden = compare_with_golden(runner, job.bundle, job.part, job.tolerance)
    return _Made(build_ms, golden, log.texts("INTERNAL_ERROR", "ERROR", "WARNING", "INFO"))


def _tensors(job: BuildJob, options: PlanOptions) -> Tuple[List[TensorInfo], List[TensorInfo]]:
    """The part's input and output, for as many samples at once as there are and the plan takes."""
    name, shape = job.input_name_and_shape()
    batch = 1
    if options.profiles:
        batch = min(options.profiles[name][2][0], len(job.bundle.golden()["image"]))
    output_name, output_shape = job.output_name_and_shape()
    float32 = np.dtype(np.float32)
    inputs = [TensorInfo(name, (batch,) + shape, float32)]
    return inputs, [TensorInfo(output_name, (batch,) + output_shape, float32)]


def _answer(
    job: BuildJob,
    facts: Dict[str, Any],
    compiler: Compiler,
    options: PlanOptions,
    out: str,
    made: _Made,
    halve: bool,
) -> Dict[str, Any]:
    path = os.path.join(out, engine_file(job.kind))
    cache_path = os.path.join(out, CACHE_FILE)
    return {
        "format": ANSWER_FORMAT,
        "version": ANSWER_VERSION,
        "job_sha256": sha256_of_file(os.path.join(job.folder, JOB_FILE)),
        "engine": {
            "file": engine_file(job.kind),
            "sha256": sha256_of_file(path),
            "bytes": os.path.getsize(path),
        },
        "timing_cache_sha256": sha256_of_file(cache_path) if os.path.exists(cache_path) else None,
        "key": dict(job.key(), **machine_key(facts, compiler)),
        "build_ms": made.build_ms,
        "golden": made.golden,
        "details": {
            "workspace_bytes": options.workspace_bytes,
            "retried": halve,
            "layers": made.layers,
            "machine": facts,
        },
        "log": made.log,
    }


@contextlib.contextmanager
def _logging(path: str) -> Iterator[RecordedLog]:
    """A log whose lines are in the file at once: what TensorRT said last is known even if it takes us down."""
    with open(path, "a", encoding="utf-8", errors="replace", buffering=1) as file:

        def write(line: LogLine) -> None:
            file.write("{}: {}\n".format(line.severity, line.text))

        yield RecordedLog(write)


def _remarks(log: RecordedLog) -> List[str]:
    """What the compiler only warned of, in plain words, each once."""
    causes = [classify(line.text) for line in log.lines if line.severity == "WARNING"]
    known = {cause.name: cause for cause in causes if cause is not None and cause.name in _REMARKABLE}
    return ["note: {}; {}".format(cause.meaning, cause.advice) for _, cause in sorted(known.items())]
