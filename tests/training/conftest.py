"""Small data and small networks, so that training takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bottlekit.device.images import jpeg_from_image
from bottlekit.training.data import DataSet, LabelledImages, dataset_from_name
from bottlekit.training.recipe import Recipe
from bottlekit.training.sources import ArrayImages


def _first(images: LabelledImages, count: int) -> ArrayImages:
    source = images.source
    assert isinstance(source, ArrayImages)
    return ArrayImages(source.images[:count], images.labels[:count])


@pytest.fixture(scope="session")
def few() -> DataSet:
    """48 training and 20 held-out digits at 32 pixels, augmented."""
    data = dataset_from_name("digits", input_size=32)
    return DataSet(
        "digits",
        LabelledImages(_first(data.train, 48), data.preprocessing, data.train.augment),
        LabelledImages(_first(data.val, 20), data.preprocessing),
        data.classes,
        data.preprocessing,
    )


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(epochs=3, batch_size=16, learning_rate=0.05, weight_decay=1e-3, warmup_epochs=1)


@pytest.fixture
def tiny() -> nn.Module:
    """Convolution, batch norm and dropout: everything that has a state or throws dice."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 10),
        )


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """A folder of images that even a small network learns at once: dark ones and bright ones."""
    dice = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for name, shade in (("bright", 200), ("dark", 20)):
            folder = tmp_path / "shades" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = (shade + dice.integers(0, 40, (36, 40, 3))).astype(np.uint8)
                (folder / f"{number}.jpg").write_bytes(jpeg_from_image(image, 90))
    return tmp_path / "shades"
