"""Graph equivalence of every backbone but ResNet-50 (see test_blocks.py), cut in the middle."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bottlekit.export.bundle_writer import prove, write_graphs
from bottlekit.export.networks import WithoutCodec, network_from_folder
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
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Without batch norms, the default initialisation leaves logits that hardly depend on the image.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
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
    lived_in: Callable[[nn.Module, torch.Tensor], nn.Module],
    make_network: Callable[..., SplitNetwork],
    polygraphy_agrees: Callable[[nn.Module, Path, Array], bool],
    folder: Path,
) -> None:
    samples = photographs(size_of(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        baseline = lived_in(small_backbone(name), torch.from_numpy(samples))
    splits = split_names(name)
    unit = BottleneckSpec("bottlenet", splits[len(splits) // 2], channels=16)
    model = ModelSpec(name, 10, size_of(name))
    network = make_network(model, unit, CodecSpec("jpeg", quality=20), samples, copy.deepcopy(baseline))

    assert set(write_graphs(network, baseline, folder, dynamic_batch=True).values()) == {13}
    with network_from_folder(folder, network.codec_layer.codec, dynamic_batch=True) as graphs:
        comparisons = prove(network, baseline, graphs, samples, dynamic_batch=True)
    assert len(comparisons) == 16

    with torch.no_grad():
        feature = network.head(torch.from_numpy(samples)).numpy()
        logits = network.tail(torch.from_numpy(feature)).numpy()
    assert feature.std() > 1e-3
    assert np.ptp(logits, axis=0).max() > 1e-4, "the logits do not depend on the image"
    assert polygraphy_agrees(network.head, folder / "head.onnx", samples)
    assert polygraphy_agrees(network.tail, folder / "tail.onnx", feature)
    assert polygraphy_agrees(WithoutCodec(network), folder / "full.onnx", samples)
    assert polygraphy_agrees(baseline, folder / "baseline.onnx", samples)
