"""The residual networks for small images: three stages of 16, 32 and 64 channels (He et al. 2016, section 4.2).

    image (n, 3, h, w)
      | conv1 3x3, bn1, relu             (n, 16, h, w)
      | layer1: blocks                   (n, 16, h, w)
      | layer2: blocks, the first / 2    (n, 32, h/2, w/2)
      | layer3: blocks, the first / 2    (n, 64, h/4, w/4)
      | average over all positions, fc
      v logits (n, classes)

Module names are torchvision's. Where a block changes the shape, its shortcut is a 1x1 convolution (Conditionally
Deep Hybrid Neural Networks, section 4): ResNet-32 then has 69.12 million multiply-accumulates at 32 pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

# Blocks in layer1..layer3; a network has 6 layers a block of each stage, and two more.
CIFAR_RESNET_STAGES = {f"cifar_resnet{6 * blocks + 2}": (blocks,) * 3 for blocks in (1, 2, 3, 5)}
_CHANNELS = (16, 32, 64)


class CifarBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, plus the shortcut, then ReLU."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, feature: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, out channels, h / stride, w / stride)."""
        result = self.relu(self.bn1(self.conv1(feature)))
        result = self.bn2(self.conv2(result)) + self.downsample(feature)
        summed: Tensor = self.relu(result)
        return summed


class CifarResNet(nn.Module):
    """See the head of this file. Images (n, 3, h, w) of at least 8 pixels -> logits (n, classes)."""

    def __init__(self, blocks: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _CHANNELS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_CHANNELS[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(_CHANNELS[0], _CHANNELS[0], blocks[0], stride=1)
        self.layer2 = _stage(_CHANNELS[0], _CHANNELS[1], blocks[1], stride=2)
        self.layer3 = _stage(_CHANNELS[1], _CHANNELS[2], blocks[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(_CHANNELS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, classes)."""
        feature = self.relu(self.bn1(self.conv1(image)))
        feature = self.layer3(self.layer2(self.layer1(feature)))
        logits: Tensor = self.fc(self.flatten(self.avgpool(feature)))
        return logits


def _stage(channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = CifarBlock(channels, out_channels, stride)
    return nn.Sequential(first, *(CifarBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
