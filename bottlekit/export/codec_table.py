"""What every codec makes of one network's features: bytes, microseconds, and whether it changes the codes.

training images --head--> features --> what a codec learns
held-out images --head--> features --> encode --> bytes --> decode        measured, one image after the other
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bottlekit.device.bundle import Bundle
from bottlekit.device.codecs import CODEC_NAMES, Codec
from bottlekit.errors import BottlekitError, CodecError, UnknownNameError
from bottlekit.export.calibration import dataset_of_bundle, held_out_of_bundle, training_inputs
from bottlekit.export.codec_choice import TRAINING_IMAGES, in_parts
from bottlekit.export.codec_fit import CodecRequest, fitted
from bottlekit.export.measure import size_statistics
from bottlekit.export.sessions import Array, graph_from_file
from bottlekit.specs import CodecSpec, from_dict, to_dict

# Payloads of so many held-out images say what the 99th percentile is.
IMAGES = 256

Listener = Callable[[str], None]


def codec_table(
    bundle: Bundle, request: CodecRequest, data_root: Path | None, images: int, say: Listener, progress: Listener
) -> dict[str, Any]:
    """Every codec on the bundle's features, at the bundle's settings but for what `request` changes.

    Returns `bundle`, `feature`, where the features are from (`measured_on`, `calibrated_on`), and for each of
    `codecs` its settings, `payload_bytes` (mean, p50, p99, max), `encode_us` and `decode_us` (medians), whether it
    is `lossless` and the bundle's own (`in_bundle`); or `why_not` it could not be measured.

    Without the bundle's data set its golden features are measured, and `say` tells so.
    """
    if request.name is not None and request.name not in CODEC_NAMES:
        raise UnknownNameError("codec", request.name, CODEC_NAMES)
    own = _spec_of(bundle)
    training, held_out, calibrated_on, measured_on = _features(bundle, data_root, images, say, progress)
    rows = []
    for name in (request.name,) if request.name else CODEC_NAMES:
        asked = request.spec(own)
        spec = CodecSpec(name, asked.bits, asked.quality, asked.range)
        progress(f"measuring {name}")
        try:
            codec = bundle.codec if spec == own else fitted(spec, training).codec
        except CodecError as error:
            rows.append({**to_dict(spec), "why_not": str(error)})
            continue
        rows.append({**to_dict(spec), **_measured(codec, held_out), "in_bundle": spec == own})
    return {
        "bundle": {"name": bundle.name, "sha256": bundle.sha256},
        "feature": list(bundle.feature_shape),
        "measured_on": measured_on,
        "calibrated_on": calibrated_on,
        "codecs": rows,
    }


def _spec_of(bundle: Bundle) -> CodecSpec:
    """The bundle's codec; bundles of older versions do not say all of it."""
    values = {name: value for name, value in bundle.manifest["codec"].items() if name != "version"}
    return from_dict(CodecSpec, values, bundle.path)


def _features(
    bundle: Bundle, data_root: Path | None, images: int, say: Listener, progress: Listener
) -> tuple[Array, Array, str, str]:
    """Features (n, c, h, w) of training and of held-out images, and what each are, in words."""
    try:
        data = dataset_of_bundle(bundle, data_root)
        held_out = held_out_of_bundle(bundle, data, images)
    except BottlekitError as error:
        if data_root is not None:
            raise
        say(f"measuring the bundle's golden features, which the codecs learn from too: {error}")
        golden = bundle.golden()["feature"]
        return golden, golden, "the bundle's golden features", "the bundle's golden features"
    progress("computing the features of training and held-out images")
    name = held_out.name
    batch = None if bundle.dynamic_batch else 1
    with graph_from_file(Path(bundle.onnx_path("head")), batch) as head:
        training = in_parts(head, training_inputs(data, bundle.preprocessing, TRAINING_IMAGES))
        measured = in_parts(head, held_out.inputs(range(len(held_out))))
    return (
        training,
        measured,
        f"{name}, {len(training)} training images",
        f"{name}, {len(measured)} held-out images",
    )


def _measured(codec: Codec, features: Array) -> dict[str, Any]:
    sizes, encode_s, decode_s = [], [], []
    # The first call of a codec loads libraries.
    codec.decode(codec.encode(features[0]))
    for feature in features:
        started = time.perf_counter()
        payload = codec.encode(feature)
        encoded = time.perf_counter()
        codec.decode(payload)
        decoded = time.perf_counter()
        sizes.append(len(payload))
        encode_s.append(encoded - started)
        decode_s.append(decoded - encoded)
    statistics = size_statistics(sizes, "")
    return {
        "version": codec.version,
        "lossless": codec.lossless,
        "payload_bytes": {name: statistics[name] for name in ("mean", "p50", "p99", "max")},
        "encode_us": round(float(np.median(encode_s)) * 1e6, 1),
        "decode_us": round(float(np.median(decode_s)) * 1e6, 1),
    }
