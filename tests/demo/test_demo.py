"""The whole pipe as a newcomer runs it, from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MAKES = (
    "network.safetensors", "rb1.safetensors", "fleet/resnet18-rb1/bundle.json", "engines", "profile.json",
    "plan-3g.json", "plan-4g.json", "plan-wifi.json", "answers-rb1.json", "report.html",
)  # fmt: skip


def demo(folder, *options):
    command = [sys.executable, "-m", "bottlekit", "demo", "-o", str(folder), "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = demo(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout), done.stderr


def rows(report):
    return {row["setup"]: row for row in report["rows"]}


def test_it_leaves_everything_it_made(run):
    folder, _, _ = run
    for name in MAKES:
        assert (folder / name).exists(), name


def test_collaborative_accuracy_is_within_two_points_of_the_uncompressed_network(run):
    _, report, _ = run
    table = rows(report)
    whole = table["mobile-only"]["accuracy"]["value"]
    assert whole >= 0.95
    for name, row in table.items():
        if name.startswith("collaborative"):
            assert row["accuracy"]["value"] >= whole - 0.02, name


def test_the_accuracy_is_that_of_the_answers_over_the_socket(run):
    folder, report, _ = run
    answers = json.loads((folder / "answers-rb1.json").read_text())
    assert answers["setup"] == "collaborative"
    images = answers["images"]
    assert len(images) == 360
    right = sum(Path(image["image"]).parent.name == image["class"] for image in images)
    assert rows(report)["collaborative at rb1"]["accuracy"]["value"] == pytest.approx(right / len(images))


def test_the_split_sends_less_than_the_jpeg_input(run):
    _, report, _ = run
    table = rows(report)
    split, cloud = table["collaborative at rb1"], table["cloud-only (JPEG input)"]
    assert 0 < split["payload_bytes"]["value"] < cloud["payload_bytes"]["value"]
    assert split["payload_bytes"]["value"] < split["framed_bytes"]["value"]


def test_every_number_says_where_it_comes_from(run):
    _, report, _ = run
    for row in report["rows"]:
        for name, cell in row.items():
            assert not isinstance(cell, int | float), f"{name} says nothing of its origin"
            if isinstance(cell, dict):
                assert set(cell["origin"].split("+")) <= {"measured", "modelled", "emulated"}, name
    split = rows(report)["collaborative at rb1"]
    assert split["latency_3g_ms"]["origin"] == "measured+modelled"
    assert "modelled" in split["energy_3g_mj"]["origin"]


def test_the_tail_ran_in_another_process(run):
    _, report, _ = run
    assert report["server"]["pid"] != os.getpid()
    assert not Path(f"/proc/{report['server']['pid']}").exists(), "the server was left running"


def test_both_halves_were_compiled_by_tensorrt_where_it_can_be_installed(run):
    _, report, _ = run
    pytest.importorskip("tensorrt_rtx")
    assert report["not_compiled"] is None
    assert {engine["part"] for engine in report["compiled"]} == {"head", "tail"}
    assert all(engine["kind"] == "tensorrt_rtx" and engine["engine_bytes"] > 0 for engine in report["compiled"])


def test_there_is_a_plan_for_each_network(run):
    folder, _, _ = run
    for link in ("3g", "4g", "wifi"):
        plan = json.loads((folder / f"plan-{link}.json").read_text())
        latencies = [candidate["latency_ms"] for candidate in plan["ranking"]]
        assert latencies == sorted(latencies)
        assert {candidate["setup"] for candidate in plan["ranking"]} == {
            "mobile-only",
            "cloud-only",
            "collaborative",
        }


def test_an_existing_folder_is_kept(run):
    folder, _, _ = run
    before = (folder / "report.html").read_bytes()
    done = demo(folder)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (folder / "report.html").read_bytes() == before


def test_a_split_that_does_not_exist_leaves_nothing(tmp_path):
    done = demo(tmp_path / "out", "--quick", "--split", "rb99")
    assert done.returncode != 0
    assert "rb99" in done.stderr
    assert "rb8" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_the_page_opens_in_a_real_browser_without_errors(run, browser):
    folder, report, _ = run
    browser.get((folder / "report.html").as_uri())
    assert browser.get_log("browser") == []
    for row in report["rows"]:
        assert row["setup"] in browser.page_source
    pictures = browser.find_elements("css selector", "figure svg")
    assert len(pictures) >= 5
    assert all(picture.size["width"] > 100 and picture.size["height"] > 50 for picture in pictures)
