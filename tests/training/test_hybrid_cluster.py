"""A hybrid search on a real Ray cluster: what is missing is trained there, and a cluster that is not there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bottlekit.errors import UsageError
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan
from bottlekit.training.hybrid_search import HybridGrid, search_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

pytestmark = [
    pytest.mark.slow,
    # Ray's processes and sockets are its own affair.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ONE = Recipe(epochs=1, batch_size=256, learning_rate=3e-3, optimizer="adamw")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of one node with one processor."""
    if importlib.util.find_spec("ray") is None:
        reason = "no Ray here (pip install 'bottlekit[cluster]')"
        if os.environ.get("CI") == "true":
            pytest.fail(reason + ": CI must run this test")
        pytest.skip(reason)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_a_cluster_trains_what_is_missing(node: Any, tmp_path: Path) -> None:
    from bottlekit.training.hybrid_cluster import train_on_cluster

    data = dataset_from_name("digits", input_size=16)
    source, folder = tmp_path / "net.safetensors", tmp_path / "found"
    train_backbone(source, "cifar_resnet8", data, ONE, quiet=True)
    base, plan = HybridSpec("rb1", 1, ("rb1",)), HybridPlan((0.5,))
    said: list[str] = []
    here = search_hybrid(folder, source, HybridGrid(("rb1",), (1,), (0.5,), base), plan, ONE, data, say=said.append)
    # One is there already: only the other travels.
    both = search_hybrid(
        folder,
        source,
        HybridGrid(("rb1",), (1, 4), (0.5,), base),
        plan,
        ONE,
        data,
        say=said.append,
        elsewhere=lambda jobs: train_on_cluster(node.address, jobs, source, None, said.append),
    )
    assert said == ["rb1-1bit-w0.5: training", "rb1-1bit-w0.5: there already", "rb1-4bit-w0.5: trained"]
    assert [one.checkpoint.spec.bits for one in both] == [1, 4]
    mine, theirs = here[0].checkpoint, both[1].checkpoint
    assert theirs.accuracy["images"] == mine.accuracy["images"] == 240
    shared = [name for name in mine.tensors if name.startswith("baseline.")]
    assert shared
    assert all(torch.equal(mine.tensors[name], theirs.tensors[name]) for name in shared)


def test_where_no_cluster_answers_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from bottlekit.training.hybrid_cluster import train_on_cluster

    with pytest.raises(UsageError, match="no Ray cluster answers at --cluster auto"):
        train_on_cluster("auto", [], tmp_path / "net", None, print)
