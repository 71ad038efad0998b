"""A search on a real Ray cluster of two nodes, one of which is lost in the middle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bottlekit.errors import BottlekitError, UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.specs import CodecSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.evaluate import accuracy
from bottlekit.training.recipe import Recipe
from bottlekit.training.search.decisions import Goal, Trial
from bottlekit.training.search.grid import Reduction
from bottlekit.training.search.job import Job
from bottlekit.training.search.run import search
from bottlekit.training.search.store import Store
from bottlekit.training.train import train_backbone

sys.path.insert(0, str(Path(__file__).parents[2]))
from ray_cluster import MARKS, lose_a_node_at_work, two_nodes

pytestmark = MARKS


@pytest.fixture(name="cluster")
def _cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with two_nodes(monkeypatch) as cluster:
        yield cluster


@pytest.fixture
def net(tmp_path: Path, shades: Path) -> Path:
    path = tmp_path / "net.safetensors"
    data = dataset_from_name("folder", shades, 32)
    train_backbone(path, "mobilenet_v3_small", data, Recipe(epochs=0, batch_size=8, learning_rate=0.01), quiet=True)
    return path


def job(trial: Trial) -> Job:
    """A training that works, but for b3: its data are nowhere."""
    root = "/nowhere" if trial.split == "b3" else None
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.01)
    return Job(trial, "butterfly", CodecSpec("raw"), recipe, data_root=root)


def test_the_loss_of_a_node_changes_nothing(cluster: Any, net: Path, tmp_path: Path) -> None:
    from bottlekit.training.search.cluster import Cluster

    lost: list[str] = []

    class Unlucky(Cluster):
        """Loses a node while both are training."""

        def next_done(self) -> tuple[Trial, dict[str, Any]]:
            if not lost:
                assert len(self._begun) == 2
                lost.append(lose_a_node_at_work(cluster))
            return super().next_done()

    grids = {"b1": (Reduction(1), Reduction(2)), "b2": (Reduction(1),)}
    goal = Goal(1.1, 12, 2)  # nothing is as accurate, so everything is trained
    store = Store(tmp_path / "s", {})
    said: list[str] = []
    sigterm = signal.getsignal(signal.SIGTERM)
    with Unlucky(cluster.address, net, job) as workforce:
        assert signal.getsignal(signal.SIGTERM) is sigterm
        assert workforce.hands == 2
        verdicts = search(grids, goal, store, workforce, said.append)
        # What a node raises is raised here, as it is.
        with pytest.raises(BottlekitError, match="/nowhere"):
            search({"b3": (Reduction(1),)}, goal, store, workforce, said.append)
    assert {split: verdict.linear for split, verdict in verdicts.items()} == {"b1": 2, "b2": 1}
    assert len(store.results) == len(said) == 3
    assert {record["node"] for record in store.records.values()}.isdisjoint(lost)
    data = load_checkpoint(net).data
    held_out = dataset_from_name("folder", data.partition(":")[2], 32).val
    for trial, told in Store(tmp_path / "s", {}).results.items():
        assert accuracy(load_checkpoint(store.checkpoint(trial)).network(), held_out) == told


def test_a_cluster_that_does_not_answer_is_named() -> None:
    pytest.importorskip("ray")
    from bottlekit.training.search.cluster import Cluster

    with pytest.raises(UsageError, match="no Ray cluster answers at --cluster auto"):
        Cluster("auto", Path("net.safetensors"), job)
