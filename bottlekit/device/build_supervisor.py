"""Building a job in a process of its own, which may crash, hang, or be killed for memory.

    supervisor --starts--> worker (build_worker.py) --> out/, or nothing
               <-- JSON lines, exit status, the end of build.log

No numpy here: a broken numpy ends a process at import (`Illegal instruction` on a Jetson), and must be told of.
A job that was built is not built again, so a build may be asked for twice: after a dropped connection, say.
"""

import contextlib
import fcntl
import glob
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from .build_answer import JOB_FILE, LOG_FILE, OUT_FOLDER, finished_answer
from .children import child_environment
from .errors import BottlekitError, EngineError, TargetError, error_from_words
from .files import read_json
from .trt_errors import cause_of_exit, classify

Say = Callable[[str], None]
# Builds one job folder: (folder, halve the workspace, say, deadline on time.monotonic).
Attempt = Callable[[str, bool, Say, float], None]

_MIB = 1 << 20
_HEARTBEAT_S = 30.0
_LAST_LINES = 20
_TEMPORARY = ".tmp"


def build(folder: str, say: Say, timeout_s: float, attempt: Optional[Attempt] = None) -> Dict[str, Any]:
    """Build the job in `folder`; returns the content of out/answer.json. `say` gets a line for each step.

    When memory runs out, it is tried once more with half the workspace. `timeout_s` is for everything together.

    Raises BundleError, TargetError and EngineError as `build_run.run_job` does, and EngineError in one line when
    the process crashes, is killed, or takes too long. Nothing but build.log is left then.
    """
    attempt = attempt or attempt_in_subprocess
    deadline = time.monotonic() + timeout_s
    job = read_json(os.path.join(folder, JOB_FILE), "build job")
    own = _alone(os.path.join(folder, JOB_FILE), "another build of this job", say, deadline)
    with own, _alone(_turn_file(), "another build on this machine", say, deadline):
        finished = finished_answer(folder)
        if finished is not None:
            say("built already; nothing to do")
            return finished
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, LOG_FILE))
        try:
            _attempt(attempt, folder, False, say, deadline)
        except EngineError as error:
            half = _half_workspace_mib(job)
            if not _ran_out_of_memory(error) or half is None:
                raise
            say("{}; trying once more with half the workspace, {} MiB".format(error, half))
            _attempt(attempt, folder, True, say, deadline)
        answer = finished_answer(folder)
    if answer is None:
        raise EngineError("the build of {} left no answer; see {}/build.log".format(folder, folder))
    return answer


def _attempt(attempt: Attempt, folder: str, halve: bool, say: Say, deadline: float) -> None:
    """One attempt. Whatever way it ends, nothing half-written stays."""
    try:
        attempt(folder, halve, say, deadline)
    finally:
        for path in glob.glob(os.path.join(glob.escape(folder), ".{}.*.part*".format(OUT_FOLDER))):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(os.path.join(folder, _TEMPORARY), ignore_errors=True)


def _ran_out_of_memory(error: EngineError) -> bool:
    cause = classify(str(error))
    return cause is not None and cause.name == "out-of-memory"


def _half_workspace_mib(job: Dict[str, Any]) -> Optional[int]:
    """Half a job's workspace; None where there is nothing to halve."""
    settings = job.get("compile")
    size = settings.get("workspace_bytes") if isinstance(settings, dict) else None
    return size // 2 // _MIB if isinstance(size, int) and size >= 2 * _MIB else None


def attempt_in_subprocess(folder: str, halve: bool, say: Say, deadline: float) -> None:
    """Build in a new process; raises its error, or what its death means."""
    command = [sys.executable, "-m", "bottlekit.device.build_worker", folder] + (["--halve"] if halve else [])
    temporary = os.path.abspath(os.path.join(folder, _TEMPORARY))
    os.makedirs(temporary, exist_ok=True)
    with open(os.path.join(folder, LOG_FILE), "ab") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=child_environment(TMPDIR=temporary),
            # Its own group, so that what it started ends with it.
            start_new_session=True,
        )
    try:
        error = _follow(process, say, deadline)
    finally:
        _end_group(process)
    if error is not None:
        raise error
    if process.returncode != 0:
        raise EngineError(_words_of_death(process.returncode, folder))


def _follow(process: "subprocess.Popen[bytes]", say: Say, deadline: float) -> Optional[BottlekitError]:
    """Hand on the worker's progress until it ends; the error that it told, None if it told none."""
    lines: "queue.Queue[Optional[bytes]]" = queue.Queue()
    assert process.stdout is not None
    pipe = process.stdout

    def read() -> None:
        with pipe:
            for line in pipe:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    started = time.monotonic()
    error: Optional[BottlekitError] = None
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            seconds = time.monotonic() - started
            return EngineError(
                "the build did not end within {:.0f} s and was stopped; allow it more with --timeout".format(
                    seconds
                )
            )
        try:
            line = lines.get(timeout=min(left, _HEARTBEAT_S))
        except queue.Empty:
            if deadline > time.monotonic():
                say("still building, {:.0f} s".format(time.monotonic() - started))
            continue
        if line is None:
            process.wait()
            return error
        event = _event(line)
        if event.get("event") == "progress":
            say(str(event.get("message")))
        elif event.get("event") == "error":
            error = error_from_words(str(event.get("kind")), str(event.get("message")))


def _event(line: bytes) -> Dict[str, Any]:
    """A line of the worker as an object; {} for one that is none."""
    try:
        event = json.loads(line.decode("utf-8"))
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _words_of_death(status: int, folder: str) -> str:
    """What an exit status and the end of the log mean, in one line."""
    path = os.path.join(folder, LOG_FILE)
    last = _last_lines(path)
    cause = cause_of_exit(status) or classify(" ".join(last))
    how = "ended with signal {}".format(-status) if status < 0 else "ended with code {}".format(status)
    words = "{}; {}".format(cause.meaning, cause.advice) if cause else "see its log"
    said = " (it said last: {})".format(last[-1]) if last else ""
    return "the build {}: {}{}; the log is {}".format(how, words, said, path)


def _last_lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [" ".join(line.split()) for line in file.readlines()[-_LAST_LINES:] if line.strip()]
    except OSError:
        return []


@contextlib.contextmanager
def _alone(path: str, what: str, say: Say, deadline: float) -> Iterator[None]:
    """Hold a file for this process; wait while another one holds it. `what` is what that one is doing."""
    # Opened to write only where it does not exist: the content of a job is not touched.
    with open(path, "rb" if os.path.exists(path) else "wb") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise TargetError("{} is still running; try again later".format(what))
                if not told:
                    say("{} is running; waiting for it".format(what))
                told = True
                time.sleep(0.2)
        yield


def _turn_file() -> str:
    """The file that whoever builds on this machine holds: TensorRT chooses by timing, and memory is short."""
    return os.path.join(tempfile.gettempdir(), "bottlekit-build-{}.lock".format(os.getuid()))
