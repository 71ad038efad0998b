"""`python benchmarks/links table`, `trace`, and the processes that they start: `pacer`, `device`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

VERBS = ("table", "trace", "pacer", "device")


def run() -> None:
    """The verb's own main, with the other words."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        raise SystemExit(f"python benchmarks/links {{{','.join(VERBS)}}} [--help]")
    importlib.import_module(f"links.{sys.argv[1]}").main(sys.argv[2:])


run()
