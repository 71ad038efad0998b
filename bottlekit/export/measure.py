"""What the exported graphs do on held-out images: accuracy, payload sizes, and what cloud-only would send.

    image -> head -> feature -> encode -> payload -> decode -> tail -> class        "split"
    image -> baseline -> class                                                      "baseline"
    image -> JPEG -> baseline -> class                                              "input_jpeg_bytes"

All of it runs on ONNX Runtime with the device's codec, so these are the numbers of what is shipped, not of what
was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bottlekit.device.codecs import Codec
from bottlekit.export.equivalence import Network
from bottlekit.export.held_out import HeldOut
from bottlekit.export.sessions import Array

# What cloud-only sends in the papers is the input image as a camera would store it.
INPUT_JPEG_QUALITY = 90
BATCH = 16

Progress = Callable[[int, int], None]


def measure(network: Network, codec: Codec, images: HeldOut, trained: bool, progress: Progress) -> dict[str, Any]:
    """bundle.json's `accuracy`, `payload_bytes` and `input_jpeg_bytes` over all of `images`.

    An untrained bottleneck has no accuracy worth a number: `accuracy` and the one in `input_jpeg_bytes` are None
    then. `progress` is told how many images are done, and of how many.
    """
    payload_bytes: list[int] = []
    jpeg_bytes: list[int] = []
    right = {"split": 0, "baseline": 0, "jpeg": 0}
    for indices in images.batches(BATCH):
        labels = np.array([images.labels[index] for index in indices])
        inputs = images.inputs(indices)
        payloads = [codec.encode(feature) for feature in network.head(inputs)]
        payload_bytes += [len(payload) for payload in payloads]
        sizes, decoded_inputs = zip(*(images.jpeg(image, INPUT_JPEG_QUALITY) for image in inputs), strict=True)
        jpeg_bytes += sizes
        if trained:
            decoded = np.stack([codec.decode(payload) for payload in payloads])
            right["split"] += _right(network.tail(decoded), labels)
            if network.baseline is not None:
                right["baseline"] += _right(network.baseline(inputs), labels)
                right["jpeg"] += _right(network.baseline(np.stack(decoded_inputs)), labels)
        progress(indices.stop, len(images))

    compared = trained and network.baseline is not None
    accuracy = {
        "data": images.name,
        "images": len(images),
        "baseline": right["baseline"] / len(images) if compared else None,
        "split": right["split"] / len(images),
        "measured_on": "onnx",
    }
    return {
        "accuracy": accuracy if trained else None,
        "payload_bytes": size_statistics(payload_bytes, images.name),
        "input_jpeg_bytes": {
            "mean": float(np.mean(jpeg_bytes)),
            "quality": INPUT_JPEG_QUALITY,
            "accuracy": right["jpeg"] / len(images) if compared else None,
        },
    }


def measure_on_random(head_features: Array, codec: Codec, accuracy: dict[str, Any] | None) -> dict[str, Any]:
    """The same fields without a data set: payload sizes of features (k, c, h, w) of random inputs, and the
    accuracy that training measured (None if it did not)."""
    sizes = [len(codec.encode(feature)) for feature in head_features]
    return {
        "accuracy": accuracy,
        "payload_bytes": size_statistics(sizes, "random"),
        "input_jpeg_bytes": None,
    }


def size_statistics(sizes_bytes: Sequence[int], data: str) -> dict[str, Any]:
    """Mean, median, 99th percentile and maximum of payload sizes; percentiles are sizes that occurred."""
    ordered = sorted(sizes_bytes)
    # Nearest rank: the smallest size that at least that share of the payloads does not exceed.
    p50, p99 = (ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 99))
    return {
        "mean": float(np.mean(ordered)),
        "p50": p50,
        "p99": p99,
        "max": ordered[-1],
        "images": len(ordered),
        "data": data,
    }


def _right(logits: Array, labels: Any) -> int:
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))
