from __future__ import annotations

from pathlib import Path

import pytest

from bottlekit.errors import CheckpointError, UsageError
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan
from bottlekit.training.hybrid_search import HybridGrid, search_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

BASE = HybridSpec("rb1", 1, ("rb1",), 3, BottleneckSpec("butterfly", "rb1", 2, 1), CodecSpec("raw", 4))


def test_the_grid_is_every_combination_each_with_its_own_unit() -> None:
    grid = HybridGrid(("rb1", "rb2"), (1, 4), (0.3, 0.5), BASE)
    found = list(grid.candidates())
    assert len({name for name, _, _ in found}) == 8
    assert found[0][0] == "rb1-1bit-w0.3"
    for name, spec, _weight in found:
        assert name.startswith(f"{spec.last_block}-{spec.bits}bit")
        assert spec.exits == (spec.last_block,)
        assert spec.bottleneck is not None
        assert spec.bottleneck.split == spec.last_block
    with pytest.raises(UsageError, match="at least one block"):
        HybridGrid((), (1,), (0.5,), BASE)


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
    with pytest.raises(CheckpointError, match="is another network than rb1-1bit"):
        search(1, base=HybridSpec("rb1", 1, ("rb1",)))
