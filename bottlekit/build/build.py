"""From a bundle to engines: one compiled file and one sidecar for each part.

::

    Bundle + TargetSpec --> Job per part --cached_engine--> kept
                                         \\--require_clean, compile_engine--> engine + .json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bottlekit.build import cpu, rtx, tensorrt
from bottlekit.build.cache import cached_engine, key_for
from bottlekit.build.check import require_clean
from bottlekit.build.job import (
    CalibrationSource,
    Compiled,
    Job,
    PluginRequest,
    calibration_for,
    max_batch_for,
    plugin_for,
    workspace_for,
)
from bottlekit.build.precision import precision_for
from bottlekit.device.bundle import PARTS, Bundle
from bottlekit.device.engine import Engine, sidecar_document, sidecar_path
from bottlekit.device.files import whole_file, write_json
from bottlekit.errors import EngineError, UnknownNameError, UsageError
from bottlekit.targets.availability import require_buildable
from bottlekit.targets.loader import TargetSpec

if TYPE_CHECKING:
    from bottlekit.build.remote import RemoteMachine


class Compiler(Protocol):
    """What builds engines: a module for a kind of them, or another machine."""

    def key_of(self, job: Job) -> dict[str, Any]:
        """What else, beside the bundle and the target, decides what comes out."""

    def compile_engine(self, job: Job, path: Path) -> Compiled:
        """Write the engine of `job` to `path`."""


COMPILERS: dict[str, Compiler] = {"onnxruntime": cpu, "tensorrt_rtx": rtx, "tensorrt": tensorrt}


@dataclasses.dataclass(frozen=True)
class Step:
    """What happens to one job, for whoever watches.

    `state` is "compiling" (then `why` says why an earlier engine is not kept, None if there was none), "cached"
    or "built" (then `engine` is there).
    """

    job: Job
    state: str
    why: str | None = None
    engine: Engine | None = None


def build_bundle(
    bundle: Bundle,
    target: TargetSpec,
    out_dir: Path,
    parts: Sequence[str] | None = None,
    precision: str | None = None,
    max_batch: int | None = None,
    force: bool = False,
    progress: Callable[[Step], None] | None = None,
    command: str = "",
    workspace_mib: int | None = None,
    calibration: CalibrationSource | None = None,
    machine: RemoteMachine | None = None,
    plugin: PluginRequest | None = None,
) -> list[Engine]:
    """Build engines of a bundle for a target into `out_dir`; those that are there already are kept.

    `parts` None builds every part that the bundle has; `precision` None takes the target's first;
    `force` builds again what could be kept. `command` goes into the sidecars. `workspace_mib` is the most scratch
    memory that the compiler may plan with, None for the target's; `calibration` where INT8's images come from.
    `machine` is the one that builds them, None for this one. With `plugin` head and tail have codes at their edge.

    Raises:
        TargetError: the machine cannot build for the target, or cannot be reached.
        UsageError: parts, a precision or a batch that the bundle or the target does not have.
        EngineError: the lint or a compiler refused a graph, or an engine computes something else. Nothing is
            left of it.
    """
    if machine is None:
        require_buildable(target)
    compiler = COMPILERS[target.kind] if machine is None else machine
    jobs = jobs_for(bundle, target, Path(out_dir), parts, precision, max_batch, workspace_mib, calibration, plugin)
    return [_build(job, compiler, force, progress or _ignore, command) for job in jobs]


def jobs_for(
    bundle: Bundle,
    target: TargetSpec,
    out_dir: Path,
    parts: Sequence[str] | None,
    precision: str | None,
    max_batch: int | None,
    workspace_mib: int | None = None,
    calibration: CalibrationSource | None = None,
    plugin: PluginRequest | None = None,
) -> list[Job]:
    """The jobs that `build_bundle` does, in the order of PARTS; UsageError for what cannot be asked."""
    for part in parts or ():
        if part not in PARTS:
            raise UnknownNameError("part", part, PARTS)
        if part not in bundle.parts:
            raise UsageError(f"the bundle {bundle.name} has no {part}; it has: {', '.join(bundle.parts)}")
    wanted = [part for part in bundle.parts if not parts or part in parts]
    chosen, batch = precision_for(target, precision), max_batch_for(bundle, target, max_batch)
    workspace, images = workspace_for(target, workspace_mib), calibration_for(chosen, calibration)
    asked = plugin_for(target, plugin)
    return [Job(bundle, part, target, chosen, batch, out_dir, workspace, images, asked) for part in wanted]


def _build(job: Job, compiler: Compiler, force: bool, progress: Callable[[Step], None], command: str) -> Engine:
    key = key_for(job, compiler.key_of(job))
    engine, why = cached_engine(job, key)
    if engine is not None and not force:
        progress(Step(job, "cached", engine=engine))
        return engine
    progress(Step(job, "compiling", why="rebuilding: --force was given" if engine is not None else why))
    if job.target.kind != "onnxruntime":
        # ONNX Runtime reads the graph here and now, and needs no other package to say what is wrong with it.
        require_clean(job)
    path = str(job.engine_path)
    try:
        with whole_file(path) as temporary:
            compiled = compiler.compile_engine(job, Path(temporary))
            sidecar = _sidecar(job, key, compiled, temporary, command)
        # A crash between the two leaves an engine that its sidecar does not fit: the hash tells, and it is rebuilt.
        write_json(sidecar_path(path), sidecar)
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror or error}; try another folder with -o") from error
    engine = Engine(path, sidecar)
    progress(Step(job, "built", engine=engine))
    return engine


def _sidecar(job: Job, key: dict[str, Any], compiled: Compiled, engine_path: str, command: str) -> dict[str, Any]:
    return sidecar_document(
        engine_path,
        {"name": job.bundle.name, "sha256": job.bundle.sha256},
        job.part,
        job.target.name,
        job.target.kind,
        job.precision,
        key,
        compiled.build_ms,
        compiled.golden,
        compiled.log,
        command,
        compiled.lowered,
        compiled.details,
    )


def _ignore(_step: Step) -> None:
    """Nobody watches."""
