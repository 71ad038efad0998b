"""Live servers under a coverage-guided fuzzer, for a bounded time, where one is installed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = 20


@pytest.mark.slow
def test_a_fuzzer_finds_no_bytes_that_upset_a_live_server(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; type: pip install atheris")
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz_server.py"), f"-max_total_time={SECONDS}", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 100
