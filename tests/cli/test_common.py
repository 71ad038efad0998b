"""How the command line ends, whatever happens inside."""

import errno
import importlib.metadata
import json
import subprocess
import sys

import pytest
import typer

from bottlekit.cli import common
from bottlekit.errors import EngineError, UnknownNameError


def ending(error, capsys):
    def app():
        raise error

    status = common.run(app)
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UnknownNameError("split", "rb9", ["rb1", "rb2"]), 2, "split 'rb9' does not exist; there are: rb1, rb2"),
        (EngineError("it\n  broke"), 1, "bottlekit: it broke"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("no torch", name="torch.nn"), 1, "pip install 'bottlekit[train]'"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(error, status, words, capsys):
    if isinstance(error, typer.Exit):
        error = SystemExit(error.exit_code)
    got, told = ending(error, capsys)
    assert got == status
    assert words in told
    assert told.count("\n") <= 1
    assert "Traceback" not in told


def test_a_mistake_of_ours_is_not_hidden(capsys):
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError("bug"), capsys)
    with pytest.raises(ModuleNotFoundError):
        ending(ModuleNotFoundError("no such", name="bottlekit.nothing"), capsys)


def test_every_extra_that_is_named_exists_in_the_project_file():
    declared = importlib.metadata.metadata("bottlekit").get_all("Provides-Extra")
    assert set(common._EXTRAS) <= set(declared)


def test_results_go_to_stdout_and_words_to_stderr(capsys, monkeypatch):
    # A verb that ran in this process before may have been asked to be quiet.
    monkeypatch.setattr(common, "_quiet", False)
    common.say("some advice")
    common.emit({"a": 1}, lambda: print("for people"), as_json=True)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": 1}
    assert captured.err == "some advice\n"
    common.emit({"a": 1}, lambda: print("for people"), as_json=False)
    assert capsys.readouterr().out == "for people\n"


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m bottlekit models | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_starting_imports_nothing_heavy():
    heavy = ("torch", "onnx", "onnxruntime", "numpy", "thrift", "matplotlib")
    code = f"import sys, bottlekit.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "[]"


def test_colours_are_off_when_nobody_watches():
    done = subprocess.run(
        [sys.executable, "-m", "bottlekit", "targets"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0
    assert "\x1b[" not in done.stdout
