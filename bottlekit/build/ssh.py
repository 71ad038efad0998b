"""Another machine through the system's own ssh: its keys, its config and its known hosts count, none is disabled.

Files travel as a tar stream through the same ssh, so the other side needs nothing but a shell and tar.
"""

from __future__ import annotations

import contextlib
import io
import queue
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from bottlekit.errors import TargetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# What ssh says on its way out, and what that means for the person who typed --host.
_REFUSALS = (
    (r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED|No .* host key is known",
     "its host key is not the known one; check the machine, then type: ssh {host}"),
    (r"Permission denied", "it refused every key; type: ssh-copy-id {host}"),
    (r"Could not resolve hostname", "no such host; check the name, or add it to ~/.ssh/config"),
    (r"Connection refused", "nothing listens for ssh there; start sshd on it"),
    (r"timed out|No route to host|Network is unreachable", "it does not answer; check the network and the power"),
    (r"No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes",
     "its disk is full; free some space there"),
    (r"Connection closed|closed by remote host|Broken pipe|Connection reset|client_loop|"
     r"Timeout, server .* not responding",
     "the connection dropped; type the same command again, finished parts are kept"),
)  # fmt: skip


class SshError(TargetError):
    """The connection failed, broke off or took too long; what was started there may go on."""


class Completed(NamedTuple):
    """How a remote command ended: its exit status, its standard output, the end of its standard error."""

    status: int
    stdout: bytes
    stderr: str


class SshHost:
    """One other machine. `host` is what one types after `ssh`; `options` go to ssh in front of it."""

    def __init__(self, host: str, options: Sequence[str] = ()) -> None:
        if not host or host.startswith("-") or any(character.isspace() for character in host):
            raise UsageError(f"--host takes what one types after ssh, like nvidia@tx2, not {host!r}")
        if shutil.which("ssh") is None:
            raise TargetError(
                "--host needs the ssh client, which is not installed here; type: apt install openssh-client"
            )
        self.host = host
        # Questions would hang a build; a dead link must be noticed within half a minute.
        self._command = [
            "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10",
            "-o", "ServerAliveCountMax=3", *options, host,
        ]  # fmt: skip

    def run(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float | None = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command there, its words quoted; `on_line` gets each line of its output as it comes.

        SshError when ssh itself fails (its exit status is 255), in one line with what to do, or when `timeout_s`
        passes (None waits as long as it takes); the command's own failure is in the status that comes back.
        """
        command = [*self._command, "--", shlex.join(arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            stdout, stderr = _collect(process, stdin, timeout_s, on_line)
            ended = process.poll() is not None
        finally:
            # Also when `on_line` raises or Ctrl-C is pressed: no ssh is left behind.
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if not ended:
            raise SshError(f"{self.host}: no end after {timeout_s:.0f} s of: {arguments[0]}; raise --timeout")
        if process.returncode == 255:
            raise self._refused(stderr)
        return Completed(process.returncode, stdout, stderr)

    def send(self, files: dict[str, Path], folder: str, timeout_s: float = 600.0) -> None:
        """Write local files into a folder there, under the given names; the folder is made."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, path in files.items():
                archive.add(path, arcname=name, recursive=False)
        script = f"mkdir -p {shlex.quote(folder)} && tar -x -f - -C {shlex.quote(folder)}"
        done = self.run(["sh", "-c", script], stdin=stream.getvalue(), timeout_s=timeout_s)
        if done.status != 0:
            raise self._failed("write files there", done)

    def fetch(self, folder: str, names: Sequence[str], timeout_s: float = 600.0) -> dict[str, bytes]:
        """Read files of a folder there; TargetError when one is missing."""
        done = self.run(["tar", "-c", "-f", "-", "-C", folder, "--", *names], timeout_s=timeout_s)
        if done.status != 0:
            raise self._failed("read files there", done)
        contents: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(done.stdout), mode="r") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name in names else None
                if file is not None:
                    contents[member.name] = file.read()
        missing = sorted(set(names) - set(contents))
        if missing:
            raise TargetError(f"{self.host}: it sent no {', '.join(missing)}; type the same command again")
        return contents

    def _failed(self, what: str, done: Completed) -> TargetError:
        for pattern, advice in _REFUSALS:
            if re.search(pattern, done.stderr):
                return TargetError(f"{self.host}: cannot {what}: {advice.format(host=self.host)}")
        # tar says what is wrong first, and that it gives up last.
        return TargetError(f"{self.host}: cannot {what}: {_lines(done.stderr)[0]}")

    def _refused(self, stderr: str) -> SshError:
        for pattern, advice in _REFUSALS:
            if re.search(pattern, stderr):
                return SshError(f"{self.host}: {advice.format(host=self.host)} ({_lines(stderr)[-1]})")
        return SshError(f"{self.host}: ssh failed: {_lines(stderr)[-1]}")


def _lines(text: str) -> list[str]:
    """The lines of an error text that say something; never empty."""
    return [line.strip() for line in text.splitlines() if line.strip()] or ["it gave no reason"]


def _collect(
    process: subprocess.Popen[bytes], stdin: bytes, timeout_s: float | None, on_line: Callable[[str], None] | None
) -> tuple[bytes, str]:
    """Feed a process and read both its outputs without either filling up; lines are handed on as they come."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[bytes] = []
    output: list[bytes] = []
    lines: queue.Queue[str | None] = queue.Queue()

    def feed(pipe: io.BufferedWriter) -> None:
        try:
            pipe.write(stdin)
            pipe.close()
        except BrokenPipeError:
            # The other side went away before it had read everything: its exit status says why.
            pass

    def read(pipe: io.BufferedReader) -> None:
        for line in iter(lambda: pipe.readline() if on_line is not None else pipe.read(1 << 16), b""):
            output.append(line)
            if on_line is not None:
                lines.put(line.decode("utf-8", "replace").rstrip("\n"))
        lines.put(None)

    threads = [
        threading.Thread(target=feed, args=(process.stdin,), daemon=True),
        threading.Thread(target=read, args=(process.stdout,), daemon=True),
        threading.Thread(target=lambda pipe: errors.append(pipe.read()), args=(process.stderr,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return b"".join(output), ""
        if line is None:
            break
        if on_line is not None:
            on_line(line)
    process.wait()
    for thread in threads:
        thread.join(timeout=5.0)
    return b"".join(output), b"".join(errors).decode("utf-8", "replace")
