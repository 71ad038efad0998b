"""A Jetson's power mode and clocks for the length of a measurement, and back whatever happens.

    power_mode(0, lock_clocks=True)  --a pipe--> power_mode_guard  --nvpmodel, jetson_clocks--> the board
              the pipe ends          ----------> the guard restores

The guard is another process: it restores also where this one is killed.
"""

import contextlib
import json
import signal
import subprocess
import sys
from typing import Any, Dict, Iterator, Optional

from .children import child_environment
from .errors import TargetError


@contextlib.contextmanager
def power_mode(mode: Optional[int] = None, lock_clocks: bool = False) -> Iterator[Dict[str, Any]]:
    """Set nvpmodel's mode of this number, and lock the clocks at their highest, for the length of the `with` block.

    Yields what was set: `before` and `during` ({"name", "number"}) where a mode was asked for, and `clocks_locked`.
    None and False leave all as it is. TargetError where it cannot be set, or, after the block, not be restored.
    """
    if mode is None and not lock_clocks:
        yield {"clocks_locked": False}
        return
    guard = subprocess.Popen(
        [sys.executable, "-m", "bottlekit.device.power_mode_guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
        # The terminal's signals are not for it.
        start_new_session=True,
    )
    try:
        assert guard.stdin is not None
        guard.stdin.write((json.dumps({"mode": mode, "lock_clocks": lock_clocks}) + "\n").encode("utf-8"))
        guard.stdin.flush()
        told = _line(guard)
        if "error" in told:
            raise TargetError("the power mode was not set: {}".format(told["error"]))
        yield told
    except BaseException:
        _end(guard)
        raise
    failed = _end(guard)
    if failed:
        raise TargetError("the power mode was not restored: {}".format("; ".join(failed)))


def _line(guard: "subprocess.Popen[bytes]") -> Dict[str, Any]:
    assert guard.stdout is not None
    line = guard.stdout.readline()
    if not line:
        raise TargetError("the process that sets the power mode ended with code {}".format(guard.wait()))
    told: Dict[str, Any] = json.loads(line.decode("utf-8"))
    return told


def _end(guard: "subprocess.Popen[bytes]") -> Any:
    """Let the guard restore, and wait for it; what it could not restore. A second Ctrl-C waits no longer."""
    assert guard.stdin is not None
    assert guard.stdout is not None
    with contextlib.suppress(OSError):
        guard.stdin.close()
    with guard.stdout:
        lines = guard.stdout.read().decode("utf-8").splitlines()
    guard.wait()
    return json.loads(lines[-1]).get("failed", []) if lines else []


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the `with` block through everything that cleans up, as Ctrl-C does.

    Only in the main thread, where Python takes signals; elsewhere nothing changes.
    """
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Under nohup a hang-up is to be ignored, and stays so.
            if signal.getsignal(number) == signal.SIG_DFL:
                with contextlib.suppress(ValueError):
                    before[number] = signal.signal(number, _end_by_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_by_signal(number: int, _frame: Any) -> None:
    sys.exit(128 + number)
