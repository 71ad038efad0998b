"""What a hybrid search does with a cluster, on a double of Ray; Ray itself is asked in tests/training/search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bottlekit.errors import BottlekitError, UsageError
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.training.hybrid import HybridPlan
from bottlekit.training.hybrid_search import HybridJob
from bottlekit.training.recipe import Recipe

pytest.importorskip("ray")
from bottlekit.training import hybrid_cluster
from bottlekit.training.hybrid_cluster import train_on_cluster
from bottlekit.training.search import cluster


class TaskError(Exception):
    """As Ray tells of an error on a node."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class LostError(Exception):
    """As Ray tells of a node that was lost."""


class Ray:
    """Runs a training when it is asked for, in this process; the last one that was begun is done first."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=LostError)

    def __init__(self) -> None:
        self.begun: dict[int, Callable[[], Any]] = {}
        self.cancelled: list[int] = []
        self.closed = False

    def on_nodes(self, training: Callable[..., Any]) -> Any:
        def remote(*arguments: Any) -> int:
            self.begun[len(self.begun)] = lambda: training(*arguments)
            return len(self.begun) - 1

        return SimpleNamespace(remote=remote)

    def put(self, value: bytes) -> bytes:
        return value

    def wait(self, waiting: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return waiting[-num_returns:], waiting[:-num_returns]

    def get(self, reference: int) -> Any:
        try:
            return self.begun[reference]()
        except BottlekitError as error:
            raise TaskError(error) from error

    def cancel(self, reference: int, force: bool) -> None:
        self.cancelled.append(reference)

    def shutdown(self) -> None:
        self.closed = True


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    """The double, and trainings that write the name of their last block and what they were given."""
    double = Ray()

    def train(output: Path, source: Path, spec: HybridSpec, *_rest: Any, **_options: Any) -> None:
        if spec.bits == 8:
            raise UsageError("it diverged")
        if spec.bits == 2:
            raise LostError("the node is gone")
        output.write_bytes(spec.last_block.encode() + source.read_bytes())

    monkeypatch.setattr(hybrid_cluster, "ray", double)
    monkeypatch.setattr(cluster, "ray", double)
    monkeypatch.setattr(hybrid_cluster, "on_nodes", double.on_nodes)
    monkeypatch.setattr(hybrid_cluster, "connect", lambda address: None)
    monkeypatch.setattr(hybrid_cluster, "load_checkpoint", lambda path: None)
    monkeypatch.setattr(hybrid_cluster, "data_of_checkpoint", lambda *_arguments, **_options: None)
    monkeypatch.setattr(hybrid_cluster, "train_hybrid", train)
    return double


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b" of the net")
    return path


def job(folder: Path, block: str, bits: int = 1) -> HybridJob:
    spec, recipe = HybridSpec(block, bits, (block,)), Recipe(epochs=1, batch_size=8, learning_rate=0.1)
    return HybridJob(block, folder / f"{block}.safetensors", spec, HybridPlan((0.5,)), recipe, 0, "")


def test_networks_come_back_as_bytes_each_to_its_place(ray: Ray, source: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train_on_cluster("auto", [job(tmp_path, "rb1"), job(tmp_path, "rb2")], source, None, said.append)
    assert (tmp_path / "rb1.safetensors").read_bytes() == b"rb1 of the net"
    assert (tmp_path / "rb2.safetensors").read_bytes() == b"rb2 of the net"
    assert said == ["rb2: trained", "rb1: trained"]
    assert (ray.cancelled, ray.closed) == ([], True)


def test_what_was_done_before_an_error_is_kept_and_the_rest_is_cancelled(
    ray: Ray, source: Path, tmp_path: Path
) -> None:
    jobs = [job(tmp_path, "rb1"), job(tmp_path, "rb2", 8), job(tmp_path, "rb3")]
    with pytest.raises(UsageError, match="it diverged"):
        train_on_cluster("auto", jobs, source, None, lambda _line: None)
    assert [path.name for path in sorted(tmp_path.glob("rb*"))] == ["rb3.safetensors"]
    assert (ray.cancelled, ray.closed) == ([0], True)


def test_a_training_that_the_cluster_lost_is_named(ray: Ray, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BottlekitError, match="lost the training of rb1: LostError; what was done is kept"):
        train_on_cluster("auto", [job(tmp_path, "rb1", 2)], source, None, lambda _line: None)
    assert ray.closed
