"""The codec of a bundle that is being written: what was asked for, calibrated with the graphs that are shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bottlekit.device.codecs import Tables
from bottlekit.errors import BottlekitError, UsageError
from bottlekit.export.calibration import training_inputs
from bottlekit.export.codec_fit import AUTO, CodecRequest, Fitted, Progress, fitted, learns, smallest
from bottlekit.export.held_out import HeldOut, data_from_checkpoint
from bottlekit.export.sessions import Array, Function, graph_from_file
from bottlekit.export.source import Source
from bottlekit.models.codec_layer import CodecLayer
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import to_dict

# A prior of 256 codes in a few dozen neighbourhoods has thousands of numbers to learn; every image gives hundreds.
TRAINING_IMAGES = 512
# Sizes and accuracies to choose by; the bundle's own figures are measured on all held-out images afterwards.
HELD_OUT_IMAGES = 512
_BATCH = 16
_SEED = 1


def fit_codec(
    source: Source,
    folder: Path,
    request: CodecRequest,
    held_out: HeldOut | None,
    data_root: Path | None,
    dynamic_batch: bool,
    say: Progress,
    progress: Progress,
) -> Fitted:
    """The codec that `request` asks for, for the graphs in `folder`; `source.network` has it from then on.

    Raises UsageError where `auto` has nothing to judge by, or no codec is good enough; UnknownNameError and
    CodecError for a codec that does not exist or cannot take the feature.
    """
    network = source.network
    if request.name == AUTO:
        if held_out is None or not source.trained:
            raise UsageError(
                "--codec auto chooses by the accuracy on held-out images, and there "
                + ("are none" if source.trained else "is none for a bottleneck that nobody trained")
                + "; name a codec"
            )
        with _graphs(folder, dynamic_batch) as (head, tail):
            training = _training_features(source, head, data_root, say, progress)
            places = [place * len(held_out) // HELD_OUT_IMAGES for place in range(HELD_OUT_IMAGES)]
            places = places if len(held_out) > HELD_OUT_IMAGES else list(range(len(held_out)))
            inputs = np.concatenate([held_out.inputs(range(place, place + 1)) for place in places])
            labels = [held_out.labels[place] for place in places]
            found = smallest(network.codec, request, training, in_parts(head, inputs), labels, tail, progress)
    else:
        spec = request.spec(network.codec)
        known: Tables = {}
        trained_range = network.codec_layer.codec.value_range
        if spec.range == "static" and trained_range is not None:
            known["range"] = np.array(trained_range, dtype=np.float32)
        if learns(spec, network.feature_shape, known):
            with _graphs(folder, dynamic_batch) as (head, _):
                training = _training_features(source, head, data_root, say, progress)
        else:
            training = np.zeros((1, *network.feature_shape), dtype=np.float32)
        found = fitted(spec, training, known)
    _use(network, found)
    return found


def _use(network: SplitNetwork, found: Fitted) -> None:
    """Let a network send with the codec that was found."""
    network.codec = found.spec
    network.codec_layer = CodecLayer(found.spec, network.feature_shape, found.tables)


def _training_features(
    source: Source, head: Function, data_root: Path | None, say: Progress, progress: Progress
) -> Array:
    """Features (n, c, h, w) of training images; of random inputs where there is no data set."""
    progress("calibrating the codec on training images")
    checkpoint = source.checkpoint
    try:
        data = data_from_checkpoint(checkpoint, data_root)
    except BottlekitError as error:
        say(f"no training images, so the codec is calibrated on random inputs: {error}")
        size = checkpoint.model.input_size
        random = np.random.default_rng(_SEED)
        return in_parts(head, random.standard_normal((64, 3, size, size), dtype=np.float32))
    return in_parts(head, training_inputs(data, to_dict(checkpoint.preprocessing), TRAINING_IMAGES))


@contextlib.contextmanager
def _graphs(folder: Path, dynamic_batch: bool) -> Iterator[tuple[Function, Function]]:
    """Head and tail on ONNX Runtime, for the length of the `with` block."""
    batch = None if dynamic_batch else 1
    with (
        graph_from_file(folder / "head.onnx", batch) as head,
        graph_from_file(folder / "tail.onnx", batch) as tail,
    ):
        yield head, tail


def in_parts(function: Function, samples: Array) -> Array:
    """`function` of samples (n, ...), a few at a time."""
    return np.concatenate([function(samples[start : start + _BATCH]) for start in range(0, len(samples), _BATCH)])
