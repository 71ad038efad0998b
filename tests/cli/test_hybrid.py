"""`bottlekit hybrid train`, `hybrid export`, and `infer` with a bundle that has an exit."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bottlekit.cli import common
from bottlekit.cli.main import app
from bottlekit.device.bundle import Bundle
from bottlekit.device.server import server_from_fleet
from bottlekit.training.data import dataset_from_name

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import in_a_thread

FLEET = Path(__file__).parent.parent / "data" / "tiny_fleet"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: (exit status, stdout, stderr)."""

    def bottlekit(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bottlekit", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        capsys.readouterr()
        status = common.run(app)
        return status, *capsys.readouterr()

    return bottlekit


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """The one line of an error."""

    def error(*arguments: object) -> str:
        status, out, err = run(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("bottlekit: ")]
        assert (status != 0, out, len(lines)) == (True, "", 1), err
        return lines[0]

    return error


def image_file(folder: Path) -> Path:
    path = folder / "image.png"
    Image.new("RGB", (10, 10), "red").save(path)
    return path


def test_a_bundle_without_exits_asked_for_one_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    asked = ("infer", FLEET, image_file(tmp_path), "--exit-threshold", "0.3", "--local")
    assert "has no exit, so every image is sent; export a checkpoint of `bottlekit hybrid train`" in refused(*asked)


def test_a_threshold_where_nothing_is_cut_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    words = refused("infer", FLEET, image_file(tmp_path), "--exit-threshold", "0.3", "--mobile-only")
    assert "--exit-threshold and --exit-policy decide what is sent; --mobile-only sends all or nothing" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--exit-policy", "bytes=20"), "has no exit, so every image is sent"),
        (("--exit-policy", "byte=20"), "--exit-policy has no bound 'byte'; there are: bytes, latency-ms"),
        (("--exit-policy", "bytes=20", "--exit-threshold", "0.1"), "leave out --exit-threshold or it"),
        (("--exit-threshold", "low"), "--exit-threshold takes a number, or one for each exit"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    refused: Callable[..., str], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("infer", FLEET, image_file(tmp_path), "--local", *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--edge-bits", "3"), "--edge-bits must be 1, 2, 4, 8, or 32 for full precision, not 3"),
        (("--exit-weights", "0.5,0.6", "--exits", "rb1,rb2"), "together below 1"),
        (("--exit-weights", "half"), "--exit-weights takes numbers"),
        (("--channels", "2"), "name its kind with --unit"),
        (("--way", "sideways"), "--way must be joint or two-step"),
        (("--rule", "loss"), "exit rule 'loss' does not exist; there are: entropy, max-probability"),
        ((), "no checkpoint at nowhere: there is no such file"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    refused: Callable[..., str], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    asked = ("--from", "nowhere", "--last-block", "rb2", "-o", tmp_path / "x.safetensors")
    assert words in refused("hybrid", "train", *asked, *options)


def test_an_existing_output_is_not_replaced(refused: Callable[..., str], tmp_path: Path) -> None:
    path = image_file(tmp_path)
    assert "exists already" in refused("hybrid", "train", "--from", "x", "--last-block", "rb2", "-o", path)
    assert "--batch must be dynamic or 1" in refused("hybrid", "export", path, "-o", tmp_path / "b", "--batch", "2")
    assert "is no hybrid checkpoint" in refused("hybrid", "export", path, "-o", tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--edge-bits", "one"), "--edge-bits takes numbers with commas between them, not 'one'"),
        (("--exit-weights", "1.5"), "together below 1"),
        (("--edge-bits", "1,5"), "--edge-bits must be 1, 2, 4, 8"),
        ((), "no checkpoint at nowhere"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    refused: Callable[..., str], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    asked = ("--from", "nowhere", "--last-blocks", "rb1", "--folder", tmp_path / "f", "-o", tmp_path / "front.json")
    assert words in refused("hybrid", "search", *asked, *options)
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_a_search_writes_the_front(run: Run, tmp_path: Path) -> None:
    net, result = tmp_path / "net.safetensors", tmp_path / "front.json"
    status, _, err = run("train", "--backbone", "cifar_resnet8", "--input-size", "16", "--epochs", "1", "-o", net)
    assert status == 0, err
    asked = (
        "--last-blocks",
        "rb1",
        "--edge-bits",
        "1,4",
        "--epochs",
        "1",
        "--folder",
        tmp_path / "f",
        "-o",
        result,
    )
    status, out, err = run("hybrid", "search", "--from", net, *asked)
    assert status == 0, err
    assert "energy is modelled" in out
    found = json.loads(result.read_text("utf-8"))
    assert {point["network"] for point in found["points"]} == {"rb1-1bit-w0.5", "rb1-4bit-w0.5"}
    assert all(point in found["points"] for point in found["front"])


@pytest.mark.slow
def test_from_training_to_answers_over_a_socket(run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    def made(*arguments: object) -> Any:
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    net, hybrid, bundle = tmp_path / "net.safetensors", tmp_path / "hybrid.safetensors", tmp_path / "bundle"
    how = ("--epochs", "2", "--batch-size", "64", "--lr", "3e-3")
    made("train", "--backbone", "cifar_resnet8", "--input-size", "16", *how, "-o", net)
    exits = ("--exits", "rb1,rb2", "--exit-weights", "0.2,0.3", "--allowed-drop", "0.1")
    unit = ("--unit", "butterfly", "--channels", "4")
    report = made(
        "hybrid",
        "train",
        "--from",
        net,
        "--last-block",
        "rb2",
        "--edge-bits",
        "4",
        *exits,
        *unit,
        *how,
        "-o",
        hybrid,
    )
    assert report["exits"] == ["rb1", "rb2"]
    assert report["energy"]["origin"] == "modelled"
    manifest = made("hybrid", "export", hybrid, "-o", bundle)
    assert manifest["exit"]["block"] == "rb2"
    words = refused(
        *("hybrid", "train", "--from", net, "--last-block", "rb2", "-o", tmp_path / "y"),
        *("--exits", "rb1,rb1,rb2", *how),
    )
    assert "3 exits are more than the 2 blocks up to rb2" in words

    data = dataset_from_name("digits", input_size=16)
    for index in range(0, 360, 12):
        folder = tmp_path / "images" / str(data.val.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image_uint8(index)).save(folder / f"{index}.png")

    here = made("infer", bundle, tmp_path / "images", "--local", "--exit-threshold", "0.8")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(server_from_fleet([Bundle.load(str(bundle))], port=0))
        stack.enter_context(in_a_thread(server))
        address = "{}:{}".format(*server.address)
        there = made("infer", bundle, tmp_path / "images", "--server", address, "--exit-threshold", "0.8")
        everything = made("infer", bundle, tmp_path / "images", "--server", address, "--exit-threshold", "0")
        _, out, _ = run("infer", bundle, tmp_path / "images", "--server", address, "--exit-threshold", "0.8")
        bounds = ("--exit-policy", "bytes=1,latency-ms=60000")
        kept = made("infer", bundle, tmp_path / "images", "--server", address, *bounds)["exit"]["policy"]
        _, in_words, _ = run("infer", bundle, tmp_path / "images", "--server", address, *bounds)

    assert [one["class"] for one in here["images"]] == [one["class"] for one in there["images"]]
    assert [one["early"] for one in here["images"]] == [one["early"] for one in there["images"]]
    shares = there["exit"]
    assert shares["early_share"] == sum(one["early"] for one in there["images"]) / 30
    assert 0 < shares["early_share"] < 1
    assert (
        shares["early"]["framed_bytes"] == 0 < shares["all"]["framed_bytes"] < shares["offloaded"]["framed_bytes"]
    )
    right = sum(one["class"] == Path(one["image"]).parent.name for one in there["images"])
    assert shares["all"]["accuracy"] == pytest.approx(right / 30)
    assert shares["early"]["energy_mj"] < shares["all"]["energy_mj"] < shares["offloaded"]["energy_mj"]
    assert everything["exit"]["early_share"] == 0
    assert "left early (entropy, threshold 0.8000)" in out
    assert "answered at rb2" in out
    assert "unsure, so it was sent" in out
    assert kept["bounds"] == {"bytes": 1.0, "latency-ms": 60000.0}
    assert kept["reached"]["bytes"] < shares["offloaded"]["payload_bytes"] * 9 / 30
    assert kept["kept"]["latency-ms"]
    assert "latency-ms " in in_words
    words = refused("infer", bundle, tmp_path / "images", "--local", "--exit-threshold", "3")
    assert "--exit-threshold must be 0 to 2.3026 nats for the rule entropy with 10 classes, not 3.0" in words
