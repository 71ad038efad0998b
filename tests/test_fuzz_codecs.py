"""The decoders under a coverage-guided fuzzer, for a bounded time, where one is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fuzzing import fuzzed


@pytest.mark.slow
def test_a_fuzzer_finds_no_bytes_that_upset_a_decoder(tmp_path: Path) -> None:
    assert fuzzed(Path(__file__).with_name("device") / "fuzz_codecs.py", tmp_path) > 100
