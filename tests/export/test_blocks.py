"""Graph equivalence at every residual block of ResNet-50, with the paper's bottlenecks.

Two judges for each block: the gate that `export` itself uses, and Polygraphy, which knows nothing of bottlekit.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bottlekit.device.codecs import codec_from_spec
from bottlekit.export.bundle_writer import prove, write_graphs
from bottlekit.export.networks import WithoutCodec, network_from_folder
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, to_dict

Array = npt.NDArray[np.float32]

# BottleNet, table 4: c' channels by residual block, spatial reduction 2, JPEG quality 20.
PAPER_CHANNELS = {
    **{f"rb{n}": 1 for n in range(1, 4)},
    **{f"rb{n}": 2 for n in range(4, 8)},
    **{f"rb{n}": 5 for n in range(8, 14)},
    **{f"rb{n}": 10 for n in range(14, 17)},
}
JPEG = CodecSpec("jpeg", bits=8, quality=20)
RAW = CodecSpec("raw", bits=8)


@pytest.fixture(scope="module")
def resnet50_at_224(photographs: Callable[[int], Array], lived_in: Callable[..., nn.Module]) -> nn.Module:
    """One ResNet-50 for all blocks: only the unit differs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return lived_in(backbone_from_name("resnet50", 100), torch.from_numpy(photographs(224)))


def check_block(
    network: SplitNetwork,
    baseline: nn.Module | None,
    samples: Array,
    folder: Path,
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
) -> None:
    assert set(write_graphs(network, baseline, folder, dynamic_batch=True).values()) == {13}

    codec = codec_from_spec(to_dict(network.codec), network.feature_shape)
    with network_from_folder(folder, codec, dynamic_batch=True) as graphs:
        comparisons = prove(network, baseline, graphs, samples, dynamic_batch=True)
    assert all(comparison.passed for comparison in comparisons)
    assert {comparison.batch for comparison in comparisons} == {1, len(samples)}

    with torch.no_grad():
        feature = network.head(torch.from_numpy(samples)).numpy()
    # Equality would prove nothing about dead features.
    assert all(one.std() > 1e-3 for one in feature)
    assert np.abs(feature).max() < 100
    decoded = np.stack([codec.decode(codec.encode(one)) for one in feature])
    assert polygraphy_agrees(network.head, folder / "head.onnx", samples)
    assert polygraphy_agrees(network.tail, folder / "tail.onnx", decoded)
    assert polygraphy_agrees(WithoutCodec(network), folder / "full.onnx", samples)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "channels"), PAPER_CHANNELS.items())
def test_every_block_of_resnet50_at_224(
    split: str,
    channels: int,
    resnet50_at_224: nn.Module,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    folder: Path,
) -> None:
    samples = photographs(224)
    unit = BottleneckSpec("bottlenet", split, channels)
    network = make_network(ModelSpec("resnet50", 100, 224), unit, JPEG, samples, resnet50_at_224, shared=True)
    check_block(network, None, samples, folder, polygraphy_agrees)


@pytest.mark.parametrize(
    ("unit", "codec"),
    [
        (BottleneckSpec("bottlenet", "rb1", channels=1), JPEG),
        (BottleneckSpec("butterfly", "rb16", channels=10, spatial=1), RAW),
    ],
    ids=["bottlenet-rb1", "butterfly-rb16"],
)
def test_two_blocks_of_resnet50_at_64(
    unit: BottleneckSpec,
    codec: CodecSpec,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    folder: Path,
) -> None:
    samples = photographs(64)
    network = make_network(ModelSpec("resnet50", 10, 64), unit, codec, samples)
    check_block(network, None, samples, folder, polygraphy_agrees)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unit", "codec"),
    [
        (BottleneckSpec("butterfly", "rb1", channels=1, spatial=1), RAW),
        (BottleneckSpec("butterfly", "rb8", channels=5, spatial=1), CodecSpec("png", bits=4)),
        (BottleneckSpec("bottlenet", "rb5", channels=0, spatial=2), JPEG),
        (BottleneckSpec("bottlenet", "rb5", channels=3, spatial=1), CodecSpec("jpeg", bits=2, quality=90)),
        (BottleneckSpec("bottlenet", "rb2", channels=4, spatial=4, kernel=5), CodecSpec("raw", bits=1)),
    ],
    ids=["butterfly", "butterfly-png", "spatial-only", "channels-only", "stride-4"],
)
def test_other_units_and_codecs(
    unit: BottleneckSpec,
    codec: CodecSpec,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    folder: Path,
) -> None:
    samples = photographs(64)
    network = make_network(ModelSpec("resnet50", 10, 64), unit, codec, samples)
    check_block(network, network.backbone, samples, folder, polygraphy_agrees)
    assert polygraphy_agrees(network.backbone, folder / "baseline.onnx", samples)


def test_polygraphy_sees_a_changed_weight(
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    folder: Path,
) -> None:
    samples = photographs(64)
    network = make_network(ModelSpec("resnet18", 10, 64), BottleneckSpec("bottlenet", "rb1", 2), JPEG, samples)
    write_graphs(network, None, folder, dynamic_batch=True)
    assert polygraphy_agrees(network.head, folder / "head.onnx", samples)
    with torch.no_grad():
        network.backbone.get_parameter("conv1.weight")[0].mul_(1.05)
    assert not polygraphy_agrees(network.head, folder / "head.onnx", samples)
