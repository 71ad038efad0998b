"""The run of all tests goes on when one of its workers dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
FILES = 6
EACH = 3
DIES = """
import os
import pathlib

import pytest


@pytest.mark.parametrize("number", range({each}))
def test_it(number):
    died = pathlib.Path(__file__).with_suffix(".died")
    if number == 1 and {dies} and not died.exists():
        died.touch()
        os._exit(1)
"""


@pytest.mark.slow
def test_what_a_lost_worker_had_to_do_is_done_and_the_run_ends(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    # The scheduler of this very project, and nothing else of it.
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    for number in range(FILES):
        text = DIES.format(each=EACH, dies=number == FILES - 1)
        (tmp_path / f"test_{number}.py").write_text(text, encoding="utf-8")
    words = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "-n", "2", "--dist", "loadfile"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--no-loadscope-reorder", "."],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert f"1 failed, {FILES * EACH} passed" in done.stdout, done.stdout
    assert "crashed while running 'test_5.py::test_it[1]'" in done.stdout
