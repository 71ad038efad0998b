"""From a job to a folder that builds it on the machine that will run it, and from what is there then to an engine.

::

    Job + facts of the machine --job_folder_from_job--> folder --the agent, there--> folder/out/
                                                               --engine_from_answer--> engine, raw log, timing cache

Whoever carries the folder there and back (a process here, ssh) need not know what is in it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bottlekit.build.cache import differences, key_for
from bottlekit.build.job import Compiled, Job
from bottlekit.build.lower import fp32_graph, lower_fp16, lower_onnx, lowering_key, told_of_low_bit
from bottlekit.build.rtx import profiles_of
from bottlekit.device.build_answer import (
    CACHE_FILE,
    JOB_FILE,
    LOG_FILE,
    OUT_FOLDER,
    answer_from_folder,
    engine_file,
    log_path,
)
from bottlekit.device.build_job import compile_key, job_document, write_job
from bottlekit.device.files import read_json, sha256_of_file, whole_file
from bottlekit.device.machine import compiler_for, machine_key, require_expected
from bottlekit.device.plugins import DOMAIN_VERSION, NODES, PluginLibrary, require_generation
from bottlekit.device.trt import PlanOptions
from bottlekit.errors import EngineError, TargetError
from bottlekit.targets.here import required_tensorrt

# From this version on the precision is in the graph and no flag can change it.
FIRST_TYPED_MAJOR = 11


class _Graph(NamedTuple):
    """What the compiler is given: a graph, what it is told of the precision, and the sidecar's `lowered`."""

    path: Path
    precision: str
    fp32_layers: tuple[str, ...]
    lowered: dict[str, Any] | None


def job_folder_from_job(
    job: Job,
    folder: Path,
    tensorrt: str | None = None,
    timing_cache: Path | None = None,
    command: str = "",
    plugin: PluginLibrary | None = None,
) -> None:
    """Write the build job of `job` into the new folder `folder`.

    `tensorrt` is the version that will compile it, which decides how FP16 is said; None takes the target's own.
    `timing_cache` is one that this machine's TensorRT wrote earlier; `command` goes into the sidecar; `plugin` is
    the library there, for a job that needs it.

    Raises EngineError if the graph cannot be lowered; UsageError where the folder exists or cannot be written.
    """
    target = job.target
    version = tensorrt or (target.accepts[0] if target.accepts else "")
    with tempfile.TemporaryDirectory(prefix="bottlekit-") as scratch:
        graph = _with_plugin(job, _graph_for(job, version, Path(scratch)), Path(scratch))
        document = job_document(
            job.bundle,
            job.part,
            target.name,
            target.kind,
            _options(job)._replace(precision=graph.precision, fp32_layers=graph.fp32_layers),
            job.precision,
            required_tensorrt(target.accepts, version) if target.accepts else None,
            target.sm,
            key_for(job, {**_lowering(job), **_plugin_key(job, plugin)}),
            {"precision": job.precision, "command": command, "lowered": graph.lowered},
            None if plugin is None else {"path": plugin.path, "sha256": plugin.sha256},
        )
        write_job(
            str(folder),
            document,
            job.bundle.path,
            str(graph.path),
            None if timing_cache is None else str(timing_cache),
        )


def _graph_for(job: Job, version: str, folder: Path) -> _Graph:
    """How a precision is said to a TensorRT of that version: in the graph, or with flags to an FP32 graph."""
    if job.target.kind == "onnxruntime":
        return _Graph(job.onnx_path, "typed", (), None)
    typed = job.target.kind == "tensorrt_rtx" or int(version.split(".")[0]) >= FIRST_TYPED_MAJOR
    if job.precision == "fp16" and not typed:
        lowered = lower_fp16(job)
        kept_all = len(lowered.fp32_layers) == lowered.layers
        # With every layer kept in FP32 the flag would only cost time.
        return _Graph(
            fp32_graph(job, folder),
            "fp32" if kept_all else "fp16",
            () if kept_all else lowered.fp32_layers,
            {**lowered.to_dict(), **told_of_low_bit(job)},
        )
    path, told = lower_onnx(job, folder)
    return _Graph(path, "typed" if typed else job.precision, (), told)


def _with_plugin(job: Job, graph: _Graph, folder: Path) -> _Graph:
    """The graph with the plugin's node at its edge, behind whatever lowering made of the rest."""
    if not job.has_plugin:
        return graph
    import onnx

    from bottlekit.export.plugin_node import with_plugin

    path = folder / f"{job.part}.plugin.onnx"
    onnx.save(with_plugin(onnx.load(str(graph.path)), job.part, job.bundle.codec), str(path))
    return graph._replace(path=path)


def _options(job: Job) -> PlanOptions:
    return PlanOptions(job.workspace_bytes, profiles=profiles_of(job))


def key_from_facts(job: Job, facts: dict[str, Any]) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out on the machine of these facts.

    TargetError, naming what is there and what is needed, if that machine cannot build the job.
    """
    compiler = compiler_for(facts, job.target.kind)
    if job.target.accepts:
        expected = required_tensorrt(job.target.accepts, compiler.version)
        require_expected(facts, compiler, job.target.name, expected, job.target.sm)
    settings = {} if job.target.kind == "onnxruntime" else compile_key(_options(job))
    plugin = _plugin_key(job, plugin_from_facts(job, facts))
    return {**_lowering(job), **plugin, **settings, **machine_key(facts, compiler)}


def plugin_from_facts(job: Job, facts: dict[str, Any]) -> PluginLibrary | None:
    """The plugin library on the machine of these facts; None for a job that needs none.

    TargetError where it is missing, was built for another TensorRT, or nothing there can load it.
    """
    if not job.has_plugin:
        return None
    found = facts.get("plugin_library")
    if found is None:
        raise TargetError(facts.get("why_no_plugin_library") or "that machine's bottlekit knows no plugin library")
    compiler = compiler_for(facts, job.target.kind)
    if compiler.name == "trtexec":
        raise TargetError("--plugin needs TensorRT's Python bindings there, and only trtexec is installed")
    library = PluginLibrary(**found)
    require_generation(library, compiler.version)
    return library


def _plugin_key(job: Job, library: PluginLibrary | None) -> dict[str, Any]:
    """The part of an engine's key that the plugin decides."""
    if library is None:
        return {}
    node = f"{NODES[job.part]} {DOMAIN_VERSION}"
    return {"plugin": {"node": node, "library_sha256": library.sha256}}


def _lowering(job: Job) -> dict[str, Any]:
    """What of the lowering decides what comes out; ONNX Runtime gets the graph as it is."""
    return {} if job.target.kind == "onnxruntime" else lowering_key(job)


def timing_cache_path(job: Job, key: dict[str, Any]) -> Path:
    """Where the timing cache of the machine of this key lies, beside the engines: all parts share one."""
    name = f"{job.target.name}-{key['compiler_version']}-{key.get('gpu')}"
    return job.folder / f"timing-{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.cache"


def engine_from_answer(
    job: Job, folder: Path, path: Path, key: dict[str, Any], messages: Sequence[str] = ()
) -> Compiled:
    """Take the engine out of a job folder that was built: written to `path`; its raw log beside the engine's place.

    `key` is what `key_from_facts` said before: EngineError if the machine has changed since. `messages` are what
    the agent told on the way; what is worth keeping goes into the sidecar's details.

    Raises BundleError if anything in the folder is missing, not whole, or of another job.
    """
    job_path = folder / JOB_FILE
    answer = answer_from_folder(str(folder / OUT_FOLDER), sha256_of_file(str(job_path)))
    changed = differences(key_for(job, key), answer["key"])
    if changed:
        raise EngineError(f"the machine changed while {job} was built: {'; '.join(changed)}; build it again")
    shutil.copyfile(folder / OUT_FOLDER / engine_file(job.target.kind), path)
    with whole_file(log_path(str(job.engine_path))) as temporary:
        shutil.copyfile(folder / LOG_FILE, temporary)
    if answer["timing_cache_sha256"] is not None:
        with whole_file(str(timing_cache_path(job, answer["key"]))) as temporary:
            shutil.copyfile(folder / OUT_FOLDER / CACHE_FILE, temporary)
    sidecar = read_json(str(job_path), "build job")["sidecar"]
    notes = [message for message in messages if not message.startswith(("compiling ", "compiled "))]
    return Compiled(
        answer["build_ms"],
        answer["golden"],
        sidecar["lowered"],
        tuple(answer["log"]),
        {**answer["details"], "notes": notes},
    )
