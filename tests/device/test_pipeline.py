"""Both halves in one process: what runs in which order, what is measured, and the golden outputs."""

import os

import numpy as np
import pytest

from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.errors import BundleError, EngineError
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import (
    LocalSplit,
    LocalWhole,
    local_split_from_bundle,
    local_whole_from_bundle,
    whole_part,
)
from bottlekit.device.runners import Runner, TensorInfo

TINY_FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")


class Fake(Runner):
    """A graph of one numpy function that notes what it was given."""

    def __init__(self, source, target, function):
        super().__init__("fake " + target)
        self._source = source
        self._target = target
        self._function = function
        self.seen = []

    def _activate(self):
        return [TensorInfo(self._source, (None,) * 4, np.dtype(np.float32))], []

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        self.seen.append(feeds[self._source])
        return {self._target: self._function(feeds[self._source])}


@pytest.fixture(params=["rb1", "rb2"])
def bundle(request):
    return Bundle.load(os.path.join(TINY_FLEET, request.param))


def test_the_tail_sees_what_the_codec_left_of_the_feature(bundle):
    shape = (1,) + bundle.feature_shape
    feature = np.random.RandomState(0).uniform(0, 5, shape).astype(np.float32)
    image = np.zeros(bundle.input_shape, np.float32)
    head = Fake("image", "feature", lambda array: feature)
    tail = Fake("feature", "logits", lambda array: array.reshape(1, -1)[:, :5])
    with head, tail:
        outcome = LocalSplit(head, bundle.codec, tail).infer(image)
    payload = bundle.codec.encode(feature[0])
    decoded = bundle.codec.decode(payload)
    assert head.seen[0] is image
    assert tail.seen[0].shape == shape
    assert tail.seen[0].tobytes() == decoded.tobytes() != feature.tobytes()
    assert outcome.logits.tolist() == decoded.ravel()[:5].tolist()
    assert outcome.payload_bytes == len(payload)


def test_four_times_are_measured(bundle):
    with local_split_from_bundle(bundle) as split:
        outcome = split.infer(np.zeros(bundle.input_shape, np.float32))
    assert list(outcome.times_ms) == ["head", "encode", "decode", "tail"]
    assert all(0 < value < 60000 for value in outcome.times_ms.values())


def test_golden_outputs_are_reproduced(bundle):
    golden = bundle.golden()
    with local_split_from_bundle(bundle, threads=1) as split, local_whole_from_bundle(bundle) as whole:
        whole_logits = golden["baseline_logits" if "baseline" in bundle.parts else "full_logits"]
        for index, image in enumerate(golden["image"]):
            outcome = split.infer(image[np.newaxis])
            assert outcome.logits.shape == (5,)
            assert outcome.logits.dtype == np.float32
            # Equal codes, and float32 sums in another order: the graphs' weights and values are around 1.
            np.testing.assert_allclose(outcome.logits, golden["logits"][index], rtol=0, atol=1e-5)
            np.testing.assert_allclose(
                whole.infer(image[np.newaxis]).logits, whole_logits[index], rtol=0, atol=1e-5
            )


def test_a_split_is_its_parts_bit_for_bit(bundle):
    image = bundle.golden()["image"][:1]
    with OnnxRuntimeRunner(bundle.onnx_path("head")) as head, OnnxRuntimeRunner(bundle.onnx_path("tail")) as tail:
        feature = head.run({"image": image})["feature"]
        decoded = bundle.codec.decode(bundle.codec.encode(feature[0]))
        expected = tail.run({"feature": decoded[np.newaxis]})["logits"][0]
    with local_split_from_bundle(bundle) as split:
        assert split.infer(image).logits.tobytes() == expected.tobytes()


def test_the_baseline_stands_for_the_network_where_there_is_one():
    first, second = fleet_from_path(TINY_FLEET)
    assert (whole_part(first), whole_part(second)) == ("baseline", "full")
    with local_whole_from_bundle(first) as whole:
        outcome = whole.infer(np.zeros((1, 3, 8, 8), np.float32))
    assert list(outcome.times_ms) == ["baseline"]
    assert outcome.payload_bytes == 0


def test_the_part_is_named_as_it_was_given():
    with Fake("image", "logits", lambda array: np.zeros((1, 5), np.float32)) as runner:
        assert list(LocalWhole(runner, "full").infer(np.zeros((1, 3, 8, 8), np.float32)).times_ms) == ["full"]


@pytest.mark.parametrize("shape", [(1, 3, 9, 9), (3, 8, 8), (2, 1, 8, 8), (1, 3, 8, 0)])
def test_an_input_of_another_shape_is_refused(bundle, shape):
    with local_split_from_bundle(bundle) as split, local_whole_from_bundle(bundle) as whole:
        for network in (split, whole):
            with pytest.raises(EngineError, match="shape"):
                network.infer(np.zeros(shape, np.float32))


def test_runners_that_are_not_open_are_refused(bundle):
    runner = OnnxRuntimeRunner(bundle.onnx_path("head"))
    with pytest.raises(EngineError, match="not loaded"):
        LocalSplit(runner, bundle.codec, runner).infer(np.zeros(bundle.input_shape, np.float32))


def test_a_bundle_of_arbitrary_bytes_for_graphs_does_not_open(fake_bundle):
    with pytest.raises(EngineError), local_split_from_bundle(Bundle.load(fake_bundle())):
        pass


def test_an_absent_part_is_a_bundle_error():
    with pytest.raises(BundleError, match="no baseline"):
        fleet_from_path(TINY_FLEET)[1].onnx_path("baseline")
