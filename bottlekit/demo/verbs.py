"""Running the verbs of the command line, each in a process of its own, as a person would type them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bottlekit.errors import BottlekitError

_STOP_S = 10.0


@dataclasses.dataclass
class Verbs:
    """Runs verbs in `folder` and remembers the lines, so that a person can repeat them one by one.

    `say` gets the line before it runs. Progress and advice of the verbs go to this process's stderr, unless
    `quiet`; their JSON comes back.
    """

    folder: Path
    say: Callable[[str], None]
    quiet: bool = False
    lines: list[str] = dataclasses.field(default_factory=list)

    def run(self, *words: str) -> dict[str, Any]:
        """Run one verb with --json and return what it reports; BottlekitError when it fails."""
        self._tell(words)
        done = subprocess.run(self._command(words), cwd=self.folder, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise BottlekitError(
                f"the demo stopped: `bottlekit {words[0]}` ended with exit status {done.returncode} (see above)"
            )
        report = json.loads(done.stdout)
        if not isinstance(report, dict):
            raise BottlekitError(f"the demo stopped: `bottlekit {words[0]}` reported no JSON object")
        return report

    @contextlib.contextmanager
    def background(self, *words: str) -> Iterator[dict[str, Any]]:
        """Run a verb that stays (`serve`) for the length of a `with`; yields the JSON line it starts with."""
        self._tell(words)
        process = subprocess.Popen(self._command(words), cwd=self.folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if not first:
                status = process.wait()
                raise BottlekitError(f"the demo stopped: `bottlekit {words[0]}` ended with exit status {status}")
            yield json.loads(first)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def _tell(self, words: tuple[str, ...]) -> None:
        line = shlex.join(["bottlekit", *words])
        self.lines.append(line)
        self.say(f"$ {line}")

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "bottlekit", *words, "--json", *(["--quiet"] if self.quiet else [])]
