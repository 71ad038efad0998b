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
from bottlekit.device.codes import quantised_from_outputs, quantised_tensors
from bottlekit.device.errors import CodecError, PayloadError
from bottlekit.device.files import read_json, sha256_of_file, write_json
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.quantizer import dequantize
from bottlekit.device.service import TAIL, TailService

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


# Tails that dequantise by themselves


class TailOnCodes(OnnxRuntimeRunner):
    """A tail as TensorRT builds it with the plugin: (words, range) --dequantise--> feature --tail--> logits."""

    def __init__(self, bundle):
        super().__init__(bundle.onnx_path("tail"), threads=1, spin=False)
        self._codec = bundle.codec
        self.batches = []

    def _activate(self):
        _, outputs = super()._activate()
        words, value_range, _ = quantised_tensors(self._codec.shape)
        return [words, value_range], outputs

    def _infer(self, feeds):
        self.batches.append(len(feeds["words"]))
        given = dict(feeds, status=np.zeros(len(feeds["words"]), np.int32))
        all_ = quantised_from_outputs(given, self._codec.shape)
        features = [dequantize(one.codes, one.low, one.high, self._codec.bits) for one in all_]
        return super()._infer({"feature": np.stack(features)})


@pytest.mark.parametrize("value_range", ["image", "static"])
@pytest.mark.parametrize("name", CODEC_NAMES)
def test_a_tail_that_takes_codes_is_served_them(tmp_path, name, value_range):
    bundle = with_codec(str(tmp_path / "net"), name, value_range)
    tails = []

    def runner_for(bundle, part):
        assert part == "tail"
        tails.append(TailOnCodes(bundle))
        return tails[-1]

    with serving([bundle], runner_for=runner_for) as server:
        with local_split_from_bundle(bundle) as local, SplitClient(bundle, *server.address) as client:
            before = len(tails[0].batches)
            for image in images(5, 2):
                expected, answer = local.infer(image), client.infer_input(image)
                assert answer.logits.tobytes() == expected.logits.tobytes()
                assert answer.payload_bytes == expected.payload_bytes
            assert tails[0].batches[before:] == [1] * 5


def test_codes_of_several_clients_make_one_batch_without_the_damaged(tmp_path):
    bundle = with_codec(str(tmp_path / "net"), "raw", "image")
    tail = TailOnCodes(bundle)
    with local_split_from_bundle(bundle) as local, TailService([bundle], lambda *_: tail, max_batch=8) as service:
        assert service.batch_limit(TAIL, 0) == 8
        pictures = images(4, 3)
        with OnnxRuntimeRunner(bundle.onnx_path("head"), threads=1) as head:
            payloads = [bundle.codec.encode(head.run({"image": one})["feature"][0]) for one in pictures]
        outcomes = service.run(TAIL, 0, payloads[:2] + [payloads[2][:-1]] + payloads[3:])
        assert isinstance(outcomes[2], PayloadError)
        assert tail.batches[-1] == 3
        for place in (0, 1, 3):
            np.testing.assert_allclose(
                outcomes[place].logits, local.infer(pictures[place]).logits, rtol=1e-5, atol=1e-5
            )
