import numpy as np
import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.early_exit import EarlyExit, Offloaded, exit_from_bundle, has_exit, offload_here
from bottlekit.device.errors import BundleError, EngineError, UnknownNameError, UsageError
from bottlekit.device.exit_policy import (
    Bounds,
    Costs,
    largest_share,
    latency_ms,
    report_of_answers,
    threshold_within,
)
from bottlekit.device.runner import Runner, TensorInfo

EXIT = {
    "output": "exit_logits",
    "block": "rb1",
    "rule": "entropy",
    "threshold": 0.3,
    "curve": [
        {"threshold": 0.0, "early_share": 0.0, "accuracy": 0.96},
        {"threshold": 0.2, "early_share": 0.5, "accuracy": 0.97},
        {"threshold": 0.5, "early_share": 0.8, "accuracy": 0.93},
        {"threshold": 0.69, "early_share": 1.0, "accuracy": 0.90},
    ],
    "work": [],
}


class Head(Runner):
    """The first pixel decides: its exit is sure of class 0 for 1, and knows nothing for 0."""

    outputs_made = ("feature", "exit_logits")

    def __init__(self):
        super().__init__("a head")

    def _activate(self):
        return (
            [TensorInfo("image", (None, 3, 8, 8), np.float32)],
            [TensorInfo(name, (None,), np.float32) for name in self.outputs_made],
        )

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        image = feeds["image"]
        first = image[:, 0, 0, 0]
        return {
            "feature": np.broadcast_to(first[:, None, None, None], (len(image), 3, 4, 4)).copy(),
            "exit_logits": np.stack([5 * first, np.zeros_like(first)], axis=1),
        }


class Tail(Runner):
    """Says class 1."""

    def __init__(self):
        super().__init__("a tail")

    def _activate(self):
        return [TensorInfo("feature", (None, 3, 4, 4), np.float32)], [TensorInfo("logits", (None, 2), np.float32)]

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        return {"logits": np.array([[0.0, 1.0]], np.float32)}


def image(value):
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[0, 0, 0, 0] = value
    return pixels


@pytest.fixture
def bundle(fake_bundle):
    return Bundle.load(fake_bundle(edit=lambda manifest: manifest.update(exit=EXIT)))


def test_the_sure_are_answered_here_and_the_unsure_are_sent(bundle):
    sent = []

    def offload(feature):
        sent.append(feature)
        return Offloaded(np.array([0.0, 1.0], np.float32), {"round_trip": 3.0}, 48, 60, 30)

    with Head() as head:
        device = EarlyExit(bundle, head, offload)
        sure, unsure = device.infer_input(image(1.0)), device.infer_input(image(0.0))
    assert (sure.early, sure.class_name, sure.payload_bytes, sure.framed_bytes) == (True, "cat", 0, 0)
    assert (unsure.early, unsure.class_name, unsure.payload_bytes, unsure.framed_bytes) == (False, "dog", 48, 60)
    assert sure.doubt < 0.3 < unsure.doubt
    assert set(sure.times_ms) == {"head", "decide"}
    assert set(unsure.times_ms) == {"head", "decide", "round_trip"}
    assert len(sent) == 1
    assert sure.top(1) == [(0, 5.0)]
    assert (sure.exit, sure.threshold, unsure.exit) == ("rb1", 0.3, None)


def test_the_threshold_changes_at_run_time(bundle):
    with Head() as head, Tail() as tail:
        device = EarlyExit(bundle, head, offload_here(bundle.codec, tail))
        assert device.threshold == 0.3
        assert device.infer_input(image(1.0)).early
        device.threshold = 0.0
        answer = device.infer_input(image(1.0))
        assert not answer.early
        assert answer.payload_bytes > 0
        assert set(answer.times_ms) == {"head", "decide", "encode", "decode", "tail"}
        for wrong in (-0.1, 0.8, float("nan")):
            with pytest.raises(UsageError, match="--exit-threshold must be 0 to 0.6931"):
                device.threshold = wrong
        assert device.threshold == 0.0
        with pytest.raises(UsageError, match="--exit-threshold"):
            EarlyExit(bundle, head, offload_here(bundle.codec, tail), threshold=7.0)


def test_an_image_is_prepared_as_the_bundle_says(bundle):
    with Head() as head, Tail() as tail:
        device = EarlyExit(bundle, head, offload_here(bundle.codec, tail))
        assert device.infer_image(np.zeros((20, 30, 3), np.uint8)).class_name in bundle.classes


def test_a_bundle_without_exits_asked_for_one_is_refused(fake_bundle):
    plain = Bundle.load(fake_bundle("plain"))
    assert not has_exit(plain)
    with pytest.raises(BundleError, match="the bundle plain has no exit, so every image is sent; export a"):
        exit_from_bundle(plain)


def test_an_old_reader_ignores_the_exit(bundle):
    assert bundle.feature_shape == (3, 4, 4)
    assert set(bundle.parts) == {"head", "tail", "full", "baseline"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": 0.8}, BundleError, "exit.threshold must be a number from 0 to 0.69"),
        ({"threshold": "low"}, BundleError, "exit.threshold"),
        ({"rule": "loss"}, UnknownNameError, "exit rule 'loss'"),
        ({"output": "elsewhere"}, BundleError, "exit.output"),
        ({"curve": {}}, BundleError, "exit.curve must be a list of objects"),
        ({"work": [1]}, BundleError, "exit.work must be a list of objects"),
        ({"exits": [1]}, BundleError, "exit.exits must be a list of objects"),
        ({"exits": []}, BundleError, "exit.exits must be exits in their order"),
        ({"exits": [{"block": "rb1", "output": "other"}]}, BundleError, "exit_logits last"),
        ({"exits": [{"block": "rb1"}]}, BundleError, "lacks exit.exits.output"),
        ({"accuracy": {"early_share": 2.0}}, BundleError, "early_share must be a number from 0 to 1"),
    ],
)
def test_an_exit_that_makes_no_sense_is_refused(fake_bundle, change, error, words):
    bundle = Bundle.load(fake_bundle(edit=lambda manifest: manifest.update(exit=dict(EXIT, **change))))
    with pytest.raises(error, match=words):
        exit_from_bundle(bundle)


def test_a_head_without_the_exits_output_is_refused(bundle):
    class Plain(Head):
        outputs_made = ("feature",)

    with Plain() as head:
        with pytest.raises(EngineError, match="has the outputs feature, and an exit needs exit_logits"):
            EarlyExit(bundle, head, lambda feature: None)


TWO = [{"block": "rb1", "output": "exit_logits_rb1"}, {"block": "rb2", "output": "exit_logits"}]


class TwoExits(Head):
    """The first exit looks at the first pixel and is for class 0, the second at the second and for class 1."""

    outputs_made = ("feature", "exit_logits_rb1", "exit_logits")

    def _infer(self, feeds):
        first, second = feeds["image"][:, 0, 0, 0], feeds["image"][:, 0, 0, 1]
        zero = np.zeros_like(first)
        return {
            "feature": np.zeros((len(first), 3, 4, 4), np.float32),
            "exit_logits_rb1": np.stack([5 * first, zero], axis=1),
            "exit_logits": np.stack([zero, 5 * second], axis=1),
        }


@pytest.fixture
def two_exits(fake_bundle):
    section = dict(EXIT, exits=TWO, block="rb2")
    return Bundle.load(fake_bundle("two", edit=lambda manifest: manifest.update(exit=section)))


def pixels(first, second):
    values = image(first)
    values[0, 0, 0, 1] = second
    return values


def test_the_first_exit_that_is_sure_answers(two_exits):
    with TwoExits() as head, Tail() as tail:
        device = EarlyExit(two_exits, head, offload_here(two_exits.codec, tail))
        answers = [device.infer_input(pixels(*both)) for both in ((1, 1), (0, 1), (1, 0), (0, 0))]
        assert [(one.early, one.exit, one.class_name) for one in answers] == [
            (True, "rb1", "cat"),
            (True, "rb2", "dog"),
            (True, "rb1", "cat"),
            (False, None, "dog"),
        ]
        # A threshold for each, while it runs: the first exit lets nobody go any more.
        device.thresholds = [0.0, 0.3]
        assert [device.infer_input(pixels(*both)).exit for both in ((1, 1), (1, 0))] == ["rb2", None]
        assert device.thresholds == [0.0, 0.3]
        device.threshold = 0.2
        assert device.thresholds == [0.2, 0.2]
        with pytest.raises(
            UsageError, match="3 thresholds for the exits at rb1, rb2; give one for all, or one for"
        ):
            device.thresholds = [0.1, 0.2, 0.3]
        with pytest.raises(UsageError, match="--exit-threshold must be 0 to 0.6931"):
            device.thresholds = [0.1, 0.9]
        assert device.thresholds == [0.2, 0.2]


def test_every_exit_of_the_bundle_must_be_in_the_head(two_exits):
    with Head() as head:
        with pytest.raises(EngineError, match="an exit needs exit_logits_rb1"):
            EarlyExit(two_exits, head, lambda feature: None)


def test_what_was_measured_at_export_is_known(fake_bundle):
    section = dict(EXIT, accuracy={"early_share": 0.4}, payload_bytes={"always_offloading": 48.0})
    found = exit_from_bundle(Bundle.load(fake_bundle("told", edit=lambda manifest: manifest.update(exit=section))))
    assert (found.early_share, found.payload_bytes, found.exits) == (0.4, 48.0, (("rb1", "exit_logits"),))


COSTS = Costs(head_ms=4.0, offload_ms=10.0, payload_bytes=200.0)


@pytest.mark.parametrize(
    ("bounds", "share"),
    [
        (Bounds(), 1.0),
        (Bounds(payload_bytes=50.0), 0.25),
        (Bounds(latency_ms=9.0), 0.5),
        (Bounds(server_per_s=30.0, images_per_s=100.0), 0.3),
        (Bounds(payload_bytes=50.0, latency_ms=9.0, server_per_s=90.0, images_per_s=100.0), 0.25),
        (Bounds(payload_bytes=1000.0), 1.0),
        (Bounds(deadline_ms=15.0), 1.0),
        (Bounds(deadline_ms=13.0), 0.0),
    ],
)
def test_bounds_limit_what_may_be_offloaded(bounds, share):
    assert largest_share(bounds, COSTS) == pytest.approx(share)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(payload_bytes=0.0), "payload_bytes must be a positive"),
        (Bounds(latency_ms=3.0), "the device's own part takes 4 ms"),
        (Bounds(deadline_ms=3.0), "the device's own part takes 4 ms"),
        (Bounds(server_per_s=3.0), "needs the number of images per second"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(bounds, words):
    with pytest.raises(UsageError, match=words):
        largest_share(bounds, COSTS)


def test_the_most_accurate_threshold_within_the_share_is_taken():
    assert threshold_within(EXIT["curve"], 1.0)["threshold"] == 0.2
    assert threshold_within(EXIT["curve"], 0.5)["threshold"] == 0.2
    assert threshold_within(EXIT["curve"], 0.4)["threshold"] == 0.5
    assert threshold_within(EXIT["curve"], 0.0)["threshold"] == 0.69
    with pytest.raises(UsageError, match="no threshold offloads at most 10.0%"):
        threshold_within(EXIT["curve"][:2], 0.1)


def test_the_report_tells_both_groups_apart(bundle):
    with Head() as head, Tail() as tail:
        device = EarlyExit(bundle, head, offload_here(bundle.codec, tail))
        answers = [device.infer_input(image(value)) for value in (1.0, 1.0, 0.0, 1.0)]
    report = report_of_answers(answers, [0, 1, 1, 0])
    assert report["early_share"] == 0.75
    assert [report[group]["images"] for group in ("all", "early", "offloaded")] == [4, 3, 1]
    assert [report[group]["accuracy"] for group in ("all", "early", "offloaded")] == [0.75, 2 / 3, 1.0]
    size = answers[2].payload_bytes
    assert [report[group]["payload_bytes"] for group in ("all", "early", "offloaded")] == [size / 4, 0, size]
    assert report["all"]["latency_ms"] == pytest.approx(sum(latency_ms(answer) for answer in answers) / 4)
    assert report_of_answers(answers[:2])["offloaded"] is None
    assert report_of_answers(answers[:2])["all"]["accuracy"] is None
    with pytest.raises(UsageError, match="1 labels for 2 answers"):
        report_of_answers(answers[:2], [1])
    with pytest.raises(UsageError, match="nothing to report"):
        report_of_answers([])
