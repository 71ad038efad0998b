"""What the device tests share. They are Python 3.6 source and run under Python 3.6 and the modern one alike."""

import json
import os
import sys

import hypothesis
import numpy as np
import pytest

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.files import sha256_of_file, write_json
from bottlekit.device.pipeline import local_split_from_bundle

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import INPUTS, TINY_FLEET

# The same examples in every run: a red test is red for everybody.
hypothesis.settings.register_profile("bottlekit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("bottlekit")


def pytest_configure(config):
    # Python 3.6 runs these tests without pyproject.toml, which its pytest cannot read.
    if sys.version_info < (3, 7):
        config.addinivalue_line("markers", "slow: takes more than a few seconds; left out of the fast tier")
        config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU")
        config.addinivalue_line("filterwarnings", "error")
        # The last Hypothesis for Python 3.6 reports a failure through a private class of pytest.
        config.addinivalue_line("filterwarnings", "ignore:A private pytest class")


@pytest.fixture(scope="module")
def fleet():
    """The tiny fleet: two real bundles."""
    return fleet_from_path(TINY_FLEET)


@pytest.fixture(scope="module")
def wanted(fleet):
    """The logits (12, classes) of INPUTS for each bundle of the tiny fleet, computed here."""
    found = []
    for bundle in fleet:
        with local_split_from_bundle(bundle) as local:
            found.append(np.stack([local.infer(image).logits for image in INPUTS]))
    return found


@pytest.fixture
def fake_bundle(tmp_path):
    """A function that writes a bundle of arbitrary bytes for graphs, but right in everything else.

    fake_bundle(folder="net", name=None, index=1, classes=("cat", "dog"), crop=8, feature=(3, 4, 4),
                codec=None, tables=None, baseline=True, edit=None) -> the bundle's folder as str
    `tables` are the arrays of codec.npz; `edit` gets the manifest before it is written and changes it in place.
    """

    def write(
        folder="net",
        name=None,
        index=1,
        classes=("cat", "dog"),
        crop=8,
        feature=(3, 4, 4),
        codec=None,
        tables=None,
        baseline=True,
        edit=None,
    ):
        path = str(tmp_path / folder)
        os.makedirs(path)
        codec = codec or {"name": "raw", "bits": 8, "quality": 20}
        parts = ("head", "tail", "full") + (("baseline",) if baseline else ())
        for part in parts:
            with open(os.path.join(path, part + ".onnx"), "wb") as file:
                file.write(b"no real graph: " + part.encode("ascii"))
        coder = codec_from_spec(codec, feature, tables)
        np.savez(os.path.join(path, "golden.npz"), **_golden(coder, feature, crop, len(classes), baseline))
        if tables is not None:
            np.savez(os.path.join(path, "codec.npz"), **tables)
        manifest = _manifest(name or os.path.basename(folder), index, classes, crop, feature, codec)
        for file_name in sorted(os.listdir(path)):
            file_path = os.path.join(path, file_name)
            manifest["files"][file_name] = {
                "sha256": sha256_of_file(file_path),
                "bytes": os.path.getsize(file_path),
            }
        if edit:
            edit(manifest)
        write_json(os.path.join(path, "bundle.json"), manifest)
        return path

    return write


def _golden(codec, feature_shape, crop, num_classes, baseline):
    random = np.random.RandomState(1)
    feature = random.uniform(-1, 1, (2,) + feature_shape).astype(np.float32)
    logits = random.uniform(-1, 1, (2, num_classes)).astype(np.float32)
    arrays = {
        "image": random.uniform(-1, 1, (2, 3, crop, crop)).astype(np.float32),
        "feature": feature,
        "codes": np.stack([codec.codes(one) for one in feature]),
        "decoded": np.stack([codec.decode(codec.encode(one)) for one in feature]),
        "logits": logits,
        "full_logits": logits,
    }
    if baseline:
        arrays["baseline_logits"] = logits
    return arrays


def _manifest(name, index, classes, crop, feature, codec):
    c, h, w = feature
    return json.loads(
        json.dumps(
            {
                "format": "bottlekit-bundle",
                "version": 1,
                "name": name,
                "bottlekit": "0.1.0",
                "command": "a test",
                "versions": {"python": "3.6.9", "torch": "0", "onnx": "0"},
                "model": {"backbone": "resnet18", "num_classes": len(classes), "input_size": crop},
                "split": {
                    "name": "rb{}".format(index),
                    "index": index,
                    "module": "layer1.{}".format(index - 1),
                    "channels": 64,
                    "height": 2 * h,
                    "width": 2 * w,
                    "stride": 4,
                },
                "bottleneck": {
                    "kind": "bottlenet",
                    "split": "rb{}".format(index),
                    "channels": c,
                    "spatial": 2,
                    "kernel": 3,
                },
                "codec": codec,
                "input": {"name": "image", "shape": [1, 3, crop, crop]},
                "feature": {"name": "feature", "shape": [1, c, h, w]},
                "output": {"name": "logits", "shape": [1, len(classes)]},
                "dynamic_batch": True,
                "preprocessing": {
                    "resize": crop,
                    "crop": crop,
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                },
                "classes": classes,
                "accuracy": {"data": "fake", "images": 2, "baseline": 0.98, "split": 0.97},
                "payload_bytes": {"mean": 56.0, "p50": 56, "p99": 56, "max": 56, "images": 2},
                "input_jpeg_bytes": None,
                "macs": {"head": 1, "tail": 1, "baseline": 2},
                "checkpoint_sha256": "0" * 64,
                "equivalence": [],
                "files": {},
            }
        )
    )
