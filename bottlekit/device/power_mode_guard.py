"""`python -m bottlekit.device.power_mode_guard`: set a Jetson's power mode and clocks, and restore them.

stdin   {"mode": number or null, "lock_clocks": true or false}, one line; then nothing until its end: then restore
stdout  {"before": ..., "during": ...} or {"error": line}; after restoring {"failed": [lines]}

A process of its own, in a session of its own, which no signal of the terminal reaches: the pipe on its standard
input ends when whoever asked ends, for whatever reason. So it is restored after Ctrl-C, SIGTERM, SIGKILL, and a
dropped connection. What could not be restored is said on standard error, with what to type.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Optional

_COMMAND_S = 120.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_MODE = re.compile(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)\b")


class _RefusedError(Exception):
    """One line: a command that failed, and what to do."""


class Guard:
    """Sets, and remembers how to restore: each step is remembered before it is taken."""

    def __init__(self, folder: str) -> None:
        self._stored = os.path.join(folder, "clocks")
        self._undo: List[List[str]] = []

    def set(self, mode: Optional[int], lock_clocks: bool) -> Dict[str, Any]:
        """Set what was asked for; what it was before, and what it is."""
        told: Dict[str, Any] = {}
        if mode is not None:
            before = _mode()
            told["before"] = before
            if before["number"] != mode:
                self._undo.append(["nvpmodel", "-m", str(before["number"])])
                _run(["nvpmodel", "-m", str(mode)])
            told["during"] = _mode()
            if told["during"]["number"] != mode:
                raise _RefusedError(
                    "the power mode is {} still; mode {} does not exist here or needs a reboot: type sudo nvpmodel "
                    "-m {} and see what it says".format(told["during"]["number"], mode, mode)
                )
        if lock_clocks:
            # It asks before it overwrites a file, so there must be none.
            _run(["jetson_clocks", "--store", self._stored])
            self._undo.append(["jetson_clocks", "--restore", self._stored])
            _run(["jetson_clocks"])
        return dict(told, clocks_locked=lock_clocks)

    def restore(self) -> List[str]:
        """Take every step back, the last first; a line for each that failed."""
        failed = []
        while self._undo:
            try:
                _run(self._undo.pop())
            except _RefusedError as error:
                failed.append(str(error))
        return failed


def _mode() -> Dict[str, Any]:
    """The power mode's name and number."""
    words = _run(["nvpmodel", "-q"])
    found = _MODE.search(words)
    if found is None:
        raise _RefusedError("nvpmodel -q does not tell the power mode: {}".format(" ".join(words.split())[:200]))
    return {"name": found.group(1), "number": int(found.group(2))}


def _run(command: List[str]) -> str:
    """A command's output; _RefusedError where it fails or takes too long."""
    words = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_S,
        )
    except FileNotFoundError:
        raise _RefusedError("there is no {} here: only a Jetson has it".format(command[0]))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _RefusedError("{} failed: {}".format(words, error))
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        said = " ".join(output.split())[:200] or "it said nothing"
        raise _RefusedError("{} failed: {}; run it as root (type: sudo {})".format(words, said, words))
    return output


def main() -> None:
    """Set, wait for the end of the input, restore."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    if not line:
        return
    request = json.loads(line)
    with tempfile.TemporaryDirectory(prefix="bottlekit-clocks-") as folder:
        guard = Guard(folder)
        try:
            _answer(guard.set(request["mode"], request["lock_clocks"]))
        except _RefusedError as error:
            _answer({"error": str(error)})
        else:
            sys.stdin.read()
        failed = guard.restore()
    for words in failed:
        sys.stderr.write("bottlekit: NOT restored: {}\n".format(words))
    _answer({"failed": failed})


def _answer(values: Dict[str, Any]) -> None:
    """One line, if anybody still listens; what has to be restored is restored all the same."""
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(values) + "\n").encode("utf-8"))


if __name__ == "__main__":
    main()
