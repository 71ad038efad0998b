"""`python -m bottlekit.device.bench_worker`: measure one phase, alone in this process.

stdin  {"bundle": path, "parts": those whose graphs are there, "phase": name, "engine": path or null,
        "effort": [...], "threads": n or null, "power": PowerRequest.to_dict() or null, "fused": bool,
        "quantiser": "kernel", "plugin" or null, "server": HOST:PORT or null, "access": [...],
        "steps": the file descriptor that gets a line for each step of measuring energy, or null}
stdout {"result": ...} or {"error": {"kind": class name, "message": line}}

SIGINT and SIGTERM end it; when that meets it while energy is measured, it answers with what it has.
"""

import contextlib
import functools
import json
import os
import signal
import sys
from typing import Any, Dict, Optional

from .bench import Effort, bench_phase
from .bundle import Bundle
from .energy_phase import PowerRequest
from .engine import Engine
from .errors import BottlekitError
from .link_phases import LinkAccess


def answer(job: Dict[str, Any]) -> Dict[str, Any]:
    """Do a job; bottlekit's errors become part of the answer."""
    try:
        # The files were compared with their hashes by the process that asks.
        bundle = Bundle.load(job["bundle"], verify=False, parts=job["parts"])
        engine = None if job["engine"] is None else Engine.load(job["engine"], verify=False)
        power = None if job["power"] is None else PowerRequest.from_dict(job["power"])
        effort = Effort(*job["effort"])
        link = (job["server"], LinkAccess(*job["access"]))
        how = (effort, job["threads"], power, job["fused"], job["quantiser"], *link)
        on_step = functools.partial(_tell, job["steps"])
        return {"result": bench_phase(bundle, job["phase"], engine, *how, on_step=on_step)}
    except BottlekitError as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def _tell(steps: Optional[int], step: str) -> None:
    # Whoever asked may be gone; the interrupt that follows is its own matter.
    with contextlib.suppress(OSError):
        if steps is not None:
            os.write(steps, "{}\n".format(step).encode("utf-8"))


def main() -> None:
    """Read the job, answer. What libraries print to standard output goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    job = json.loads(sys.stdin.read())
    with answers:
        try:
            json.dump(answer(job), answers, allow_nan=False)
        except KeyboardInterrupt:
            sys.exit(130)


def _end(_number: int, _frame: Any) -> None:
    """End at the first signal. A terminal sends one and the parent another: the second must not cut the answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN: Python before 3.9.3 calls it if both have come already (bpo-43406).
        signal.signal(number, _go_on)
    raise KeyboardInterrupt


def _go_on(_number: int, _frame: Any) -> None:
    pass


if __name__ == "__main__":
    main()
