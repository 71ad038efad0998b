"""The state of an interrupted run, in a file beside the output: `<output>.resume`.

It is written whole after every epoch and removed when the output is complete. It holds tensors and plain values
only and is read with weights-only loading: nothing in it is executed.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from bottlekit.device.files import whole_file
from bottlekit.errors import CheckpointError, UsageError

_FORMAT = "bottlekit-resume"
_VERSION = 1


def resume_path(output: str | Path) -> Path:
    """Where the state of the run that writes `output` is kept."""
    return Path(f"{output}.resume")


def save_state(path: Path, run: dict[str, Any], epoch: int, state: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs whole; `run` (plain values) says which run it belongs to."""
    content = {"format": _FORMAT, "version": _VERSION, "run": run, "epoch": epoch, "state": state}
    with whole_file(str(path)) as temporary:
        torch.save(content, temporary)


def load_state(path: Path, run: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The number of finished epochs and the state, on the processor.

    Raises UsageError if there is no such file or it belongs to another run, naming what differs; CheckpointError
    if it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"nothing to resume: there is no {path}; leave out --resume to start a run")
    content = _content(path)
    theirs = content["run"]
    differing = sorted(name for name in {*run, *theirs} if run.get(name) != theirs.get(name))
    if differing:
        changes = ", ".join(f"{name} was {theirs.get(name)!r} and is now {run.get(name)!r}" for name in differing)
        raise UsageError(f"{path} belongs to another run: {changes}; ask for the same, or delete the file")
    return content["epoch"], content["state"]


def refuse_to_forget(path: Path) -> None:
    """Raise UsageError if an interrupted run is waiting at `path`, so that it is not lost to a new one."""
    if path.exists():
        raise UsageError(f"{path} holds an interrupted run: continue it with --resume, or delete it to start anew")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no state of a run that can be read; delete it to start anew") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise CheckpointError(f"{path} is no {_FORMAT} file of version {_VERSION}; delete it to start anew")
    return content
