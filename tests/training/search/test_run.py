"""The search around its decisions: a store on disk, a workforce that looks results up, interrupts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import BottlekitError, BundleError, UsageError
from bottlekit.training.search.decisions import Goal, Mode, Trial, Verdict
from bottlekit.training.search.grid import Reduction
from bottlekit.training.search.run import search
from bottlekit.training.search.store import Store

GRIDS = {"rb1": (Reduction(1), Reduction(2)), "rb2": (Reduction(1), Reduction(2)), "rb3": (Reduction(1),)}
ACCURACY = {("rb1", 1): 0.95, ("rb1", 2): 0.94, ("rb2", 1): 0.7, ("rb2", 2): 0.91, ("rb3", 1): 0.6}
SETTINGS = {"unit": "butterfly", "seed": 0}


class Lookup:
    """Trains by looking up; breaks before the training of this number."""

    def __init__(self, hands: int = 1, breaks_before: int = 99) -> None:
        self.hands = hands
        self.breaks_before = breaks_before
        self.waiting: list[tuple[Trial, Path]] = []
        self.begun: list[Trial] = []
        self.most_at_once = 0

    def begin(self, trial: Trial, start: Path | None, output: Path) -> None:
        assert (start is None) == (trial.start is None)
        assert start is None or start.is_file()
        self.waiting.append((trial, output))
        self.begun.append(trial)
        self.most_at_once = max(self.most_at_once, len(self.waiting))

    def next_done(self) -> tuple[Trial, dict[str, Any]]:
        if self.breaks_before == 0:
            raise KeyboardInterrupt
        self.breaks_before -= 1
        trial, output = self.waiting.pop()  # not the first: a cluster has no order
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(str(trial))
        return trial, {"accuracy": ACCURACY[trial.split, trial.reduction.channels], "error": None, "seconds": 1.0}


def found(verdicts: dict[str, Verdict]) -> dict[str, int | None]:
    return {split: v.found.reduction.channels if v.found else None for split, v in verdicts.items()}


def quiet(message: str) -> None:
    assert message


@pytest.mark.parametrize("mode", ["linear", "fast", "exhaustive"])
@pytest.mark.parametrize("hands", [1, 2, 9])
def test_a_search_finds_the_widths_of_all_split_points(tmp_path: Path, mode: Mode, hands: int) -> None:
    workforce = Lookup(hands)
    verdicts = search(GRIDS, Goal(0.9, 100, 4, mode), Store(tmp_path / "s", SETTINGS), workforce, quiet)
    assert list(verdicts) == list(GRIDS)
    assert found(verdicts) == {"rb1": 1, "rb2": 2, "rb3": None}
    assert workforce.most_at_once == min(hands, 3)
    assert len(set(workforce.begun)) == len(workforce.begun)


@pytest.mark.parametrize("hands", [1, 3])
@pytest.mark.parametrize("done", range(4))
def test_an_interrupted_search_trains_nothing_twice(tmp_path: Path, done: int, hands: int) -> None:
    folder, goal = tmp_path / "s", Goal(0.9, 100, 4)
    with pytest.raises(KeyboardInterrupt):
        search(GRIDS, goal, Store(folder, SETTINGS), Lookup(hands, done), quiet)
    assert len(Store(folder, SETTINGS).results) == done
    second = Lookup(hands)
    assert found(search(GRIDS, goal, Store(folder, SETTINGS), second, quiet)) == {"rb1": 1, "rb2": 2, "rb3": None}
    assert len(second.begun) == 4 - done


def test_another_bound_uses_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    search(GRIDS, Goal(0.9, 100, 4), Store(folder, SETTINGS), Lookup(), quiet)
    workforce = Lookup()
    loose = search(GRIDS, Goal(0.5, 100, 4), Store(folder, SETTINGS), workforce, quiet)
    assert found(loose) == {"rb1": 1, "rb2": 1, "rb3": 1}
    assert workforce.begun == []


def test_what_workers_raise_reaches_the_caller(tmp_path: Path) -> None:
    class Broken(Lookup):
        def next_done(self) -> tuple[Trial, dict[str, Any]]:
            raise BottlekitError("no data")

    with pytest.raises(BottlekitError, match="no data"):
        search(GRIDS, Goal(0.9, 100, 4), Store(tmp_path / "s", SETTINGS), Broken(), quiet)


# The store.


def kept(folder: Path) -> tuple[Store, Trial]:
    store = Store(folder, SETTINGS)
    trial = Trial("rb1", Reduction(1), 4)
    store.trainings.mkdir(parents=True, exist_ok=True)
    store.checkpoint(trial).write_text("a network")
    store.add(trial, {"accuracy": 0.5, "error": None, "seconds": 1.0})
    return store, trial


def test_a_store_survives(tmp_path: Path) -> None:
    store, trial = kept(tmp_path / "s")
    diverged = Trial("rb1", Reduction(2), 4)
    store.add(diverged, {"accuracy": None, "error": "training diverged", "seconds": 1.0})
    again = Store(tmp_path / "s", SETTINGS)
    assert again.results == store.results == {trial: 0.5, diverged: None}
    assert again.records == store.records


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_training_whose_network_has_gone_is_not_done(tmp_path: Path, damage: str) -> None:
    store, trial = kept(tmp_path / "s")
    if damage == "removed":
        store.checkpoint(trial).unlink()
    else:
        store.checkpoint(trial).write_text("another")
    assert Store(tmp_path / "s", SETTINGS).results == {}


def test_a_network_without_its_result_is_not_done(tmp_path: Path) -> None:
    store, trial = kept(tmp_path / "s")
    store.checkpoint(trial).with_suffix(".json").unlink()
    assert Store(tmp_path / "s", SETTINGS).results == {}


def test_names_of_trainings_tell_their_start(tmp_path: Path) -> None:
    store, trial = kept(tmp_path / "s")
    later = Trial("rb1", Reduction(2), 4, 0, trial)
    cold = Trial("rb1", Reduction(2), 4)
    names = {store.checkpoint(one).name for one in (trial, later, cold)}
    assert len(names) == 3
    assert all(name.startswith("rb1-c") and name.endswith(".safetensors") for name in names)


def test_results_of_another_search_are_refused(tmp_path: Path) -> None:
    kept(tmp_path / "s")
    with pytest.raises(UsageError, match="holds another search: seed was 0 and is now 1"):
        Store(tmp_path / "s", {**SETTINGS, "seed": 1})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty and holds no search"):
        Store(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": "bottlekit-training", "version": 2})])
def test_a_result_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    store, trial = kept(tmp_path / "s")
    path = store.checkpoint(trial).with_suffix(".json")
    path.write_text(text)
    with pytest.raises(BundleError, match=path.name):
        Store(tmp_path / "s", SETTINGS)
