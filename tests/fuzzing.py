"""A script of atheris, a coverage-guided fuzzer, run for a bounded time."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 20


def fuzzed(script: Path, folder: Path) -> int:
    """How many inputs it tried, none of which may end it; skipped where atheris is not installed."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; type: pip install atheris")
    done = subprocess.run(
        [sys.executable, str(script), f"-max_total_time={SECONDS}", "-seed=1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-3000:]
    return int(runs[1])
