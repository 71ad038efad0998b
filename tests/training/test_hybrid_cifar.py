"""CIFAR from a local path with the hybrid paper's recipe, on small archives in CIFAR's own two formats."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bottlekit.export.hybrid import bundle_from_hybrid
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.training.cifar import FILES
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import recipe_from_name
from bottlekit.training.train import train_backbone


def archive(root: Path, name: str, kind: str, each: int) -> Path:
    """`each` images of every class in each file, as the official archives have them: a class is a brightness."""
    classes = 100 if name == "cifar100" else 10
    folder, train, test, meta = FILES[name][kind]
    place = root / folder
    place.mkdir()
    names = [f"class{number}" for number in range(classes)]
    for seed, file in enumerate((*train, *test)):
        labels = list(range(classes)) * each
        noise = np.random.default_rng(seed).integers(0, 40, (len(labels), 3072))
        planes = (noise + 2 * np.array(labels)[:, None]).astype(np.uint8)
        if kind == "binary":
            # CIFAR-100 has a coarse label in front of the fine one.
            heads = [[label // 5, label] if classes == 100 else [label] for label in labels]
            (place / file).write_bytes(np.concatenate([np.array(heads, np.uint8), planes], axis=1).tobytes())
        else:
            key = b"fine_labels" if classes == 100 else b"labels"
            (place / file).write_bytes(pickle.dumps({b"data": planes, key: labels}, protocol=2))
    if kind == "binary":
        (place / meta).write_text("\n".join(names) + "\n", encoding="utf-8")
    else:
        key = b"fine_label_names" if classes == 100 else b"label_names"
        (place / meta).write_bytes(pickle.dumps({key: [one.encode() for one in names]}, protocol=2))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "each"), [("cifar10", "binary", 6), ("cifar100", "python", 3)])
def test_cifar_with_the_papers_recipe_from_archive_to_bundle(
    tmp_path: Path, name: str, kind: str, each: int
) -> None:
    root = archive(tmp_path, name, kind, each)
    data = dataset_from_name(f"{name}:{root}")
    assert data.input_size == 32
    recipe = recipe_from_name("hybrid_cifar", "backbone", epochs=1)
    net, path = tmp_path / "net.safetensors", tmp_path / "hybrid.safetensors"
    train_backbone(net, "cifar_resnet8", data, recipe, quiet=True)
    plan = HybridPlan((0.5,), from_scratch=True)
    trained = train_hybrid(path, net, HybridSpec("rb2", 1, ("rb2",)), plan, recipe, data, quiet=True)
    held_out = len(data.val)
    assert trained.calibration["images"] == held_out // 3
    assert trained.accuracy["images"] == held_out - held_out // 3
    assert trained.training["recipe"]["milestones"] == [80, 120, 145]
    bundle = bundle_from_hybrid(path, tmp_path / "bundle", data_root=root, images=5)
    assert bundle.classes == [f"class{number}" for number in range(100 if name == "cifar100" else 10)]
    assert bundle.manifest["exit"]["accuracy"]["images"] == 5
