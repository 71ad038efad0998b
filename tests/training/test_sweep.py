from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.device.files import sha256_of_file
from bottlekit.errors import UsageError
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training import sweep
from bottlekit.training.data import DataSet
from bottlekit.training.loop import fit
from bottlekit.training.recipe import Recipe
from bottlekit.training.sweep import COLUMNS, sweep_quality
from bottlekit.training.train import train_backbone

UNIT = BottleneckSpec("bottlenet", "b1", channels=2)
CODEC = CodecSpec("jpeg")


@pytest.fixture
def net(tmp_path: Path, few: DataSet, recipe: Recipe) -> Path:
    path = tmp_path / "net.safetensors"
    untrained = dataclasses.replace(recipe, epochs=0)
    train_backbone(path, "mobilenet_v3_small", few, untrained, quiet=True)
    return path


def test_a_sweep_compares_both_ways_at_every_quality(
    net: Path, few: DataSet, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = []

    def spied(network, data, recipe, seed, with_codec, title, quiet):  # type: ignore[no-untyped-def]
        trainings.append((recipe.epochs, seed, with_codec, network.codec.quality if with_codec else None))
        return fit(network, data, recipe, seed, with_codec, title, quiet=quiet)

    monkeypatch.setattr(sweep, "fit", spied)
    output = net.with_name("sweep.json")
    recipe = dataclasses.replace(recipe, epochs=1)
    result = sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, seed=4, quiet=True)

    # One warm start; from it naive without the codec and aware with each, all for equally long.
    assert trainings == [(1, 4, False, None), (1, 5, False, None), (1, 5, True, 1), (1, 5, True, 90)]
    assert json.loads(output.read_text()) == result
    assert result["checkpoint_sha256"] == sha256_of_file(str(net))
    assert [point["quality"] for point in result["points"]] == [1, 90]
    for point in result["points"]:
        for way in ("naive", "aware"):
            assert 0 <= point[way]["accuracy"] <= 1
    for way in ("naive", "aware"):
        coarse, fine = (point[way]["payload_bytes_mean"] for point in result["points"])
        assert 8 < coarse < fine

    with output.with_suffix(".csv").open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS
    naive, aware = result["points"][0]["naive"], result["points"][0]["aware"]
    assert [float(value) for value in rows[1]] == [
        1, naive["accuracy"], naive["payload_bytes_mean"], aware["accuracy"], aware["payload_bytes_mean"]
    ]  # fmt: skip
    assert len(rows) == 3


def test_an_interrupted_sweep_goes_on_behind_what_it_finished(
    net: Path, few: DataSet, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(recipe, epochs=1)
    whole = sweep_quality(net.with_name("whole.json"), net, UNIT, CODEC, [90, 1], recipe, few, quiet=True)
    output, state = net.with_name("sweep.json"), net.with_name("sweep.json.resume")
    trainings: list[str] = []
    forbidden = "naive"

    def spied(*arguments: Any, **options: Any) -> Any:
        if options["title"] == forbidden:
            raise KeyboardInterrupt
        trainings.append(options["title"])
        return fit(*arguments, **options)

    monkeypatch.setattr(sweep, "fit", spied)
    with pytest.raises(UsageError, match="nothing to resume"):
        sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, quiet=True, resume=True)
    with pytest.raises(KeyboardInterrupt):
        sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, quiet=True)
    with pytest.raises(UsageError, match="holds an interrupted run"):
        sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, quiet=True)
    with pytest.raises(UsageError, match="seed was 0 and is now 1"):
        sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, seed=1, quiet=True, resume=True)
    forbidden = "aware, quality 90"
    with pytest.raises(KeyboardInterrupt):
        sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, quiet=True, resume=True)
    forbidden = ""
    resumed = sweep_quality(output, net, UNIT, CODEC, [90, 1], recipe, few, quiet=True, resume=True)

    assert trainings == ["warm start", "naive", "aware, quality 1", "aware, quality 90"]
    assert resumed == whole
    assert not state.exists()


@pytest.mark.parametrize(
    ("codec", "qualities", "output", "reason"),
    [
        (CodecSpec("raw"), [1], "sweep.json", "--codec raw has none"),
        (CODEC, [], "sweep.json", "needs one or more different qualities"),
        (CODEC, [5, 5], "sweep.json", "needs one or more different qualities"),
        (CODEC, [0], "sweep.json", r"--quality must be 1\.\.100"),
        (CODEC, [5], "sweep.csv", "-o must name the JSON file"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    net: Path, few: DataSet, recipe: Recipe, codec: CodecSpec, qualities: list[int], output: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        sweep_quality(net.with_name(output), net, UNIT, codec, qualities, recipe, few, quiet=True)
    assert [path.name for path in net.parent.iterdir()] == [net.name]
