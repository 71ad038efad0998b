"""What the serving tests share."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A small JPEG file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(autouse=True)
def patient_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests must not make a Triton look dead."""
    monkeypatch.setattr("bottlekit.serving.triton_connection.HEALTH_TIMEOUT_S", 120.0)
