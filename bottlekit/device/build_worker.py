"""`python -m bottlekit.device.build_worker JOB [--halve]`: build one job in this process, which may die of it.

stdout: one JSON object a line, {"event": "progress", "message": line} until {"event": "answer"} or
{"event": "error", "kind": class name, "message": line}. stderr: what libraries print, for the raw log.
"""

import json
import os
import sys
import traceback
from typing import Any, List

from .build_run import run_job
from .errors import BottlekitError


def main(arguments: List[str]) -> int:
    """Build, and tell; what libraries print to standard output goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: str, **values: Any) -> None:
        answers.write(json.dumps(dict(event=event, **values)) + "\n")
        answers.flush()

    folder = arguments[0]
    try:
        run_job(folder, lambda message: tell("progress", message=message), halve="--halve" in arguments[1:])
    except BottlekitError as error:
        tell("error", kind=type(error).__name__, message=str(error))
        return 1
    except MemoryError:
        tell("error", kind="EngineError", message="the machine ran out of memory")
        return 1
    except Exception as error:
        # A library's own exception: the trace goes into the raw log, one line to whoever asked.
        traceback.print_exc()
        message = "{}: {}".format(type(error).__name__, " ".join(str(error).split()))
        tell("error", kind="EngineError", message=message)
        return 1
    tell("answer")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
