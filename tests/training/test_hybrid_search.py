from __future__ import annotations

from pathlib import Path

import pytest

from bottlekit.errors import CheckpointError, UnknownNameError, UsageError
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.hybrid_search import HybridGrid, HybridJob, search_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

MODEL = ModelSpec("cifar_resnet8", 10, 16)
BASE = HybridSpec("rb1", 1, ("rb1",), 3, BottleneckSpec("butterfly", "rb1", 2, 1), CodecSpec("raw", 4))


def test_the_grid_is_every_combination_each_with_its_own_unit() -> None:
    grid = HybridGrid(("rb1", "rb2"), (1, 4), (0.3, 0.5), BASE)
    found = list(grid.candidates(MODEL))
    assert len({name for name, _, _ in found}) == 8
    assert (found[0][0], found[0][2]) == ("rb1-1bit-w0.3", (0.3,))
    for name, spec, _weights in found:
        assert name.startswith(f"{spec.last_block}-{spec.bits}bit")
        assert spec.exits == (spec.last_block,)
        assert spec.bottleneck is not None
        assert spec.bottleneck.split == spec.last_block
    with pytest.raises(UsageError, match="at least one block"):
        HybridGrid((), (1,), (0.5,), BASE)
    with pytest.raises(UsageError, match="--edge-bits must be 1, 2, 4, 8"):
        HybridGrid(("rb1",), (1, 3), (0.5,), BASE)


def test_all_exits_share_the_weight() -> None:
    grid = HybridGrid(("rb1", "rb2"), (4,), (0.5,), BASE, ("last", "all"))
    found = {name: (spec.exits, weights) for name, spec, weights in grid.candidates(MODEL)}
    assert found == {
        "rb1-4bit-w0.5": (("rb1",), (0.5,)),
        "rb1-4bit-all-w0.5": (("rb1",), (0.5,)),
        "rb2-4bit-w0.5": (("rb2",), (0.5,)),
        "rb2-4bit-all-w0.5": (("rb1", "rb2"), (0.25, 0.25)),
    }
    with pytest.raises(UnknownNameError, match="choice of --exits 'first' does not exist; there are: last, all"):
        HybridGrid(("rb1",), (1,), (0.5,), BASE, ("first",))


@pytest.mark.slow
def test_a_search_trains_what_is_missing(tmp_path: Path) -> None:
    data = dataset_from_name("digits", input_size=16)
    one = Recipe(epochs=1, batch_size=128, learning_rate=3e-3, optimizer="adamw")
    source = tmp_path / "net.safetensors"
    train_backbone(source, "cifar_resnet8", data, one, quiet=True)
    said: list[str] = []
    plan = HybridPlan((0.5,))

    def search(*bits: int, base: HybridSpec = BASE) -> list[float]:
        grid = HybridGrid(("rb1",), bits, (0.5,), base)
        tried = search_hybrid(tmp_path / "found", source, grid, plan, one, data, say=said.append)
        assert [one.checkpoint.spec.bits for one in tried] == list(bits)
        return [one.payload_bytes for one in tried]

    assert search(1) == [2 * 16 * 16 / 2 + 8]
    assert len(search(1, 4)) == 2
    assert said == [
        "rb1-1bit-w0.5: training",
        "rb1-1bit-w0.5: there already",
        "rb1-4bit-w0.5: training",
    ]
    # Elsewhere: what is missing is handed over at once, and what comes back is used.
    handed: list[list[HybridJob]] = []

    def elsewhere(jobs: list[HybridJob]) -> None:
        handed.append(jobs)
        for job in jobs:
            train_hybrid(job.path, source, job.spec, job.plan, job.recipe, data, job.seed, quiet=True)

    grid = HybridGrid(("rb1", "rb2"), (1,), (0.5,), BASE, ("last", "all"))
    where = tmp_path / "found"
    (where / "rb1-1bit-all-w0.5.safetensors").write_bytes((where / "rb1-1bit-w0.5.safetensors").read_bytes())
    tried = search_hybrid(where, source, grid, plan, one, data, elsewhere=elsewhere)
    assert [[job.name for job in jobs] for jobs in handed] == [["rb2-1bit-w0.5", "rb2-1bit-all-w0.5"]]
    curve = tried[-1].checkpoint.accuracy["curve_of_all_exits"]
    assert tried[-1].curve == curve
    assert len(curve) >= len(tried[-1].checkpoint.accuracy["curve"])
    assert tried[0].curve == tried[0].checkpoint.accuracy["curve"]
    with pytest.raises(CheckpointError, match="is another network than rb1-1bit"):
        search(1, base=HybridSpec("rb1", 1, ("rb1",)))
