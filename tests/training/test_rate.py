"""The estimate of the codec `learned`'s bytes: near what the codec sends, with a gradient that saves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.codecs.prior import neighbours_sum as neighbours_sum_of_device
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, to_dict
from bottlekit.training.loop import own_dice
from bottlekit.training.rate import RateEstimate, neighbours_sum


def _network(bits: int = 3, channels: int = 2) -> SplitNetwork:
    with own_dice(0):
        return SplitNetwork(
            ModelSpec("resnet18", 10, 64),
            BottleneckSpec("bottlenet", "rb1", channels=channels),
            CodecSpec("learned", bits=bits),
        )


def _features(count: int, seed: int = 0, channels: int = 2) -> Tensor:
    """Smooth features with zeros, as behind a ReLU: (count, channels, 8, 8)."""
    dice = torch.Generator().manual_seed(seed)
    rough = torch.randn(count, channels, 11, 11, generator=dice)
    return torch.nn.functional.avg_pool2d(rough, 4, stride=1).clamp(min=0)


def _counted(rate: RateEstimate, features: Tensor) -> RateEstimate:
    rate.train()
    for start in range(0, len(features), 32):
        rate(features[start : start + 32])
    return rate.eval()


def _real_bytes(network: SplitNetwork, training: Tensor, features: Tensor) -> float:
    spec = to_dict(network.codec)
    codec = codec_from_spec(
        spec, network.feature_shape, calibrated_tables(spec, network.feature_shape, training.numpy())
    )
    return float(np.mean([len(codec.encode(feature)) for feature in features.numpy()]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_estimate_is_near_the_codecs_bytes(bits: int) -> None:
    network = _network(bits)
    training, held_out = _features(1024), _features(200, seed=1)
    estimate = float(_counted(RateEstimate(network), training)(held_out).mean())
    assert estimate == pytest.approx(_real_bytes(network, training[:512], held_out), rel=0.04)


def test_an_estimate_that_has_met_nothing_is_that_of_packed_codes() -> None:
    for bits in (1, 3, 8):
        estimate = RateEstimate(_network(bits)).eval()(_features(4))
        assert estimate.tolist() == pytest.approx([2 * 8 * 8 * bits / 8 + 9.5] * 4, rel=1e-3)


def test_neighbours_are_those_of_the_codec() -> None:
    codes = torch.randint(0, 8, (3, 2, 5, 4), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(neighbours_sum(codes).numpy(), neighbours_sum_of_device(codes.to(torch.uint8).numpy()))


def test_counting_is_for_training_and_older_batches_fade() -> None:
    rate = RateEstimate(_network())
    rate.eval()(_features(8))
    assert float(rate.lengths.counts.sum()) == 0
    rate.train()(_features(8))
    assert float(rate.lengths.counts.sum()) == pytest.approx(8 * 2 * 8 * 8)
    rate(_features(8))
    assert float(rate.lengths.counts.sum()) == pytest.approx(8 * 2 * 8 * 8 * 1.98)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_following_the_gradient_saves_real_bytes(bits: int) -> None:
    network = _network(bits)
    training, feature = _features(1024), _features(64, seed=2)
    rate = _counted(RateEstimate(network), training)
    before = _real_bytes(network, training, feature)
    moved = feature.clone()
    for _ in range(10):
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(rate(moved).sum(), moved)
        assert bool(slope.isfinite().all())
        # Behind a ReLU, what is 0 stays 0.
        moved = (moved - 0.001 * slope * (moved > 0)).detach().clamp(min=0)
    assert float((moved - feature).abs().mean()) < 0.05
    assert _real_bytes(network, training, moved) < 0.95 * before


def test_constant_images_and_those_that_are_no_numbers_have_an_estimate_or_none() -> None:
    features = torch.stack([torch.zeros(2, 8, 8), torch.full((2, 8, 8), 5.0), torch.full((2, 8, 8), torch.nan)])
    features.requires_grad_()
    rate = RateEstimate(_network())
    estimate = rate(features)
    assert estimate.isfinite().tolist() == [True, True, False]
    assert bool(rate.lengths.counts.isfinite().all())
    (slope,) = torch.autograd.grad(estimate[:2].sum(), features)
    assert bool(slope[:2].isfinite().all())
