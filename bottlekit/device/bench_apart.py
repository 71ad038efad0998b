"""Measuring a phase in a process of its own: one job as JSON to the worker, one answer back.

job --bench_worker--> result, or the error that it ended with
Ctrl-C, SIGTERM -----> the worker ends, too; what it had of the energy comes back, marked `partial`
a pipe of its own <-- the steps of measuring energy, which takes minutes, a line each as they begin
"""

import json
import os
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, Optional, Tuple

from .children import child_environment
from .errors import EngineError, error_from_words

# What a worker needs to gather what it has, when it is told to end.
_LAST_WORDS_S = 20.0
# How often it is looked whether a signal came: of two at once, the kernel may wake other threads than the main one.
_LOOK_S = 1.0


def result_of_worker(
    job: Dict[str, Any],
    what: str,
    on_partial: Callable[[Dict[str, Any]], None],
    on_step: Callable[[str], None] = lambda step: None,
) -> Dict[str, Any]:
    """The result of a job (bench_worker.py describes it); `what` names it in errors ("head of net").

    When this process is told to end, `on_partial` gets the worker's partial result, if there is one, before the
    exception goes on. `on_step` is called in another thread.
    """
    reading, writing = os.pipe()
    telling = threading.Thread(target=_tell, args=(reading, on_step), daemon=True)
    try:
        worker = subprocess.Popen(
            [sys.executable, "-m", "bottlekit.device.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            pass_fds=(writing,),
        )
    finally:
        # The worker's end is the only one: when it is gone, so is the thread.
        os.close(writing)
        telling.start()
    try:
        said, complained = _answered(worker, dict(job, steps=writing))
        telling.join()
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


def _answered(worker: "subprocess.Popen[bytes]", job: Dict[str, Any]) -> Tuple[bytes, bytes]:
    """Standard output and standard error of a worker, once it has ended."""
    words: Optional[bytes] = json.dumps(job).encode("utf-8")
    while True:
        try:
            return worker.communicate(words, timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            words = None  # the next call goes on with what is left of them


def _tell(reading: int, on_step: Callable[[str], None]) -> None:
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            on_step(line.rstrip("\n"))


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
