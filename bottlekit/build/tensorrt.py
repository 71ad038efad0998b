"""TensorRT engines, on the machine that will run them: a job folder, and the agent in a process of its own.

::

    Job --job_folder_from_job--> folder --python -m bottlekit.device.agent build--> folder/out --> engine

The agent is the one that goes to a Jetson, so what is proved of one is proved of the other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from bottlekit.build.agent_talk import AgentTalk
from bottlekit.build.job import Compiled, Job
from bottlekit.build.job_folder import (
    engine_from_answer,
    job_folder_from_job,
    key_from_facts,
    plugin_from_facts,
    timing_cache_path,
)
from bottlekit.device.children import child_environment
from bottlekit.targets.here import machine_here

TIMEOUT_S = 3600


def key_of(job: Job) -> dict[str, Any]:
    """What else, beside the bundle and the target, decides what comes out; TargetError if this machine cannot."""
    return key_from_facts(job, _facts(job))


def _facts(job: Job) -> dict[str, Any]:
    return machine_here(job.plugin.library) if job.plugin is not None else machine_here()


def compile_engine(job: Job, path: Path) -> Compiled:
    """Write the engine of `job` to `path`.

    TargetError if this machine is not what the target needs; EngineError if the graph cannot be lowered, TensorRT
    refuses it or dies of it, or the engine computes something else.
    """
    key = key_of(job)
    cache = timing_cache_path(job, key)
    with tempfile.TemporaryDirectory(prefix="bottlekit-") as scratch:
        folder = Path(scratch) / "job"
        plugin = plugin_from_facts(job, _facts(job))
        job_folder_from_job(job, folder, key["compiler_version"], cache if cache.exists() else None, plugin=plugin)
        messages = run_agent(["build", str(folder), "--timeout", str(TIMEOUT_S)])
        return engine_from_answer(job, folder, path, key, messages)


def run_agent(arguments: list[str]) -> list[str]:
    """Run the agent here to its end; what it told on the way. Its error is raised as it was there."""
    talk = AgentTalk(lambda message: None)
    process = subprocess.Popen(
        [sys.executable, "-m", "bottlekit.device.agent", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    errors: list[bytes] = []
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda pipe: errors.append(pipe.read()), args=(process.stderr,), daemon=True)
    reader.start()
    with process:
        try:
            for line in process.stdout:
                talk.take(line.decode("utf-8", "replace"))
        except BaseException:
            # Asked to end, it ends what it started.
            process.terminate()
            raise
        finally:
            reader.join()
    talk.answer("this machine", process.returncode, errors[0].decode("utf-8", "replace"))
    return talk.messages
