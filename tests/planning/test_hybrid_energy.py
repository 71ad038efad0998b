from __future__ import annotations

import pytest

from bottlekit.errors import UsageError
from bottlekit.planning.hybrid_energy import (
    Layer,
    Traffic,
    hybrid_energy,
    layer_pj,
    layers_from_records,
    mac_pj,
)

# Conditionally Deep Hybrid Neural Networks, abstract: (share that leaves early, times less energy).
CIFAR10_BINARY = (0.65, 5.5)
CIFAR100_4_BIT = (0.52, 4.8)


def resnet32(low_bit_blocks: int, bits: int, num_classes: int, pooled: int) -> list[Layer]:
    """The CIFAR ResNet-32 written down from the paper: 3x3 convolutions, 5 blocks a stage, 1x1 shortcuts."""
    layers = [Layer("conv1", "edge", 3 * 16 * 9 * 32 * 32, 32)]
    channels = 16
    for block in range(1, 16):
        out, size = ((16, 32), (32, 16), (64, 8))[(block - 1) // 5]
        low = block <= low_bit_blocks
        place, low_bits = ("edge", bits) if low else ("cloud", 32)
        layers.append(Layer(f"rb{block}.conv1", place, channels * out * 9 * size * size, low_bits))
        layers.append(Layer(f"rb{block}.conv2", place, out * out * 9 * size * size, low_bits))
        if channels != out:
            layers.append(Layer(f"rb{block}.shortcut", place, channels * out * size * size, 32))
        channels = out
    layers.append(Layer("fc", "cloud", 64 * num_classes, 32))
    layers.append(Layer("exit", "exit", pooled * num_classes, 32))
    return layers


def test_the_papers_binary_setting_comes_out() -> None:
    layers = resnet32(8, 1, num_classes=10, pooled=32 * 5 * 5)
    assert round(sum(one.macs for one in layers if one.place != "exit") / 1e6, 2) == 69.12
    assert round(hybrid_energy(layers, 0.65).ratio, 2) == 5.35
    assert round(hybrid_energy(layers, 0.65, with_exit=False).ratio, 2) == 5.35


def test_the_papers_4_bit_setting_comes_out_without_the_exits_own_work() -> None:
    layers = resnet32(12, 4, num_classes=100, pooled=64 * 2 * 2)
    assert round(hybrid_energy(layers, 0.52, with_exit=False).ratio, 2) == 4.84
    # Its 25,600 multiply-accumulates are the residual: 4.83 with them.
    assert hybrid_energy(layers, 0.52).ratio == pytest.approx(4.8306, abs=1e-4)


def test_the_papers_rounded_claims_are_within_three_percent() -> None:
    for (early, times), layers in (
        (CIFAR10_BINARY, resnet32(8, 1, 10, 800)),
        (CIFAR100_4_BIT, resnet32(12, 4, 100, 256)),
    ):
        assert hybrid_energy(layers, early).ratio == pytest.approx(times, rel=0.03)


def test_a_multiply_accumulate_costs_by_its_bits() -> None:
    assert mac_pj(32) == 4.6
    assert mac_pj(8) == pytest.approx(1.15)
    assert mac_pj(1) == pytest.approx(4.6 / 32)


def test_energies_add_up_in_millijoule() -> None:
    layers = [
        Layer("a", "edge", 10**9, 8),
        Layer("x", "exit", 10**6, 32),
        Layer("b", "cloud", 2 * 10**9, 32),
    ]
    energy = hybrid_energy(layers, 0.25)
    assert energy.edge_mj == pytest.approx(1.15 + 0.0046)
    assert energy.cloud_mj == pytest.approx(9.2)
    assert energy.full_precision_mj == pytest.approx(13.8)
    assert energy.mean_mj == pytest.approx(1.1546 + 0.75 * 9.2)
    assert energy.device_ratio == pytest.approx(13.8 / 1.1546)
    assert energy.to_dict()["origin"] == "modelled"


def test_everything_leaving_costs_the_edge_and_nothing_leaving_costs_both() -> None:
    layers = resnet32(8, 1, 10, 800)
    assert hybrid_energy(layers, 1.0).mean_mj == hybrid_energy(layers, 1.0).edge_mj
    nobody = hybrid_energy(layers, 0.0)
    assert nobody.mean_mj == nobody.edge_mj + nobody.cloud_mj


def test_memory_traffic_is_an_option_that_costs() -> None:
    layer = Layer("a", "edge", macs=1000, bits=4, weights=10, inputs=20, outputs=30)
    traffic = Traffic(weights_pj_per_bit=20.0, values_pj_per_bit=0.5)
    assert layer_pj(layer, 4) == pytest.approx(575)
    assert layer_pj(layer, 4, traffic) == pytest.approx(575 + 10 * 4 * 20 + (20 * 4 + 30 * 32) * 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="must be 0 to 1"):
        hybrid_energy([Layer("a", "edge", 1, 1)], share)


@pytest.mark.parametrize(
    ("change", "words"), [({"place": "moon"}, "moon"), ({"bits": 0}, "0 bits"), ({"macs": -1}, "below 0")]
)
def test_wrong_layers_are_refused(change: dict[str, object], words: str) -> None:
    record = {"name": "a", "place": "edge", "macs": 1, "bits": 8, **change}
    with pytest.raises(UsageError, match=words):
        layers_from_records([record])


def test_records_with_other_fields_are_refused() -> None:
    with pytest.raises(UsageError, match="no list of layers"):
        layers_from_records([{"name": "a", "colour": "red"}])
    with pytest.raises(UsageError, match="no energy"):
        hybrid_energy([], 0.5)
