"""`python -m bottlekit.device.bench_worker`: measure one phase, alone in this process.

stdin  {"bundle": path, "parts": those whose graphs are there, "phase": name, "engine": path or null,
        "effort": [...], "threads": n or null}
stdout {"result": ...} or {"error": {"kind": class name, "message": line}}
"""

import json
import os
import sys
from typing import Any, Dict

from .bench import Effort, bench_phase
from .bundle import Bundle
from .engine import Engine
from .errors import BottlekitError


def answer(job: Dict[str, Any]) -> Dict[str, Any]:
    """Do a job; bottlekit's errors become part of the answer."""
    try:
        # The files were compared with their hashes by the process that asks.
        bundle = Bundle.load(job["bundle"], verify=False, parts=job["parts"])
        engine = None if job["engine"] is None else Engine.load(job["engine"], verify=False)
        return {"result": bench_phase(bundle, job["phase"], engine, Effort(*job["effort"]), job["threads"])}
    except BottlekitError as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def main() -> None:
    """Read the job, answer. What libraries print to standard output goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = json.loads(sys.stdin.read())
    with answers:
        json.dump(answer(job), answers, allow_nan=False)


if __name__ == "__main__":
    main()
