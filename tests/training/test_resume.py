from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from bottlekit.errors import CheckpointError, UsageError
from bottlekit.training.resume import load_state, refuse_to_forget, resume_path, save_state

RUN = {"seed": 1, "recipe": {"epochs": 3, "amp": True}, "from": None}
STATE = {"network": {"weight": torch.arange(6.0).reshape(2, 3)}, "history": [{"loss": 0.5, "accuracy": None}]}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = resume_path(tmp_path / "net.safetensors")
    assert path.name == "net.safetensors.resume"
    save_state(path, RUN, 2, STATE)
    epoch, state = load_state(path, RUN)
    assert epoch == 2
    assert torch.equal(state["network"]["weight"], STATE["network"]["weight"])  # type: ignore[call-overload]
    assert state["history"] == STATE["history"]


def test_another_run_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    save_state(tmp_path / "x.resume", RUN, 2, STATE)
    with pytest.raises(UsageError, match="another run: seed was 1 and is now 2; ask for the same"):
        load_state(tmp_path / "x.resume", {**RUN, "seed": 2})
    with pytest.raises(UsageError, match="codec was None and is now 'jpeg'"):
        load_state(tmp_path / "x.resume", {**RUN, "codec": "jpeg"})


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume: there is no .*x\.resume"):
        load_state(tmp_path / "x.resume", RUN)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.resume"
    save_state(path, RUN, 2, STATE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"x\.resume is no state of a run"):
        load_state(path, RUN)


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"run": _Malicious(tmp_path / "it-ran")}, tmp_path / "x.resume", pickle_module=pickle)
    with pytest.raises(CheckpointError, match=r"x\.resume is no state of a run"):
        load_state(tmp_path / "x.resume", RUN)
    assert not (tmp_path / "it-ran").exists()


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "x.resume")
    with pytest.raises(CheckpointError, match="is no bottlekit-resume file"):
        load_state(tmp_path / "x.resume", RUN)


def test_a_waiting_run_is_not_forgotten(tmp_path: Path) -> None:
    refuse_to_forget(tmp_path / "x.resume")
    save_state(tmp_path / "x.resume", RUN, 1, STATE)
    with pytest.raises(UsageError, match="--resume, or delete it"):
        refuse_to_forget(tmp_path / "x.resume")
