"""Two machines in one: network namespaces joined by a veth pair, shaped by the kernel. Needs root, and tc's tbf.

    device namespace 198.18.0.1 ===veth=== 198.18.0.2 server namespace

Nothing outside the two namespaces is touched, and no packet can leave them. They are deleted when the `with` ends,
also after Ctrl-C and SIGTERM; those of a process that was killed go when the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

from links.shaping import Tbf

_PREFIX = "bottlekit-links"
_ADDRESSES = {"device": "198.18.0.1", "server": "198.18.0.2"}
_START_S = 60.0


class Namespaces:
    """Two namespaces, used as `with Namespaces() as spaces:`. `kind` of machine is "device" or "server"."""

    def __init__(self) -> None:
        self._names = {kind: f"{_PREFIX}-{kind}-{os.getpid()}" for kind in _ADDRESSES}
        self._shaped: set[str] = set()

    def __enter__(self) -> Namespaces:
        for stale in _stale():
            _ip("netns", "del", stale)
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            ends = [["netns", self._names[kind]] for kind in ("device", "server")]
            _ip("link", "add", "veth", *ends[0], "type", "veth", "peer", "name", "veth", *ends[1])
            for kind, name in self._names.items():
                _ip("-n", name, "addr", "add", f"{_ADDRESSES[kind]}/30", "dev", "veth")
                # One packet at a time: what the kernel glues together would go through the bucket as one.
                _ip("-n", name, "link", "set", "veth", "gso_max_segs", "1", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        for name in self._names.values():
            if name in existing_names():
                _ip("netns", "del", name)

    @property
    def names(self) -> list[str]:
        """What `ip netns list` calls them."""
        return list(self._names.values())

    def address(self, kind: str) -> str:
        """The IPv4 address of a machine."""
        return _ADDRESSES[kind]

    def command(self, kind: str, words: list[str]) -> list[str]:
        """What runs a command on that machine."""
        return ["ip", "netns", "exec", self._names[kind], *words]

    def shape(self, kind: str, tbf: Tbf) -> None:
        """What that machine sends goes through this from now on; its packets have the bucket's size."""
        how = "change" if kind in self._shaped else "add"
        for one in self._names.values():
            _ip("-n", one, "link", "set", "veth", "mtu", str(tbf.mtu_bytes))
        _run("tc", "-n", self._names[kind], "qdisc", how, "dev", "veth", "root", *tbf.words)
        self._shaped.add(kind)

    def cut(self, is_cut: bool) -> None:
        """Take the device's end of the cable out, or put it back."""
        _ip("-n", self._names["device"], "link", "set", "veth", "down" if is_cut else "up")


def why_no_namespaces() -> str | None:
    """Why this machine cannot have them; None if it can. Tries it."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} is missing; install iproute2"
    try:
        with Namespaces() as spaces:
            spaces.shape("device", Tbf(1.0, 1600, 1500))
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} fails: {(error.stderr or '').strip() or error.returncode}"
    return None


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that everything is undone."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def process(words: list[str], stdin: int | IO[Any] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process for the length of the block, its output to be read."""
    started = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=stdin, text=True)
    assert started.stdout is not None
    try:
        yield started
    finally:
        # One that was stopped ends when it goes on.
        for number in (signal.SIGTERM, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                started.send_signal(number)
        try:
            started.wait(_START_S)
        finally:
            if started.poll() is None:
                started.kill()
                started.wait()
            started.stdout.close()
            if started.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    started.stdin.close()


def existing_names() -> list[str]:
    """All network namespaces of this machine that have a name."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def _stale() -> list[str]:
    """Namespaces of processes that exist no longer."""
    found = []
    for name in existing_names():
        match = re.fullmatch(rf"{_PREFIX}-\w+-(\d+)", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            found.append(name)
    return found


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


class OneMachine:
    """Where there can be no namespaces: both on the loopback, which only the pacer can make slower."""

    def address(self, kind: str) -> str:
        """The same for both."""
        return "127.0.0.1"

    def command(self, kind: str, words: list[str]) -> list[str]:
        """Nothing to add."""
        return words
