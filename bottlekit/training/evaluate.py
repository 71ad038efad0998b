"""How good a network is on images it was not trained on, and how many bytes it sends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bottlekit.errors import BottlekitError
from bottlekit.models.network import SplitNetwork
from bottlekit.training.batches import evaluation_batches, readable
from bottlekit.training.data import LabelledImages

EVALUATION_BATCH = 64


def accuracy(
    network: nn.Module, images: LabelledImages, with_codec: bool | None = None, batch_size: int = EVALUATION_BATCH
) -> float:
    """Top-1 accuracy as a fraction 0..1, in evaluation mode, on the device the network is on.

    `with_codec` is for a SplitNetwork: True is what serving does, False leaves the codec out.
    Raises BottlekitError where an answer is no number, as for a feature that no codec can send.
    """
    options = {} if with_codec is None else {"with_codec": with_codec}
    correct = 0
    with evaluation_mode(network):
        device = next(network.parameters()).device
        for inputs, labels in readable(evaluation_batches(images, batch_size)):
            inputs = inputs.to(device, memory_format=torch.channels_last)
            logits = network(inputs, **options)
            if bool(logits.isnan().any()):
                raise BottlekitError(
                    "the network answers NaN: its features are no numbers any more; train it with a lower --lr"
                )
            correct += int((logits.argmax(1).cpu() == labels).sum())
    return correct / len(images)


def payload_sizes(network: SplitNetwork, images: LabelledImages, batch_size: int = EVALUATION_BATCH) -> list[int]:
    """Bytes of the payload of every image, as the device would send them; the frame around them not counted."""
    codec: Any = network.codec_layer.codec
    sizes = []
    with evaluation_mode(network):
        device = next(network.parameters()).device
        for inputs, _ in readable(evaluation_batches(images, batch_size)):
            features = network.head(inputs.to(device, memory_format=torch.channels_last))
            sizes += [len(codec.encode(feature)) for feature in features.float().cpu().contiguous().numpy()]
    return sizes


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the mode that was."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(was_training)
