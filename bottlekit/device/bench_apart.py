"""Measuring a phase in a process of its own: one job as JSON to the worker, one answer back.

job --bench_worker--> result, or the error that it ended with
Ctrl-C, SIGTERM -----> the worker ends, too; what it had of the energy comes back, marked `partial`
"""

import json
import subprocess
import sys
from typing import Any, Callable, Dict

from .children import child_environment
from .errors import EngineError, error_from_words

# What a worker needs to gather what it has, when it is told to end.
_LAST_WORDS_S = 20.0


def result_of_worker(
    job: Dict[str, Any], what: str, on_partial: Callable[[Dict[str, Any]], None]
) -> Dict[str, Any]:
    """The result of a job (bench_worker.py describes it); `what` names it in errors ("head of net").

    When this process is told to end, `on_partial` gets the worker's partial result, if there is one, before the
    exception goes on.
    """
    worker = subprocess.Popen(
        [sys.executable, "-m", "bottlekit.device.bench_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    try:
        said, complained = worker.communicate(json.dumps(job).encode("utf-8"))
    except BaseException:
        last = _ended(worker)
        if last.get("result", {}).get("partial"):
            on_partial(last["result"])
        raise
    try:
        answer = json.loads(said.decode("utf-8"))
    except ValueError:
        lines = complained.decode("utf-8", "replace").split("\n")
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise EngineError(
            "the process that measured the {} ended with code {}: {}".format(what, worker.returncode, last_line)
        )
    if "error" in answer:
        raise error_from_words(answer["error"]["kind"], answer["error"]["message"])
    result: Dict[str, Any] = answer["result"]
    return result


def _ended(worker: "subprocess.Popen[bytes]") -> Dict[str, Any]:
    """End a worker, gently first; its answer, or nothing."""
    worker.terminate()
    try:
        said = worker.communicate(timeout=_LAST_WORDS_S)[0]
        answer: Dict[str, Any] = json.loads(said.decode("utf-8"))
        return answer
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    finally:
        worker.kill()
        worker.wait()
