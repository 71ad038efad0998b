"""Every codec on the wire: a server and a client that share a bundle give what one process gives, bit for bit."""

import os
import shutil
import sys

import numpy as np
import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.codecs import CODEC_NAMES
from bottlekit.device.codecs.calibrate import calibrated_tables
from bottlekit.device.errors import CodecError
from bottlekit.device.files import read_json, sha256_of_file, write_json
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import local_split_from_bundle

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import TINY_FLEET, serving

TINY = os.path.join(TINY_FLEET, "rb2")


def images(count, seed):
    return np.random.RandomState(seed).normal(size=(count, 1, 3, 8, 8)).astype(np.float32)


def with_codec(folder, name, value_range):
    """A copy of the tiny bundle with another codec, calibrated on the features of random images."""
    bundle = Bundle.load(TINY)
    with OnnxRuntimeRunner(bundle.onnx_path("head"), threads=1) as head:
        features = np.concatenate([head.run({"image": image})["feature"] for image in images(40, 1)])
    spec = {"name": name, "bits": 4, "quality": 50, "range": value_range, "version": 1}
    shutil.copytree(TINY, folder)
    where = os.path.join(folder, "codec.npz")
    np.savez(where, **calibrated_tables(spec, bundle.feature_shape, features))
    manifest = read_json(os.path.join(folder, "bundle.json"), "bundle")
    manifest["codec"] = spec
    manifest["files"]["codec.npz"] = {"sha256": sha256_of_file(where), "bytes": os.path.getsize(where)}
    write_json(os.path.join(folder, "bundle.json"), manifest)
    return Bundle.load(folder)


@pytest.mark.parametrize("value_range", ["image", "static"])
@pytest.mark.parametrize("name", CODEC_NAMES)
def test_remote_equals_local_bit_for_bit(tmp_path, name, value_range):
    bundle = with_codec(str(tmp_path / "net"), name, value_range)
    with serving([bundle]) as server:
        with local_split_from_bundle(bundle) as local, SplitClient(bundle, *server.address) as client:
            for image in images(5, 2):
                expected, answer = local.infer(image), client.infer_input(image)
                assert answer.logits.tobytes() == expected.logits.tobytes()
                assert answer.payload_bytes == expected.payload_bytes


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_gives_nan_or_infinity_is_refused_on_the_device(tmp_path, value):
    bundle = with_codec(str(tmp_path / "net"), "learned", "static")
    with local_split_from_bundle(bundle) as local:
        with pytest.raises(CodecError, match="NaN or infinity, which have no code; check the head's output"):
            local.infer(np.full((1, 3, 8, 8), value, dtype=np.float32))
