"""The results of a search, in a folder that outlives it.

    <folder>/settings.json                 what makes all trainings of the folder comparable
    <folder>/trainings/<name>.json         one training, whole or not at all
    <folder>/trainings/<name>.safetensors  its network, written before

The bound, the grid and the mode are no settings: another bound asks the same results again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottlekit.device.files import read_json, sha256_of_file, sha256_of_json, write_json
from bottlekit.errors import BundleError, UsageError
from bottlekit.training.search.decisions import Trial

FORMAT, VERSION = "bottlekit-training", 1


class Store:
    """Results by trial. Raises UsageError if the folder holds results of another search, and says what differs."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.trainings = folder / "trainings"
        path = folder / "settings.json"
        if path.exists():
            theirs = read_json(str(path), "settings of a search")
            differing = sorted(name for name in {*settings, *theirs} if settings.get(name) != theirs.get(name))
            if differing:
                changes = ", ".join(f"{n} was {theirs.get(n)!r} and is now {settings.get(n)!r}" for n in differing)
                raise UsageError(
                    f"{folder} holds another search: {changes}; ask for the same, or choose another -o"
                )
        else:
            if folder.exists() and any(folder.iterdir()):
                raise UsageError(f"{folder} is not empty and holds no search; choose another -o")
            write_json(str(path), settings)
        self.records: dict[Trial, dict[str, Any]] = {}
        for file in sorted(self.trainings.glob("*.json")):
            record = read_json(str(file), "result of a training")
            if (record.get("format"), record.get("version")) != (FORMAT, VERSION):
                raise BundleError(f"{file} is no {FORMAT} of version {VERSION}; delete it to train again")
            trial = Trial.from_dict(record["trial"])
            if record["accuracy"] is None or self._is_kept(trial, record["checkpoint_sha256"]):
                self.records[trial] = record

    @property
    def results(self) -> dict[Trial, float | None]:
        """The accuracy of every training that is kept, None for one that diverged; as the decisions read it.

        A training whose network has gone, or is another now, counts as not done.
        """
        return {trial: record["accuracy"] for trial, record in self.records.items()}

    def checkpoint(self, trial: Trial) -> Path:
        """Where the network of a training is, or will be: a readable name, unique by all that it started from."""
        name = f"{trial.split}-{trial.reduction}-{sha256_of_json(trial.to_dict())[:8]}"
        return self.trainings / f"{name}.safetensors"

    def add(self, trial: Trial, outcome: dict[str, Any]) -> None:
        """Keep a result: what was measured, its accuracy None if training diverged (then there is an error).

        The network, if there is one, is at `checkpoint(trial)` already.
        """
        path = self.checkpoint(trial)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "trial": trial.to_dict(),
            **outcome,
            "checkpoint_sha256": None if outcome["accuracy"] is None else sha256_of_file(str(path)),
        }
        write_json(str(path.with_suffix(".json")), record)
        self.records[trial] = record

    def _is_kept(self, trial: Trial, sha256: str) -> bool:
        path = self.checkpoint(trial)
        return path.is_file() and sha256_of_file(str(path)) == sha256
