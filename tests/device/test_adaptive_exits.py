"""Exits on top of the adaptive split: an image leaves at whichever head runs, the rest goes to a real server."""

import os
import shutil
import sys

import numpy as np
import pytest

from bottlekit.device.adaptive.client import AdaptiveClient
from bottlekit.device.adaptive.options import MOBILE_ONLY, Option, predicted
from bottlekit.device.adaptive.policy import Policy
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.errors import BundleError, UsageError
from bottlekit.device.exit_policy import Bounds, reached
from bottlekit.device.files import read_json, write_json
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.runner import TensorInfo

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import TINY_FLEET, serving

CURVE = [
    {"threshold": 0.0, "early_share": 0.0, "accuracy": 0.9},
    {"threshold": 0.8, "early_share": 0.75, "accuracy": 0.8},
]
EXIT = {
    "output": "exit_logits",
    "block": "rb1",
    "rule": "entropy",
    "threshold": 0.8,
    "curve": CURVE,
    "work": [],
    "accuracy": {"early_share": 0.75},
    "payload_bytes": {"always_offloading": 360.0},
}
# Far more than any split takes: the server is worth asking however busy the machine is.
WHOLE_MS = 1e6


class WithExit(OnnxRuntimeRunner):
    """A head whose exit is sure of class 0 where the image's first pixel is 1, and of hardly anything elsewhere."""

    def _activate(self):
        inputs, outputs = super()._activate()
        return inputs, outputs + [TensorInfo("exit_logits", (None, 5), np.float32)]

    def _infer(self, feeds):
        (feature,) = self._session.run(["feature"], feeds)
        # Of complete doubt no threshold lets anybody go.
        logits = np.array([[0.0, 0.1, 0.0, 0.0, 0.0]], np.float32)
        logits[0, 0] = 20.0 * feeds["image"][0, 0, 0, 0]
        return {"feature": feature, "exit_logits": logits}


def runner_for(bundle, part):
    return (WithExit if part == "head" else OnnxRuntimeRunner)(bundle.onnx_path(part), threads=1, spin=False)


@pytest.fixture
def fleet(tmp_path):
    """The tiny fleet with an exit in its first bundle."""
    folder = str(tmp_path / "fleet")
    shutil.copytree(TINY_FLEET, folder)
    path = os.path.join(folder, "rb1", "bundle.json")
    write_json(path, dict(read_json(path, "bundle"), exit=EXIT))
    return fleet_from_path(folder)


def options_of(fleet):
    splits = [Option(one.split["name"], one.name, "head", one.split["index"], 1.0, 1.0, 60.0) for one in fleet]
    return splits + [Option(MOBILE_ONLY, fleet[0].name, "baseline", 0, WHOLE_MS, None, 0.0)]


def image(first):
    pixels = np.random.RandomState(3).normal(size=(1, 3, 8, 8)).astype(np.float32)
    pixels[0, 0, 0, 0] = first
    return pixels


def client_of(fleet, server, **options):
    return AdaptiveClient(fleet, options_of(fleet), *server.address, runner_for=runner_for, **options)


@pytest.mark.parametrize("pin", ["rb1", None])
def test_the_sure_leave_and_the_others_are_what_the_split_says(fleet, pin):
    with local_split_from_bundle(fleet[0]) as split, serving(fleet) as server:
        expected = split.infer(image(0.0)).logits
        with client_of(fleet, server, pin=pin) as client:
            if pin is None:
                # The other split is as quick, and nobody leaves there.
                client.policy.options = [one for one in client.policy.options if one.name != "rb2"]
            sure, unsure = client.infer_input(image(1.0)), client.infer_input(image(0.0))
    assert (sure.split, sure.early, sure.exit, sure.class_index) == ("rb1", True, "rb1", 0)
    assert (sure.payload_bytes, sure.framed_bytes, sure.threshold) == (0, 0, 0.8)
    assert set(sure.times_ms) - {"load"} == {"head", "decide"}
    assert (unsure.early, unsure.exit) == (False, None)
    assert unsure.logits.tobytes() == expected.tobytes()
    assert unsure.framed_bytes > unsure.payload_bytes > 0
    assert sure.doubt < 0.8 < unsure.doubt


def test_the_threshold_is_the_callers(fleet):
    with serving(fleet) as server, client_of(fleet, server, pin="rb1", exit_threshold=0.0) as client:
        assert not client.infer_input(image(1.0)).early


def test_a_budget_is_kept_on_top_of_a_pinned_split(fleet):
    bounds = Bounds(payload_bytes=100.0)
    with serving(fleet) as server, client_of(fleet, server, pin="rb1", exit_bounds=bounds) as client:
        answers = [client.infer_input(image(place % 2)) for place in range(80)]
    assert not all(answer.early for answer in answers)
    assert reached(bounds, answers[40:], 1.0)["kept"] == {"bytes": True}


def test_the_share_that_is_sent_is_what_is_predicted(fleet):
    with serving(fleet) as server, client_of(fleet, server, pin="rb1") as client:
        before = {option.name: option.offload_share for option in client.policy.options}
        for _ in range(30):
            client.infer_input(image(0.0))
        after = {option.name: option.offload_share for option in client.policy.options}
    assert before == {"rb1": 0.25, "rb2": 1.0, MOBILE_ONLY: 1.0}
    assert after["rb1"] > 0.9
    assert after["rb2"] == 1.0


def test_who_waits_for_the_server_waits_as_for_any_image():
    here = Option(MOBILE_ONLY, "a", "baseline", 0, 500.0, None, 0.0)
    seldom, always = [Option("rb1", "a", "head", 1, 5.0, 10.0, 100.0, offload_share=share) for share in (0.1, 1.0)]
    assert predicted(seldom, 20.0, 0.1).terms_ms == pytest.approx(
        {"device": 5.0, "uplink": 1.0, "rtt": 2.0, "server": 1.0}
    )
    patience_ms = []
    for option in (seldom, always):
        policy = Policy([option, here])
        policy.pinged(0.0, 12, 20.0, 0)
        patience_ms.append(policy.choose(0.0).patience_ms)
    assert patience_ms[0] == patience_ms[1]


def test_exits_are_asked_for_where_there_are_none(fleet):
    plain = fleet[1:]
    for options in ({"exit_threshold": 0.3}, {"exit_bounds": Bounds(payload_bytes=3.0)}):
        with pytest.raises(BundleError, match="has no exit, so every image is sent"):
            AdaptiveClient(plain, options_of(plain)[:1], "localhost", 1, pin="rb2", **options)


def test_a_threshold_out_of_range_is_refused_when_it_is_first_used(fleet):
    with serving(fleet) as server, client_of(fleet, server, pin="rb1", exit_threshold=4.0) as client:
        with pytest.raises(UsageError, match="--exit-threshold must be 0 to 1.6094"):
            client.infer_input(image(0.0))
