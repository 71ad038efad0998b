"""Writes bottlekit/targets/emulation/layers.json: the layers of the networks whose times others published.

    torch network --opset 13--> ONNX --fused as TensorRT does--> layers

The networks are torchvision's, changed where those that were measured differ: TF-Slim's ResNets have their stride
in the last block of a stage, and MobileNet v1 is not in torchvision. Run it again if build/layers.py counts
otherwise; a test compares one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottlekit.build.layers import layers_from_onnx
from bottlekit.device.files import whole_file
from bottlekit.export.graphs import onnx_from_module
from bottlekit.models.torchvision_import import torchvision_models

LAYERS = Path(__file__).parents[1] / "bottlekit/targets/emulation/layers.json"
# Output channels and stride of MobileNet v1's depthwise separable blocks (Howard et al. 2017, table 1).
MOBILENET = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip


def slim_resnet(name: str) -> nn.Module:
    """ResNet v1 as in TF-Slim: the last block of stages 1 to 3 has the stride, its shortcut leaves pixels out."""
    network: Any = getattr(torchvision_models(), name)()
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    for stage in stages[1:]:
        stage[0].conv2.stride = stage[0].downsample[0].stride = (1, 1)
    for stage in stages[:-1]:
        stage[-1].conv2.stride = (2, 2)
        stage[-1].downsample = nn.MaxPool2d(1, 2)
    return network  # type: ignore[no-any-return]


def mobilenet_v1(width: float) -> nn.Module:
    """MobileNet v1 with `width` times the channels."""
    channels = int(32 * width)
    parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU6()]
    for wanted, stride in MOBILENET:
        out = int(wanted * width)
        parts += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.ReLU6()]
        parts += [nn.Conv2d(channels, out, 1), nn.ReLU6()]
        channels = out
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1001))


def plain(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of torchvision, as it is."""
    return lambda: getattr(torchvision_models(), name)(**options)  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "slim_inception_v1": (224, plain("googlenet", aux_logits=False, init_weights=False)),
    "slim_inception_v3": (299, plain("inception_v3", aux_logits=False, init_weights=False)),
    "slim_resnet_v1_50": (224, lambda: slim_resnet("resnet50")),
    "slim_resnet_v1_101": (224, lambda: slim_resnet("resnet101")),
    "slim_resnet_v1_152": (224, lambda: slim_resnet("resnet152")),
    "slim_mobilenet_v1_025_128": (128, lambda: mobilenet_v1(0.25)),
    "slim_mobilenet_v1_050_160": (160, lambda: mobilenet_v1(0.5)),
    "slim_mobilenet_v1_100_224": (224, lambda: mobilenet_v1(1.0)),
    "resnet18": (224, plain("resnet18")),
    "resnet34": (224, plain("resnet34")),
    "resnet50": (224, plain("resnet50")),
    "resnet101": (224, plain("resnet101")),
    "resnet152": (224, plain("resnet152")),
    "vgg16": (224, plain("vgg16", init_weights=False)),
    "vgg19": (224, plain("vgg19", init_weights=False)),
}


def network_layers(name: str) -> tuple[bool, list[list[Any]]]:
    """Whether it has batch norms; [name, operator, flops, read, written, weights, winograd] of every layer."""
    size, make = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    # Parameters that differ: the exporter merges equal ones, and a fresh batch norm equals the next.
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    model = onnx_from_module(network, torch.zeros(1, 3, size, size), "image", "logits", False)
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return has_norms, [
        [
            layer.name,
            layer.operator,
            int(layer.flops),
            int(layer.read),
            int(layer.written),
            int(layer.weights),
            layer.winograd,
        ]
        for layer in layers_from_onnx(model, name)
    ]


def main() -> None:
    """Write the file, one line a layer."""
    blocks = []
    for name, (size, _) in NETWORKS.items():
        has_norms, rows = network_layers(name)
        macs = sum(row[2] for row in rows) / 2e9
        print(f"{name}: {len(rows)} layers, {macs:.2f} G multiply-accumulates")
        lines = ",\n   ".join(json.dumps(row, separators=(",", ":")) for row in rows)
        head = f' "{name}": {{\n  "input_size": {size},\n  "batch_norm": {json.dumps(has_norms)},\n'
        blocks.append(f'{head}  "layers": [\n   {lines}\n  ]\n }}')
    with whole_file(str(LAYERS)) as temporary:
        Path(temporary).write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")
    print(f"wrote {LAYERS}")


if __name__ == "__main__":
    main()
