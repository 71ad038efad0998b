from __future__ import annotations

import pytest

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.models.backbones import BACKBONES
from bottlekit.models.overview import all_backbones, one_backbone
from bottlekit.specs import ModelSpec


def test_all_backbones() -> None:
    listed = {entry["backbone"]: entry["splits"] for entry in all_backbones()}
    assert tuple(listed) == BACKBONES
    assert listed["resnet18"] == ["rb1", "rb2", "rb3", "rb4", "rb5", "rb6", "rb7", "rb8"]


def test_resnet50_in_numbers() -> None:
    found = one_backbone(ModelSpec("resnet50", 1000, 224))
    assert (found["parameters"], round(found["macs"] / 1e6)) == (25557032, 4089)
    assert found["input_bytes"] == 224 * 224 * 3
    first, last = found["splits"][0], found["splits"][-1]
    assert first["feature_bytes"] == 256 * 56 * 56 * 4
    assert first["feature_to_input"] == pytest.approx(21.3333)
    assert (first["name"], first["module"], first["channels"], first["stride"]) == ("rb1", "layer1.0", 256, 4)
    # behind the last block there is only the classifier
    assert last["head_macs"] == found["macs"] - 2048 * 1000
    work = [split["head_macs"] for split in found["splits"]]
    assert work == sorted(work)


def test_what_does_not_exist() -> None:
    with pytest.raises(UnknownNameError):
        one_backbone(ModelSpec("resnet51", 1000, 224))
    with pytest.raises(UsageError, match="the smallest it takes is 63"):
        one_backbone(ModelSpec("alexnet", 1000, 32))
