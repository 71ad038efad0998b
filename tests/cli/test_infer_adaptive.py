"""`bottlekit infer --adaptive` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bottlekit.cli.main import app
from bottlekit.device.bundle import fleet_from_path
from bottlekit.errors import BottlekitError

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}


def run(*words: object) -> str:
    """What it prints."""
    done = CliRunner().invoke(app, ["infer", str(FLEET), *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: object) -> str:
    """The line with which it is refused."""
    done = CliRunner().invoke(app, ["infer", str(FLEET), *map(str, words)])
    assert isinstance(done.exception, BottlekitError), done.output
    return str(done.exception)


@pytest.fixture
def profile(profile_of: Callable[[Path, float], Path]) -> Path:
    return profile_of(FLEET, 1000.0)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    return path


@pytest.fixture
def server() -> Iterator[str]:
    words = [sys.executable, "-m", "bottlekit", "serve", str(FLEET), "--port", "0", "--json", "--quiet"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            announced = json.loads(process.stdout.readline())
            yield f"{announced['host']}:{announced['port']}"
        finally:
            process.send_signal(signal.SIGKILL)


def answers(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--json"))
    return found


def test_every_answer_has_its_reasons(server: str, profile: Path, image: Path) -> None:
    report = answers(
        image, image, "--server", server, "--adaptive", "--profile", profile, "--server-profile", profile
    )
    assert report["setup"] == "adaptive"
    assert report["pin"] is None
    assert report["link"]["rtt_ms"] > 0
    assert report["link"]["uplink_mbps"] > 0
    for one in report["images"]:
        assert one["split"] in ("rb1", "rb2")
        assert one["reason"].startswith(("least predicted latency", "kept: ", "changed from "))
        assert set(one["predicted_ms"]) == {"device", "uplink", "rtt", "server"}
        assert set(one["considered_ms"]) == {"rb1", "rb2", "mobile-only"}
        assert one["considered_ms"]["mobile-only"] > one["considered_ms"][one["split"]]
        assert {"head", "encode", "round_trip", "queue", "decode", "tail"} <= set(one["times_ms"])
        assert one["lost"] is None


@pytest.mark.parametrize("pin", ["rb1", "rb2", "mobile-only"])
def test_a_pin_holds(server: str, profile: Path, image: Path, pin: str) -> None:
    report = answers(image, "--server", server, "--adaptive", "--profile", profile, "--pin", pin)
    assert [(one["split"], one["reason"]) for one in report["images"]] == [(pin, "pinned")]


def test_people_read_where_and_why(server: str, profile: Path, image: Path) -> None:
    shown = run(image, "--server", server, "--adaptive", "--profile", profile)
    assert "  where     rb" in shown
    assert "least predicted latency" in shown
    assert "  predicted " in shown


def test_without_a_server_the_answer_comes_from_here(profile: Path, image: Path) -> None:
    report = answers(image, "--server", "127.0.0.1:9", "--adaptive", "--profile", profile)
    assert report["images"][0]["split"] == "mobile-only"
    assert "no server answers" in report["images"][0]["reason"]


def test_what_does_not_fit_is_left_out(profile: Path, image: Path) -> None:
    bundles = fleet_from_path(str(FLEET))
    sizes = [os.path.getsize(bundle.onnx_path("head")) for bundle in bundles]
    whole = os.path.getsize(bundles[0].onnx_path("baseline"))
    budget_mb = (whole + min(sizes)) / 1e6
    words = ("--server", "127.0.0.1:9", "--adaptive", "--profile", profile, "--memory-mb", budget_mb)
    report = answers(image, *words)
    expected = [bundle.split["name"] for bundle, size in zip(bundles, sizes, strict=True) if size > min(sizes)]
    assert report["left_out"] == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--adaptive"], "--server HOST:PORT is missing"),
        (["--adaptive", "--server", "a:1"], "--profile FILE that `bottlekit bench` wrote"),
        (["--pin", "rb1", "--server", "a:1"], "are for --adaptive"),
        (["--adaptive", "--split", "rb1", "--server", "a:1"], "hold it to one with --pin"),
        (["--adaptive", "--server", "a:1", "--profile", "PROFILE", "--pin", "rb7"], "'rb7' does not exist"),
        (["--adaptive", "--server", "a:1", "--profile", "PROFILE", "--memory-mb", "-1"], "must be more than 0"),
        (["--adaptive", "--server", "a:1", "--profile", "PROFILE", "--memory-mb", "1e-6"], "the budget is 1"),
        (["--adaptive", "--server", "a:1", "--profile", "none.json"], "none.json"),
    ],
)
def test_wrong_words_are_refused_in_one_line(profile: Path, image: Path, words: list[str], line: str) -> None:
    found = refused(image, *(str(profile) if word == "PROFILE" else word for word in words))
    assert line in found
    assert "\n" not in found
