"""When an engine need not be built again.

The sidecar's key holds every field that decides what the compiler makes. An engine whose key is the wanted one,
and whose file still has its hash, is the engine that a build would give; anything else names what differs.
"""

from __future__ import annotations

import json
from typing import Any

import bottlekit
from bottlekit.build.job import Job
from bottlekit.device.engine import Engine, sidecar_path
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import EngineError


def key_for(job: Job, compiler_key: dict[str, Any]) -> dict[str, Any]:
    """The key of a job's engine: its inputs by hash, its settings, its compiler, and this bottlekit."""
    return {
        "onnx_sha256": sha256_of_file(str(job.onnx_path)),
        "bundle_sha256": job.bundle.sha256,
        "target": job.target.name,
        "precision": job.precision,
        **compiler_key,
        "bottlekit": bottlekit.__version__,
    }


def cached_engine(job: Job, key: dict[str, Any]) -> tuple[Engine | None, str | None]:
    """The engine of a job if it is there and is what a build would give; else None and why it must be built.

    The reason is None where nothing was built before.
    """
    path = str(job.engine_path)
    if not job.engine_path.exists() and not job.engine_path.with_name(sidecar_path(job.engine_path.name)).exists():
        return None, None
    try:
        engine = Engine.load(path)
    except EngineError as error:
        return None, f"rebuilding: {error}"
    differing = differences(engine.sidecar["key"], key)
    if differing:
        return None, f"rebuilding: {'; '.join(differing)}"
    return engine, None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two keys differ, each as "precision was fp16, is fp32"."""
    names = [*new, *(name for name in old if name not in new)]
    return [
        f"{name} was {_short(old[name]) if name in old else 'absent'}, "
        f"is {_short(new[name]) if name in new else 'absent'}"
        for name in names
        if name not in old or name not in new or old[name] != new[name]
    ]


def _short(value: Any) -> str:
    """A value for people: hashes cut, text bare, everything else as JSON."""
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return "none" if value is None else json.dumps(value)
