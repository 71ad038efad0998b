"""Verbs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}


def typed(*words: object, code: int = 0, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run `bottlekit` with the words to its end and check its exit code; it must never show a traceback."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-m", "bottlekit", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        env=ENVIRONMENT,
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
