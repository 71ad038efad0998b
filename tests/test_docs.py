"""The documentation's commands, as a reader would type them.

In README.md and docs/**/*.md a fenced block marked `console` holds commands, the lines that begin with "$ ".
They run in the order of the page, in one empty folder a page:

    ```console               every command ends with exit status 0
    ```console fails         every command ends with another, and with one line that says why
    ```console background    the command stays (a server): it runs until the end of the page
    ```console needs=jetson  not run here; the verb and its options must exist

A block of another language marked `file=NAME` is written to that file of the folder.

Every `bottlekit` command of every block is also read by the real command line, without running it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from bottlekit.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKERS = {"fails", "background"}
READY_S = 60


class Block(NamedTuple):
    """One fenced block of a page: the line it begins at, its language, its markers, its lines."""

    line: int
    language: str
    markers: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """The lines after "$ ", with those that a backslash continues."""
        found: list[str] = []
        goes_on = False
        for line in self.lines:
            if goes_on:
                found[-1] += line.strip().rstrip("\\") + " "
            elif line.startswith("$ "):
                found.append(line[2:].rstrip("\\"))
            goes_on = line.endswith("\\") and (goes_on or line.startswith("$ "))
        return [command.strip() for command in found]

    @property
    def file(self) -> str | None:
        """The file that this block is the content of, if it is one."""
        names = [marker.removeprefix("file=") for marker in self.markers if marker.startswith("file=")]
        return names[0] if names and self.language != "console" else None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    blocks, lines = [], text.splitlines()
    opened: tuple[int, list[str]] | None = None
    for number, line in enumerate(lines, start=1):
        if opened is None and line.startswith("```"):
            opened = (number, line[3:].split())
        elif opened is not None and line == "```":
            start, info = opened
            blocks.append(Block(start, info[0] if info else "", tuple(info[1:]), tuple(lines[start : number - 1])))
            opened = None
    assert opened is None, f"the block at line {opened and opened[0]} is not closed"
    return blocks


def bottlekit_commands(command: str) -> list[list[str]]:
    """The arguments of each call of bottlekit in a shell command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    calls: list[list[str]] = []
    inside = False
    for position, word in enumerate(words):
        if set(word) <= set("();<>|&"):
            inside = False
        elif word == "bottlekit" and (position == 0 or words[position - 1][-1] in "|&;("):
            inside = True
            calls.append([])
        elif inside:
            calls[-1].append(word)
    return calls


def all_blocks() -> list[Any]:
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in PAGES
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if block.language == "console"
    ]


@pytest.mark.parametrize("block", all_blocks())
def test_documented_commands_exist(block: Block) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert block.commands, "a console block without a command"
    for command in block.commands:
        for verb, *arguments in bottlekit_commands(command):
            if verb in ("--version", "--help", "--install-completion"):
                continue
            assert verb in commands, command
            asked = commands[verb]
            while hasattr(asked, "commands"):
                verb, *arguments = arguments
                assert verb in asked.commands, command
                asked = asked.commands[verb]
            if "fails" not in block.markers and "--help" not in arguments:
                asked.make_context(verb, arguments)


@pytest.mark.parametrize("block", all_blocks())
def test_markers_are_known(block: Block) -> None:
    for marker in block.markers:
        assert marker in MARKERS or re.fullmatch(r"needs=[a-z0-9-]+", marker), marker


def test_only_console_blocks_hold_commands() -> None:
    for page in PAGES[1:]:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            assert block.language in ("console", "text", "json", "toml", "python", "thrift"), (page, block.line)
            assert block.language == "console" or not block.commands, (page, block.line)


class Session:
    """Runs the commands of one page in one folder; what stays in the background ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []
        # A fixed port may be taken on the machine that tests: the pages' 9090 and 9091 become a free one.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = {**os.environ, "PATH": path, "NO_COLOR": "1", "TERM": "dumb"}

    def run(self, block: Block) -> None:
        """Run a block's commands, or write the file it holds."""
        if block.file is not None:
            (self.folder / block.file).write_text("\n".join([*block.lines, ""]), encoding="utf-8")
        for command in block.commands:
            shell = ["bash", "-o", "pipefail", "-c", re.sub(r"\b909[01]\b", str(self.port), command)]
            if "background" in block.markers:
                self.stay(command, shell)
                continue
            done = subprocess.run(
                shell, cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
            )
            where = f"line {block.line}: {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            if "fails" in block.markers:
                assert done.returncode in (1, 2), where
                assert "Traceback" not in done.stderr, where
                assert any(line.startswith("bottlekit: ") for line in done.stderr.splitlines()), where
            else:
                assert done.returncode == 0, where

    def stay(self, command: str, shell: list[str]) -> None:
        """Start the command, and wait for the first thing it says."""
        said = self.folder / f".said-{len(self.running)}"
        with said.open("w") as output:
            process = subprocess.Popen(
                [*shell[:-1], f"exec {shell[-1]}"],
                cwd=self.folder,
                env=self.variables,
                stdout=output,
                stderr=output,
            )
        self.running.append((command, process))
        deadline = time.monotonic() + READY_S
        while "\n" not in said.read_text():
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command} says nothing"
            time.sleep(0.1)

    def stop(self) -> None:
        """End what is in the background as Ctrl-C does; all of it must still be running."""
        for command, process in self.running:
            assert process.poll() is None, f"{command} ended before its page with {process.returncode}"
            process.send_signal(signal.SIGINT)
            assert process.wait(READY_S) in (0, 130), command


@contextlib.contextmanager
def session(folder: Path) -> Iterator[Session]:
    running = Session(folder)
    try:
        yield running
        running.stop()
    finally:
        for _, process in running.running:
            process.kill()
            process.wait()


def executed(page: Path) -> list[Block]:
    return [
        block
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if block.file
        or (block.language == "console" and not any(word.startswith("needs=") for word in block.markers))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if executed(page)], ids=lambda page: page.stem)
def test_documented_commands_work(page: Path, tmp_path: Path) -> None:
    with session(tmp_path) as running:
        for block in executed(page):
            running.run(block)
    for pattern, reference in (
        ("fleet/*/bundle.json", "bundle"),
        ("engines/*.json", "bundle"),
        ("profile.json", "profile"),
        ("plan.json", "profile"),
        ("search/search.json", "search"),
    ):
        for file in tmp_path.glob(pattern):
            undocumented(file, ROOT / f"docs/reference/{reference}.md")


def undocumented(file: Path, page: Path) -> None:
    """Every key of a JSON file stands in the page that describes it."""
    documented = set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
            for inner in value.values():
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    missing = sorted(set(keys(json.loads(file.read_text(encoding="utf-8")))) - documented)
    assert not missing, f"{page.name} does not describe these keys of {file.name}"


# The reader of pages itself.

PAGE = """# Title
```console
$ first --option \\
    value
output that is no command
$ second
```
```sh
$ none
```
```console fails needs=jetson
$ a | bottlekit plan x.json && bottlekit infer f i.png > out
```
"""


def test_commands_are_found() -> None:
    first, second, third = blocks_of(PAGE)
    assert first.commands == ["first --option value", "second"]
    assert (first.line, second.language, third.markers) == (2, "sh", ("fails", "needs=jetson"))


def test_a_file_is_written(tmp_path: Path) -> None:
    block = blocks_of("```toml file=a.toml\nx = 1\n```")[0]
    with session(tmp_path) as running:
        running.run(block)
        running.run(Block(1, "console", (), ("$ test \"$(cat a.toml)\" = 'x = 1'",)))


def test_calls_of_bottlekit_are_found() -> None:
    command = "a | bottlekit plan x.json --link '3g' && bottlekit infer f i.png > out; ls bottlekit"
    assert bottlekit_commands(command) == [["plan", "x.json", "--link", "3g"], ["infer", "f", "i.png"]]


def test_a_block_that_is_not_closed_is_refused() -> None:
    with pytest.raises(AssertionError, match="line 1 is not closed"):
        blocks_of("```console\n$ ls\n")


def test_a_failing_command_fails_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 7: false"), session(tmp_path) as running:
        running.run(Block(7, "console", (), ("$ false",)))


def test_a_block_that_should_fail_and_does_not_fails_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="true"), session(tmp_path) as running:
        running.run(Block(7, "console", ("fails",), ("$ true",)))


def test_a_server_that_ends_early_fails_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 3"), session(tmp_path) as running:
        running.run(Block(7, "console", ("background",), ("$ bash -c 'exit 3'",)))
