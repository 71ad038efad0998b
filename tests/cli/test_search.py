"""`bottlekit search`: to a fleet that loads, on from what is there, and what it refuses in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.files import sha256_of_file
from bottlekit.training.search import job as job_module

Search = Callable[..., tuple[int, str, str]]
SHORT = ("--epochs", "1", "--lr", "0.01", "--batch-size", "16", "--unit", "butterfly")


@pytest.fixture(name="search")
def _search(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, shades: Path
) -> Search:
    """A function that types `bottlekit search net.safetensors ...` beside an untrained network for dark and bright
    images: (exit code, stdout, stderr)."""
    from bottlekit.training.data import dataset_from_name
    from bottlekit.training.recipe import Recipe
    from bottlekit.training.train import train_backbone

    recipe = Recipe(epochs=0, batch_size=16, learning_rate=0.01)
    data = dataset_from_name("folder", shades, 32)
    train_backbone(tmp_path / "net.safetensors", "mobilenet_v3_small", data, recipe, quiet=True)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bottlekit", "search", "net.safetensors", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        code = common.run(app)
        return (code, *capfd.readouterr())

    return run


@pytest.mark.slow
def test_a_search_ends_in_a_fleet(search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (
        *SHORT,
        "--splits",
        "b2,b1",
        "--channels",
        "2,1",
        "--max-accuracy-drop",
        "1",
        "-o",
        "out",
        "--json",
    )
    code, out, err = search(*arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "out/search.json").read_text())
    assert [entry["split"] for entry in found["splits"]] == ["b1", "b2"]
    assert (found["mode"], found["trainings_spent"], found["trainings_saved"]) == ("linear", 2, 0)
    fleet = fleet_from_path(str(tmp_path / "out/fleet"))
    for bundle, entry in zip(fleet, found["splits"], strict=True):
        taken = entry["found"]
        assert (taken["channels"], taken["spatial"]) == (1, 1)
        assert sha256_of_file(str(tmp_path / "out" / taken["checkpoint"])) == taken["checkpoint_sha256"]
        assert bundle.manifest["checkpoint_sha256"] == taken["checkpoint_sha256"]
        assert bundle.manifest["bottleneck"]["channels"] == 1
    assert (tmp_path / "out/accuracy.svg").read_text().startswith("<svg")

    # The same command finds everything done; the other modes too, but for what they add.
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(job_module, "train_bottleneck", refused)
    code, out, err = search(*arguments)
    assert (code, json.loads(out)["splits"]) == (0, found["splits"])
    assert "exporting" not in err


@pytest.mark.slow
def test_a_fast_search_finds_the_widths_of_a_linear_one_with_fewer_trainings(
    search: Search, tmp_path: Path, shades: Path
) -> None:
    from bottlekit.training.data import dataset_from_name
    from bottlekit.training.recipe import Recipe
    from bottlekit.training.train import train_backbone

    # A network that knows its images: then some widths are accurate enough early, and the widths mean something.
    recipe = Recipe(epochs=6, batch_size=8, learning_rate=0.05)
    (tmp_path / "net.safetensors").unlink()
    data = dataset_from_name("folder", shades, 32)
    train_backbone(tmp_path / "net.safetensors", "cifar_resnet8", data, recipe, quiet=True)
    words = ["--splits", "rb1,rb2,rb3", "--channels", "1,2,4", "--unit", "butterfly", "--epochs", "8", "--json"]
    words += ["--lr", "0.05", "--batch-size", "8", "--max-accuracy-drop", "0.1"]
    found = {}
    for mode in ("linear", "fast"):
        code, out, err = search(*words, *(["--fast"] if mode == "fast" else []), "-o", mode)
        assert code == 0, err
        found[mode] = json.loads(out)
    linear, fast = found["linear"], found["fast"]
    widths = [
        [
            None if one["found"] is None else (one["found"]["channels"], one["found"]["spatial"])
            for one in way["splits"]
        ]
        for way in (linear, fast)
    ]
    assert widths[0] == widths[1]
    assert any(widths[0])
    # What it says it saved is what it saved: as many whole trainings, counted by their epochs.
    trained = [json.loads(path.read_text()) for path in (tmp_path / "fast/trainings").glob("*.json")]
    assert fast["trainings_spent"] == sum(one["trial"]["epochs"] for one in trained) / 8
    assert fast["trainings_of_linear_search"] == linear["trainings_spent"]
    assert fast["trainings_saved"] == linear["trainings_spent"] - fast["trainings_spent"] > 0


def test_what_nothing_meets_says_the_best(search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(job: Any, source: Path, start: Path | None, output: Path, quiet: bool) -> dict[str, Any]:
        output.parent.mkdir(exist_ok=True)
        output.write_bytes(b"a network")
        accuracy = {("b1", 1): None, ("b1", 2): 0.25, ("b3", 1): 0.2, ("b3", 2): 0.1}
        told = accuracy[job.trial.split, job.trial.reduction.channels]
        return {"accuracy": told, "error": None if told else "training diverged", "seconds": 1.0}

    from bottlekit.training.search import local

    monkeypatch.setattr(local, "outcome_of_job", hopeless)
    code, out, err = search(
        *SHORT, "--splits", "b1,b3", "--channels", "1,2", "-o", "out", "--max-accuracy-drop", "0"
    )
    assert (code, out) == (1, "")
    assert "b1 c1, 1 epoch: training diverged" in err
    assert "nothing reaches 50.00%" in err
    assert "the best is 25.00%, b1 with 2 channels and s = 1" in err
    found = json.loads((tmp_path / "out/search.json").read_text())
    assert [entry["found"] for entry in found["splits"]] == [None, None]
    assert not (tmp_path / "out/fleet").exists()
    assert (tmp_path / "out/accuracy.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--splits", "b1,b99"), "b99"),
        (("--splits", "b1,b1"), "names one split point twice"),
        (("--splits", "b1", "--channels", ","), "the grid is empty"),
        (("--splits", "b1", "--channels", "500"), "the grid is empty at b1, which has 16 channels"),
        (("--splits", "b1", "--channels", "two"), "--channels takes whole numbers"),
        (("--unit", "moth"), "moth"),
        (("--spatial", "2"), "reduces channels only"),
        (("--fast", "--exhaustive"), "choose one"),
        (("--max-accuracy-drop", "2"), "a fraction from 0 to 1"),
        (("--max-accuracy-drop", "nan"), "a fraction from 0 to 1"),
        (("--codec", "zip"), "zip"),
        (("--recipe", "none"), "none"),
        (("-o", "shades"), "is not empty and holds no search"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    search: Search, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    given = list(arguments)
    for option, value in zip(SHORT[::2], SHORT[1::2], strict=True):
        if option not in given:
            given += [option, value]
    if "-o" not in given:
        given += ["-o", "out"]
    code, out, err = search(*given)
    assert (code, out) == (2, "")
    assert reason in err
    assert err.splitlines()[-1].startswith("bottlekit: ")
    assert not (tmp_path / "out/trainings").exists()


def test_a_training_that_diverges_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    code, out, err = search(
        "--unit", "butterfly", "--epochs", "1", "--batch-size", "16", "--lr", "1e30", "--splits", "b1",
        "--channels", "1", "-o", "out",
    )  # fmt: skip
    assert (code, out) == (1, "")
    assert "every training diverged" in err
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/trainings").glob("*.json")]
    assert [record["accuracy"] for record in records] == [None]
    assert list((tmp_path / "out/trainings").glob("*.safetensors*")) == []
