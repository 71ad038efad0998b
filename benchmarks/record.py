"""Appends a benchmark's result to results/<script>.jsonl. See README.md for the rules."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bottlekit
from bottlekit.device.environment import environment

RESULTS = Path(__file__).parent / "results"


def record(claim: str, result: dict[str, Any], threads: int | None = None) -> Path:
    """Append one line: the claim, when and on what it was measured, and the result with its raw samples."""
    script = Path(sys.argv[0])
    line = {
        "claim": claim,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bottlekit": bottlekit.__version__,
        "command": shlex.join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "environment": environment(threads),
        **result,
    }
    path = RESULTS / f"{script.stem}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
    return path
