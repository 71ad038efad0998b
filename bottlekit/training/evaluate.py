"""How good a network is on images it was not trained on, and how many bytes it sends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bottlekit.device.codecs import Codec, codec_from_spec
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.images import input_from_image
from bottlekit.errors import BottlekitError
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import to_dict
from bottlekit.training.batches import evaluation_batches, readable
from bottlekit.training.data import LabelledImages

EVALUATION_BATCH = 64
CALIBRATION_IMAGES = 512


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


def payload_sizes(
    network: SplitNetwork,
    images: LabelledImages,
    training: LabelledImages | None = None,
    batch_size: int = EVALUATION_BATCH,
) -> list[int]:
    """Bytes of the payload of every image, as the device would send them; the frame around them not counted.

    A codec that learns does so from `training` images, without augmentation, as it will be exported; if they are
    None, it has learned nothing.
    """
    codec = network.codec_layer.codec
    if codec.learns and training is not None:
        codec = _calibrated(network, training, batch_size)
    return [len(codec.encode(feature)) for feature in _features(network, images, batch_size)]


def _calibrated(network: SplitNetwork, training: LabelledImages, batch_size: int) -> Codec:
    """The network's codec with what it learns from at most CALIBRATION_IMAGES training images."""
    inputs = calibration_inputs(training)
    with evaluation_mode(network):
        device = next(network.parameters()).device
        parts = [network.head(part.to(device)).float().cpu() for part in torch.split(inputs, batch_size)]
    features = torch.cat(parts).numpy()
    known = network.codec_layer.codec.value_range
    settled = None if known is None else {"range": np.array(known, dtype=np.float32)}
    spec = to_dict(network.codec)
    return codec_from_spec(
        spec, network.feature_shape, calibrated_tables(spec, features.shape[1:], features, settled)
    )


def calibration_inputs(training: LabelledImages) -> torch.Tensor:
    """Inputs (n, 3, h, w) of at most CALIBRATION_IMAGES training images, evenly spread, without augmentation."""
    count = min(CALIBRATION_IMAGES, len(training))
    places = [place * len(training) // count for place in range(count)]
    images = [input_from_image(training.source.image(place), training.preprocessing) for place in places]
    return torch.from_numpy(np.stack(images))


def _features(network: SplitNetwork, images: LabelledImages, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """The feature (c, h, w) of every image, in evaluation mode."""
    with evaluation_mode(network):
        device = next(network.parameters()).device
        for inputs, _ in readable(evaluation_batches(images, batch_size)):
            features = network.head(inputs.to(device, memory_format=torch.channels_last))
            yield from features.float().cpu().contiguous().numpy()


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
