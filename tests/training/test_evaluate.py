from __future__ import annotations

import pytest
import torch
from torch import nn

from bottlekit.device.codecs import codec_from_spec
from bottlekit.errors import BottlekitError
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, to_dict
from bottlekit.training.data import DataSet
from bottlekit.training.evaluate import accuracy, payload_sizes

SPEC = BottleneckSpec("bottlenet", "b1", channels=2)
CODEC = CodecSpec("jpeg", quality=1)


class _Always(nn.Module):
    """Answers one class for every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(nn.functional.one_hot(torch.tensor(label), 10).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(images), 10)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_accuracy_is_the_fraction_that_is_right(few: DataSet, batch_size: int) -> None:
    for label in (0, 3):
        expected = few.val.labels.count(label) / 20
        assert accuracy(_Always(label), few.val, batch_size=batch_size) == expected


def test_evaluating_leaves_the_mode_and_the_dice_as_they_were(few: DataSet, tiny: nn.Module) -> None:
    before = torch.get_rng_state()
    statistics = tiny[1].running_mean.clone()  # type: ignore[index, operator, union-attr]
    tiny.train()
    first = accuracy(tiny, few.val)
    assert tiny.training
    assert all(module.training for module in tiny)  # type: ignore[attr-defined]
    tiny.eval()
    assert accuracy(tiny, few.val) == first
    assert not tiny.training
    assert torch.equal(tiny[1].running_mean, statistics)  # type: ignore[index, union-attr, arg-type]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def split() -> SplitNetwork:
    torch.manual_seed(0)
    return SplitNetwork(ModelSpec("mobilenet_v3_small", 10, 32), SPEC, CODEC)


def test_payloads_are_those_of_the_device_codec(few: DataSet, split: SplitNetwork) -> None:
    codec = codec_from_spec(to_dict(CODEC), split.feature_shape)
    split.eval()
    with torch.inference_mode():
        features = split.head(torch.stack([few.val[index][0] for index in range(20)])).numpy()
    sizes = payload_sizes(split, few.val, batch_size=20)
    assert sizes == [len(codec.encode(feature)) for feature in features]


def test_payloads_of_a_codec_that_learns_are_those_after_learning(few: DataSet) -> None:
    torch.manual_seed(0)
    network = SplitNetwork(ModelSpec("mobilenet_v3_small", 10, 32), SPEC, CodecSpec("learned", 4))
    unlearned = payload_sizes(network, few.val)
    learned = payload_sizes(network, few.val, few.train)
    assert len(learned) == len(unlearned) == len(few.val)
    assert sum(learned) < sum(unlearned)
    assert payload_sizes(network, few.val, few.train, batch_size=3) == learned


def test_with_codec_is_passed_on(few: DataSet, split: SplitNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(split.codec_layer, "forward", lambda feature: calls.append(len(feature)) or feature)
    accuracy(split, few.val, with_codec=False)
    assert calls == []
    accuracy(split, few.val, with_codec=True)
    assert sum(calls) == 20


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_no_codec_can_send_are_refused(few: DataSet, split: SplitNetwork, bad: float) -> None:
    with torch.no_grad():
        next(split.unit.reduce.parameters()).fill_(bad)  # type: ignore[union-attr]
    with pytest.raises(BottlekitError, match="NaN.*--lr"):
        accuracy(split, few.val, with_codec=True)
