"""From a search on a Ray cluster, which loses a node, to a plan and a server that clients ask: all from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.training.data import dataset_from_name
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_cluster import MARKS, lose_a_node_at_work, two_nodes
from typed import ENVIRONMENT, typed

pytestmark = MARKS


@pytest.fixture(name="cluster")
def _cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray

    with two_nodes(monkeypatch) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield cluster
        finally:
            ray.shutdown()


def test_a_fleet_of_a_cluster_that_lost_a_node_is_planned_and_served(
    cluster: Any, shades: Path, tmp_path: Path
) -> None:
    net, out = tmp_path / "net.safetensors", tmp_path / "search"
    data = dataset_from_name("folder", shades, 32)
    train_backbone(net, "mobilenet_v3_small", data, Recipe(epochs=0, batch_size=8, learning_rate=0.01), quiet=True)

    # Four trainings, two at a time; the node that is not the head is killed during the first two.
    words = ["search", net, "--cluster", cluster.address, "--unit", "butterfly", "--splits", "b1,b2"]
    words += ["--channels", "1,2", "--exhaustive", "--max-accuracy-drop", "1", "--epochs", "2", "--lr", "0.01"]
    words += ["--batch-size", "8", "-o", out, "--json"]
    searching = subprocess.Popen(
        [sys.executable, "-m", "bottlekit", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        lost = lose_a_node_at_work(cluster)
        told, errors = searching.communicate(timeout=600)
    finally:
        searching.kill()
    assert searching.returncode == 0, errors
    found = json.loads(told)
    assert [entry["found"]["channels"] for entry in found["splits"]] == [1, 1]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "trainings").glob("*.json")]
    assert len(records) == 4
    assert lost not in {record["node"] for record in records}

    fleet, engines, profile = out / "fleet", tmp_path / "engines", tmp_path / "profile.json"
    bundles = fleet_from_path(str(fleet))
    assert [bundle.split["name"] for bundle in bundles] == ["b1", "b2"]
    typed("build", fleet, "--target", "cpu", "-o", engines)
    typed("bench", fleet, "--target", "cpu", "--engines", engines, "--quick", "--threads", "1", "-o", profile)
    plan = json.loads(typed("plan", profile, "--link", "wifi", "--json").stdout)
    ranked = {choice["bundle"] for choice in plan["ranking"] if choice["setup"] == "collaborative"}
    assert ranked == {bundle.name for bundle in bundles}
    best = next(choice for choice in plan["ranking"] if choice["setup"] == "collaborative")
    chosen = next(bundle for bundle in bundles if bundle.name == best["bundle"])

    photo = next((shades / "val/dark").glob("*.jpg"))
    serving = [sys.executable, "-m", "bottlekit", "serve", str(fleet), "--target", "cpu", "--engines", str(engines)]
    with subprocess.Popen(
        [*serving, "--port", "0", "--json", "-q"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            asked = ("infer", fleet, photo, "--split", best["split"], "--server", f"127.0.0.1:{port}", "--json")
            answer = json.loads(typed(*asked).stdout)
        finally:
            server.terminate()
    assert answer["setup"] == "collaborative"
    assert answer["bundle"]["name"] == chosen.name
    pixels = input_from_image(image_from_file(str(photo)), chosen.preprocessing)
    with local_split_from_bundle(chosen) as local:
        logits = local.infer(pixels[None]).logits
    top = answer["images"][0]["top"]
    assert [one["class"] for one in sorted(top, key=lambda one: one["index"])] == ["bright", "dark"]
    assert [one["logit"] for one in sorted(top, key=lambda one: one["index"])] == pytest.approx(logits, abs=1e-4)
    assert answer["images"][0]["class_index"] == int(np.argmax(logits))
