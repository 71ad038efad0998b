"""Measuring a phase in a process of its own: one job as JSON to the worker, one answer back.

job --bench_worker--> result, or the error that it ended with
Ctrl-C, SIGTERM -----> the worker ends, too; what it had of the energy comes back, marked `partial`
a pipe of its own <-- the steps of measuring energy, which takes minutes, a line each as they begin
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Tuple

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
    heard = _Heard(worker, dict(job, steps=writing))
    try:
        said, complained = heard.whole()
        telling.join()
    except BaseException:
        last = _ended(worker, heard)
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


class _Heard:
    """A worker is told its job, and listened to in a thread until it has ended.

    In a thread, because `communicate` cannot be called again after its timeout: Python 3.6 raises ValueError if
    one of the outputs had ended already.
    """

    def __init__(self, worker: "subprocess.Popen[bytes]", job: Dict[str, Any]) -> None:
        self._outputs = (b"", b"")
        self._worker = worker
        self._words = json.dumps(job).encode("utf-8")
        # Not the thread itself: a `join` that Ctrl-C interrupts takes it for ended (bpo-45274).
        self._over = threading.Event()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        try:
            self._outputs = self._worker.communicate(self._words)
        finally:
            self._over.set()

    def whole(self, at_most_s: float = math.inf) -> Tuple[bytes, bytes]:
        """Standard output and standard error, once the worker has ended; nothing if it has not after so long."""
        until = time.monotonic() + at_most_s
        while not self._over.wait(_LOOK_S) and time.monotonic() < until:
            pass
        return self._outputs


def _tell(reading: int, on_step: Callable[[str], None]) -> None:
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            on_step(line.rstrip("\n"))


def _ended(worker: "subprocess.Popen[bytes]", heard: _Heard) -> Dict[str, Any]:
    """End a worker, gently first; its answer, or nothing."""
    worker.terminate()
    try:
        answer: Dict[str, Any] = json.loads(heard.whole(_LAST_WORDS_S)[0].decode("utf-8"))
        return answer
    except ValueError:
        return {}
    finally:
        worker.kill()
        worker.wait()
