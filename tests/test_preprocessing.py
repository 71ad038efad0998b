"""The network sees on a device what torchvision's evaluation transform would have shown it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bottlekit.device.images import input_from_image
from bottlekit.models.torchvision_import import torchvision_models

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"),
    [
        (224, 224, 224, 224),
        (300, 400, 256, 224),
        (401, 299, 256, 224),
        (97, 64, 64, 33),
        (50, 75, 256, 225),
        (5, 3, 40, 40),
        (1, 9, 7, 4),
    ],
)
def test_the_input_equals_torchvisions_bit_for_bit(height: int, width: int, resize: int, crop: int) -> None:
    torchvision_models()
    from torchvision import transforms

    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    theirs = transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    ours = input_from_image(image, {"resize": resize, "crop": crop, "mean": MEAN, "std": STD})
    assert ours.tobytes() == theirs(Image.fromarray(image)).numpy().tobytes()
