"""`bottlekit export` as it is typed: words and JSON, exit codes, and what it refuses in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import Bundle
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.checkpoint import Checkpoint, save_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing

MODEL = ModelSpec("mobilenet_v3_small", 10, 32)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="export")
def _export(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """A function that types `bottlekit export ...` in a folder with two checkpoints: (exit code, out, err)."""
    torch.manual_seed(0)
    network = SplitNetwork(MODEL, BottleneckSpec("bottlenet", "b3", channels=4), CodecSpec("jpeg")).eval()
    accuracy = {"data": "digits", "images": 360, "baseline": 0.1, "split": 0.1}
    for name, saved, baseline in (("plain", network.backbone, None), ("trained", network, network.backbone)):
        checkpoint = Checkpoint.from_network(
            saved, MODEL, tuple("0123456789"), Preprocessing(32, 32), "digits", accuracy, baseline
        )
        save_checkpoint(tmp_path / f"{name}.safetensors", checkpoint)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bottlekit", "export", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        code = common.run(app)
        return (code, *capfd.readouterr())

    return run


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def test_a_trained_checkpoint_becomes_a_bundle(export: Run, tmp_path: Path) -> None:
    code, out, err = export("trained.safetensors", "--split", "b3", "-o", "out/bundle", "--images", "30")
    assert (code, err) == (0, "")
    for words in (
        "mobilenet_v3_small-b3",
        "head",
        "tail",
        "full",
        "baseline",
        "30 images of digits",
        "these graphs",
    ):
        assert words in out
    bundle = Bundle.load(str(tmp_path / "out" / "bundle"))
    assert bundle.manifest["command"] == (
        "bottlekit export trained.safetensors --split b3 -o out/bundle --images 30"
    )
    assert bundle.manifest["accuracy"]["images"] == 30
    assert folders(tmp_path) == ["out"]
    assert folders(tmp_path / "out") == ["bundle"]


def test_json_is_the_only_thing_on_standard_output(export: Run, tmp_path: Path) -> None:
    code, out, err = export("trained.safetensors", "-o", "bundle", "--images", "10", "--json", "--batch", "1", "-q")
    assert (code, err) == (0, "")
    result = json.loads(out)
    bundle = Bundle.load(str(tmp_path / "bundle"))
    assert result == {"path": bundle.path, "sha256": bundle.sha256, "manifest": bundle.manifest} | {
        "path": result["path"]
    }
    assert Path(result["path"]).resolve() == Path(bundle.path)
    assert result["manifest"]["dynamic_batch"] is False


def test_a_trained_network_gets_another_codec(export: Run, tmp_path: Path) -> None:
    arguments = ["trained.safetensors", "-o", "b", "--images", "40", "--json"]
    code, out, err = export(*arguments, "--codec", "learned", "--bits", "3", "--range", "static", "--name", "short")
    assert (code, err) == (0, "")
    bundle = Bundle.load(str(tmp_path / "b"))
    expected = {"name": "learned", "bits": 3, "quality": 20, "range": "static", "version": 1}
    assert bundle.manifest["codec"] == expected
    assert bundle.name == "short"
    assert json.loads(out)["manifest"]["codec_choice"] is None
    assert bundle.codec.value_range is not None
    assert bundle.codec.value_range[0] == 0


def test_the_smallest_codec_that_is_accurate_enough_is_found(export: Run, tmp_path: Path) -> None:
    arguments = ["trained.safetensors", "-o", "b", "--images", "40", "--codec", "auto", "--bits", "4"]
    code, out, err = export(*arguments, "--max-accuracy-drop", "0.05")
    assert (code, err) == (0, "")
    assert "that is accurate enough)" in out
    manifest = Bundle.load(str(tmp_path / "b")).manifest
    choice = manifest["codec_choice"]
    sizes = [one["mean_bytes"] for one in choice["tried"]]
    assert sizes == sorted(sizes)
    bound = choice["accuracy_without_codec"] - 0.05
    assert [one["accuracy"] >= bound for one in choice["tried"]] == [False] * (len(sizes) - 1) + [True]
    assert manifest["payload_bytes"]["mean"] == sizes[-1]
    assert manifest["accuracy"]["split"] == choice["tried"][-1]["accuracy"]
    assert all(one["bits"] == 4 for one in choice["tried"])


def test_an_untrained_butterfly_says_that_it_claims_nothing(export: Run, tmp_path: Path) -> None:
    code, out, err = export(
        "plain.safetensors", "--untrained", "--split", "b2", "--unit", "butterfly", "--channels", "3", "-o", "b",
        "--images", "10",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "accuracy: none, because nobody trained this bottleneck" in out
    manifest = Bundle.load(str(tmp_path / "b")).manifest
    assert manifest["bottleneck"] == {
        "kind": "butterfly", "split": "b2", "channels": 3, "spatial": 1, "kernel": 3,
    }  # fmt: skip
    assert manifest["codec"] == {"name": "raw", "bits": 8, "quality": 20, "range": "image", "version": 1}


def test_torchvision_weights_go_in_and_missing_data_is_told(export: Run, tmp_path: Path) -> None:
    torch.save(backbone_from_name("mobilenet_v3_small", 10).state_dict(), tmp_path / "weights.pt")
    arguments = ["weights.pt", "--untrained", "--split", "b3", "--input-size", "32", "-o", "b"]
    code, out, err = export(*arguments, "--backbone", "mobilenet_v3_small")
    assert code == 0
    assert "no held-out images, so random inputs are used" in err
    assert "10 images of random" in out
    assert Bundle.load(str(tmp_path / "b")).manifest["model"]["input_size"] == 32


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.safetensors"], 1, "no checkpoint at nowhere.safetensors"),
        (["trained.safetensors", "--split", "b4"], 2, "bottlekit train --from trained.safetensors --split b4"),
        (["trained.safetensors", "--split", "b99"], 2, "there are: b1, b2, b3"),
        (["plain.safetensors", "--split", "b3"], 2, "bottlekit train --from plain.safetensors --split b3"),
        (["plain.safetensors", "--untrained"], 2, "--untrained needs --split"),
        (["plain.safetensors", "--untrained", "--split", "b99"], 2, "there are: b1, b2, b3"),
        (["plain.safetensors", "--untrained", "--split", "b3", "--channels", "9999"], 2, "--channels 9999"),
        (["plain.safetensors", "--untrained", "--split", "b3", "--codec", "gif"], 2, "there are: jpeg, jpeg-lean"),
        (["plain.safetensors", "--untrained", "--split", "b3", "--unit", "funnel"], 2, "bottlenet or butterfly"),
        (["plain.safetensors", "--untrained", "--split", "b3", "--backbone", "vgg11"], 2, "not --backbone vgg11"),
        (
            ["trained.safetensors", "--channels", "3", "--spatial", "4"],
            2,
            "--channels, --spatial: a trained checkpoint",
        ),
        (["trained.safetensors", "--codec", "gif"], 2, "codec 'gif' does not exist; there are: jpeg, jpeg-lean"),
        (["trained.safetensors", "--codec", "raw", "--bits", "0"], 2, "--bits must be 1..8, not 0"),
        (["trained.safetensors", "--bits", "17"], 2, "--bits must be 1..8, not 17"),
        (["trained.safetensors", "--quality", "0"], 2, "--quality must be 1..100, not 0"),
        (["trained.safetensors", "--quality", "101"], 2, "--quality must be 1..100, not 101"),
        (["trained.safetensors", "--range", "all"], 2, "--range must be image or static, not 'all'"),
        (["trained.safetensors", "--codec", "auto", "--max-accuracy-drop", "1"], 2, "a fraction from 0 to below 1"),
        (["trained.safetensors", "--max-accuracy-drop", "0.1"], 2, "what --codec auto chooses by"),
        (["plain.safetensors", "--untrained", "--split", "b3", "--codec", "auto"], 2, "that nobody trained"),
        (["trained.safetensors", "--name", "a/b"], 2, "--name is a part of file names"),
        (["trained.safetensors", "--batch", "4"], 2, "--batch must be dynamic or 1, not 4"),
        (["trained.safetensors", "--images", "0"], 2, "--images"),
        (["trained.safetensors", "--data-root", "nowhere"], 2, "digits"),
        (["damaged.safetensors"], 1, "damaged.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    arguments: list[str], code: int, words: str, export: Run, tmp_path: Path
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "trained.safetensors").read_bytes()[:5000])
    found, out, err = export(*arguments, "-o", "bundle")
    assert found == code
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    if "--images" not in arguments:  # Typer draws a box of its own
        assert err.startswith("bottlekit: ")
        assert err.count("\n") == 1
    assert folders(tmp_path) == []


def test_a_bundle_is_not_overwritten_without_force(export: Run, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("mine")
    code, _, err = export("trained.safetensors", "-o", "bundle", "--images", "10")
    assert code == 2
    assert "--force" in err
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "mine"
    code, _, _ = export("trained.safetensors", "-o", "bundle", "--images", "10", "--force")
    assert code == 0
    Bundle.load(str(tmp_path / "bundle"))
