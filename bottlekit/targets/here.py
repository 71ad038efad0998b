"""What this machine is, asked of the agent in a process of its own: looking at a GPU holds some of its memory."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

from bottlekit.device.children import child_environment
from bottlekit.errors import TargetError

_TIMEOUT_S = 120


@functools.cache
def machine_here(plugin_library: str | None = None) -> dict[str, Any]:
    """The facts of this machine, as `machine_facts` of the device island gives them; TargetError if it fails."""
    command = [sys.executable, "-m", "bottlekit.device.agent", "facts"]
    command += [] if plugin_library is None else ["--plugin-library", plugin_library]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_S, env=child_environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"looking at this machine took more than {_TIMEOUT_S} s; does nvidia-smi answer?"
        ) from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    event = json.loads(lines[-1]) if lines else {}
    if event.get("event") != "answer":
        words = event.get("message") or f"the process ended with code {done.returncode}"
        raise TargetError(f"cannot tell what this machine is: {words}")
    facts: dict[str, Any] = event["answer"]
    return facts


def required_tensorrt(accepts: tuple[str, ...], version: str) -> str:
    """Which of the accepted beginnings a version has; the usual one if it has none of them."""
    numbers = version.split(".")
    for prefix in accepts:
        wanted = prefix.split(".")
        if numbers[: len(wanted)] == wanted:
            return prefix
    return accepts[0]
