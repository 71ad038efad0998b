"""Graph equivalence of every backbone but ResNet-50 (see test_blocks.py), cut in the middle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bottlekit.export.bundle_writer import prove, write_graphs
from bottlekit.export.networks import WithoutCodec
from bottlekit.models.backbones import BACKBONES, backbone_from_name
from bottlekit.models.network import SplitNetwork
from bottlekit.models.splits import split_names
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

Array = npt.NDArray[np.float32]

FAST = ("resnet18", "mobilenet_v2", "efficientnet_b0")
# Their classifier reads a fixed number of positions, which they pool to; opset 13 can say that for 224 pixels only.
FIXED_SIZE = ("alexnet", "vgg")


def size_of(name: str) -> int:
    return 224 if name.startswith(FIXED_SIZE) else 64


def small_backbone(name: str) -> nn.Module:
    """The backbone for 10 classes. The hidden layers of AlexNet's and VGG's classifiers (0.4 GB of weights) are
    narrow here: their width changes the time a test takes, not the graph."""
    if not name.startswith(FIXED_SIZE):
        return backbone_from_name(name, 10)
    with torch.device("meta"):
        network = backbone_from_name(name, 10)
    layers = list(network.classifier.named_children())  # type: ignore[union-attr, operator]
    linear = [place for place, layer in layers if isinstance(layer, nn.Linear)]
    widths = [network.classifier[int(linear[0])].in_features, 32, 32, 10]  # type: ignore[index]
    for place, wide, narrow in zip(linear, widths, widths[1:], strict=False):
        network.classifier[int(place)] = nn.Linear(wide, narrow)  # type: ignore[index, operator]
    network.to_empty(device="cpu")
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in BACKBONES
        if name != "resnet50"
    ],
)
def test_every_other_backbone_in_the_middle(
    name: str,
    photographs: Callable[[int], Array],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    tmp_path: Path,
) -> None:
    samples = photographs(size_of(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = small_backbone(name)
    splits = split_names(name)
    unit = BottleneckSpec("bottlenet", splits[len(splits) // 2], channels=4)
    model = ModelSpec(name, 10, size_of(name))
    network = make_network(model, unit, CodecSpec("jpeg", quality=20), samples, backbone)

    assert set(write_graphs(network, backbone, tmp_path, dynamic_batch=True).values()) == {13}
    comparisons = prove(network, backbone, tmp_path, samples, dynamic_batch=True)
    assert len(comparisons) == 16

    with torch.no_grad():
        feature = network.head(torch.from_numpy(samples)).numpy()
        logits = network.tail(torch.from_numpy(feature)).numpy()
    assert feature.std() > 1e-3
    assert np.ptp(logits, axis=0).max() > 1e-4, "the logits do not depend on the image"
    assert polygraphy_agrees(network.head, tmp_path / "head.onnx", samples)
    assert polygraphy_agrees(network.tail, tmp_path / "tail.onnx", feature)
    assert polygraphy_agrees(WithoutCodec(network), tmp_path / "full.onnx", samples)
    assert polygraphy_agrees(backbone, tmp_path / "baseline.onnx", samples)
