"""The adaptive client against real servers: it always answers, rightly, soon, and goes back by itself."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device.adaptive.client import AdaptiveClient
from bottlekit.device.adaptive.heads import Heads, engine_bytes, graph_bytes
from bottlekit.device.adaptive.options import MOBILE_ONLY, options_from_profile
from bottlekit.device.adaptive.policy import Settings
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.errors import (
    BundleError,
    EngineError,
    ReportError,
    UnknownNameError,
    UsageError,
    WireError,
)
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import local_split_from_bundle, local_whole_from_bundle

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import PATIENCE_S, join, server_process, wait_until

# Quick to come back, so that a test need not wait; patient, so that a busy machine is no lost server.
QUICK = Settings(first_retry_s=0.1, longest_retry_s=0.5, probe_s=0.5, least_patience_ms=20000.0)
# What the whole network takes here: so long that the server is worth asking.
WHOLE_MS = 300.0
# In a profile: longer than whatever a server may seem to need on a busy machine.
NEVER_MS = 1e6


class SlowWhole(OnnxRuntimeRunner):
    def _infer(self, feeds):
        time.sleep(WHOLE_MS / 1e3)
        return super()._infer(feeds)


def runner_for(bundle, part):
    return (SlowWhole if part == "baseline" else OnnxRuntimeRunner)(bundle.onnx_path(part), threads=1, spin=False)


def profile_of(bundles, whole_ms=WHOLE_MS, head_ms=1.0, tail_ms=1.0):
    def phase(value_ms):
        return {"origin": "measured", "summary": {"p50_ms": value_ms}}

    return {
        "format": "bottlekit-profile",
        "version": 1,
        "bundles": [
            {
                "bundle": {
                    "name": bundle.name,
                    "sha256": bundle.sha256,
                    "split": bundle.split["name"],
                    "split_index": bundle.split["index"],
                },
                "payload_bytes": {"mean": 300.0},
                "framed_bytes": {"overhead": 20.0},
                "phases": {
                    "head": phase(head_ms * bundle.split["index"]),
                    "encode": phase(0.1),
                    "decode": phase(0.1),
                    "tail": phase(tail_ms),
                    "baseline": phase(whole_ms),
                },
            }
            for bundle in bundles
        ],
    }


@pytest.fixture(scope="module")
def expected(fleet):
    """A function image -> the logits, by where it was cut, to the last bit."""
    with contextlib.ExitStack() as stack:
        networks = {one.split["name"]: stack.enter_context(local_split_from_bundle(one)) for one in fleet}
        networks[MOBILE_ONLY] = stack.enter_context(local_whole_from_bundle(fleet[0]))
        yield lambda image, split: networks[split].infer(image).logits


def image(seed=0):
    return np.random.RandomState(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)


def keep_from_computing_here(client):
    """Let it not learn that the whole network takes less than NEVER_MS: a lost server is all that leads there."""
    client.policy.device.observe = lambda ratio: None


def answers_until(client, split, seconds=PATIENCE_S):
    """Ask until an answer comes from there; the answers."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found.append(client.infer_input(image(len(found))))
        if found[-1].split == split:
            return found
        time.sleep(0.02)
    raise AssertionError("no answer from {}; the last: {}".format(split, found[-1]))


def test_it_uses_the_server_says_why_and_equals_the_local_split(fleet, expected):
    options = options_from_profile(profile_of(fleet, whole_ms=NEVER_MS), fleet)
    with server_process() as (_, port), AdaptiveClient(
        fleet, options, "127.0.0.1", port, runner_for=runner_for, settings=QUICK
    ) as client:
        keep_from_computing_here(client)
        for _ in range(10):
            found = answers_until(client, "rb1")
            seed, answer = len(found) - 1, found[-1]
            assert answer.logits.tobytes() == expected(image(seed), answer.split).tobytes()
            assert answer.class_name == fleet[0].classes[int(np.argmax(answer.logits))]
        assert answer.split == "rb1"
        assert answer.reason.startswith(("least predicted latency", "kept: "))
        assert set(answer.predicted_ms) == {"device", "uplink", "rtt", "server"}
        assert set(answer.considered_ms) == {"rb1", "rb2", MOBILE_ONLY}
        assert {"head", "encode", "round_trip", "queue", "decode", "tail"} <= set(answer.times_ms)
        assert answer.framed_bytes > answer.payload_bytes > 0
        assert answer.lost is None


def test_without_a_server_it_answers_from_the_start(fleet, expected):
    options = options_from_profile(profile_of(fleet), fleet)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        address = unused.getsockname()
        with AdaptiveClient(fleet, options, *address, runner_for=runner_for, settings=QUICK) as client:
            answer = client.infer_input(image())
    assert answer.split == MOBILE_ONLY
    assert "no server answers" in answer.reason
    assert answer.logits.tobytes() == expected(image(), MOBILE_ONLY).tobytes()
    assert answer.payload_bytes == answer.framed_bytes == 0


def test_a_killed_server_is_replaced_at_once_and_used_again_when_it_is_back(fleet, expected):
    options = options_from_profile(profile_of(fleet), fleet)
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(server_process())
        client = stack.enter_context(
            AdaptiveClient(fleet, options, "127.0.0.1", port, runner_for=runner_for, settings=QUICK)
        )
        answers_until(client, "rb1")
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen = [client.infer_input(image(seed)) for seed in range(5)]
        assert {one.split for one in seen} == {MOBILE_ONLY}
        for seed, one in enumerate(seen):
            assert one.logits.tobytes() == expected(image(seed), MOBILE_ONLY).tobytes()
        stack.enter_context(server_process(port))
        back = answers_until(client, "rb1")
        for seed, one in enumerate(back):
            assert one.logits.tobytes() == expected(image(seed), one.split).tobytes()


def test_a_clock_that_is_set_does_not_keep_it_from_the_server(fleet, expected, monkeypatch):
    options = options_from_profile(profile_of(fleet, whole_ms=NEVER_MS), fleet)
    with server_process() as (_, port), AdaptiveClient(
        fleet, options, "127.0.0.1", port, runner_for=runner_for, settings=QUICK
    ) as client:
        keep_from_computing_here(client)
        for now in (0.0, 4e9, -1e9):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            wait_until(client.probe, "a ping")
            for seed, answer in enumerate(answers_until(client, "rb1")):
                assert answer.logits.tobytes() == expected(image(seed), answer.split).tobytes()


class Relay:
    """A wire in between that can be stopped: what arrives then waits, in both directions."""

    def __init__(self, port):
        self._port = port
        self.flowing = threading.Event()
        self.flowing.set()
        self._ended = threading.Event()
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(8)
        self._listening.settimeout(0.05)
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        join(*self._threads)
        self._listening.close()

    def _accept(self):
        while not self._ended.is_set():
            with contextlib.suppress(socket.timeout):
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                thread = threading.Thread(target=self._carry, args=(near, far))
                self._threads.append(thread)
                thread.start()

    def _carry(self, near, far):
        with near, far:
            while not self._ended.is_set():
                ready, _, _ = select.select([near, far], [], [], 0.05)
                while not self.flowing.wait(0.05):
                    if self._ended.is_set():
                        return
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    with contextlib.suppress(OSError):
                        (far if one is near else near).sendall(data)


def test_a_link_that_stalls_under_a_request_costs_a_bounded_wait(fleet, expected):
    options = options_from_profile(profile_of(fleet), fleet)
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(server_process())
        relay = stack.enter_context(Relay(port))
        client = stack.enter_context(
            AdaptiveClient(fleet, options, "127.0.0.1", relay.port, runner_for=runner_for, settings=QUICK)
        )
        answers_until(client, "rb1")
        # From here on little patience: a server that answers late is as good as lost, and comes back all the same.
        client.policy.settings = QUICK._replace(least_patience_ms=400.0)
        relay.flowing.clear()
        started = time.monotonic()
        seen = [client.infer_input(image(seed)) for seed in range(10)]
        elapsed_s = time.monotonic() - started
        assert {one.split for one in seen} == {MOBILE_ONLY}
        # Ten requests over a dead link: one or few of them waited, and none for the 10 s of the client.
        assert elapsed_s < 60.0
        stalled = [one for one in seen if one.lost]
        # Where the machine stood still for long, a ping found it out first.
        assert stalled or "the server is lost" in seen[0].reason
        for one in stalled:
            assert "did not answer" in one.reason
            assert one.times_ms["lost"] >= 100.0
        relay.flowing.set()
        for seed, one in enumerate(answers_until(client, "rb1")):
            assert one.logits.tobytes() == expected(image(seed), one.split).tobytes()


def test_a_pinned_split_is_used_and_its_lost_server_is_an_error(fleet, expected):
    options = options_from_profile(profile_of(fleet), fleet)
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(server_process())
        client = stack.enter_context(AdaptiveClient(fleet, options, "127.0.0.1", port, pin="rb2"))
        answer = client.infer_input(image())
        assert (answer.split, answer.reason) == ("rb2", "pinned")
        assert answer.logits.tobytes() == expected(image(), "rb2").tobytes()
        process.kill()
        process.wait()
        with pytest.raises(WireError):
            client.infer_input(image())


def test_pinned_to_mobile_only_it_asks_nobody(fleet, expected):
    options = options_from_profile(profile_of(fleet), fleet)
    with AdaptiveClient(fleet, options, "127.0.0.1", 9, pin=MOBILE_ONLY) as client:
        answer = client.infer_input(image())
    assert answer.split == MOBILE_ONLY
    assert answer.reason == "pinned"
    assert answer.logits.tobytes() == expected(image(), MOBILE_ONLY).tobytes()


def test_it_changes_the_split_on_one_connection(fleet, expected):
    """Two splits and back: every answer belongs to its split, whichever was used before."""
    options = options_from_profile(profile_of(fleet, whole_ms=NEVER_MS), fleet)
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(server_process())
        client = stack.enter_context(
            AdaptiveClient(fleet, options, "127.0.0.1", port, runner_for=runner_for, settings=QUICK, probing=False)
        )
        keep_from_computing_here(client)
        wait_until(client.probe, "a ping")
        for seed in range(6):
            slow = "rb1" if seed % 2 else "rb2"
            client.policy.options = [
                one._replace(device_ms=NEVER_MS / 2 if one.name == slow else 1.0) if one.is_remote else one
                for one in options
            ]
            client.policy.server.value = 1.0
            answer = client.infer_input(image(seed))
            assert answer.split == ("rb2" if slow == "rb1" else "rb1")
            assert answer.logits.tobytes() == expected(image(seed), answer.split).tobytes()
        assert "connect" not in answer.times_ms


def test_another_fleet_is_refused_by_name(fleet, fake_bundle):
    other = fleet_from_path(fake_bundle(folder="tiny-rb1"), verify=False)
    options = options_from_profile(profile_of(other), other)

    def any_graph(bundle, part):
        return OnnxRuntimeRunner(fleet[0].onnx_path(part))

    with server_process() as (_, port):
        with pytest.raises(BundleError, match="serves another export of tiny-rb1"):
            with AdaptiveClient(other, options, "127.0.0.1", port, runner_for=any_graph):
                pass


# ---- memory


class Counting:
    """Runners that write down what is open."""

    def __init__(self):
        self.open = []

    def __call__(self, bundle, part):
        owner, name = self, (bundle.name, part)

        class Fake(OnnxRuntimeRunner):
            def __enter__(self):
                owner.open.append(name)
                return super().__enter__()

            def __exit__(self, *exception):
                owner.open.remove(name)
                super().__exit__(*exception)

        return Fake(bundle.onnx_path(part))


def test_heads_stay_within_the_budget_and_the_oldest_goes_first(fleet):
    counting = Counting()
    first, second = fleet
    with Heads(counting, lambda *_: 40, budget_bytes=100) as heads:
        one = heads.get(first, "head")
        heads.get(second, "head")
        assert heads.get(first, "head") is one
        heads.get(first, "tail")
        assert counting.open == [("tiny-rb1", "head"), ("tiny-rb1", "tail")] == heads.names
        assert heads.held_bytes == 80
        heads.get(second, "head", keep=("head",))
        assert heads.names == [("tiny-rb1", "head"), ("tiny-rb2", "head")]
        with pytest.raises(
            EngineError, match="the tail of tiny-rb1 has 40 bytes, more than the memory budget of 100"
        ):
            heads.get(first, "tail", keep=("head",))
    assert counting.open == []


def test_without_a_budget_everything_stays(fleet):
    with Heads(Counting(), graph_bytes) as heads:
        for bundle in fleet:
            for part in ("head", "tail"):
                heads.get(bundle, part)
        assert len(heads.names) == 4
        assert heads.held_bytes == sum(
            graph_bytes(bundle, part)
            for bundle, part in [(bundle, part) for bundle in fleet for part in ("head", "tail")]
        )


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_of_nothing_is_refused(budget):
    with pytest.raises(UsageError, match="at least 1 byte"):
        Heads(Counting(), graph_bytes, budget)


def test_splits_that_do_not_fit_beside_the_whole_network_are_left_out(fleet):
    options = options_from_profile(profile_of(fleet), fleet)

    def size_of(bundle, part):
        return {"baseline": 100, "head": 30 * bundle.split["index"]}[part]

    client = AdaptiveClient(fleet, options, "127.0.0.1", 9, size_of=size_of, memory_bytes=140)
    assert client.left_out == ["rb2"]
    assert [option.name for option in client.policy.options] == ["rb1", MOBILE_ONLY]
    with pytest.raises(UsageError, match="the whole network has 100 bytes"):
        AdaptiveClient(fleet, options, "127.0.0.1", 9, size_of=size_of, memory_bytes=99)
    with pytest.raises(UnknownNameError, match="rb2"):
        AdaptiveClient(fleet, options, "127.0.0.1", 9, size_of=size_of, memory_bytes=50, pin="rb2")


def test_an_engine_that_is_not_there_has_no_size(fleet, tmp_path):
    with pytest.raises(EngineError, match="no engine of tiny-rb1 for cpu"):
        engine_bytes(str(tmp_path), "cpu")(fleet[0], "head")


# ---- profiles


def test_options_are_what_the_profile_says(fleet):
    server = profile_of(fleet, tail_ms=7.0)
    options = options_from_profile(profile_of(fleet), fleet, server)
    assert [option.name for option in options] == ["rb1", "rb2", MOBILE_ONLY]
    assert [option.device_ms for option in options] == [1.1, 2.1, WHOLE_MS]
    assert [option.server_ms for option in options] == [7.1, 7.1, None]
    assert [option.offloaded_bytes for option in options] == [320.0, 320.0, 0.0]


def spoiled(bundles, change):
    profile = profile_of(bundles)
    change(profile)
    return profile


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(format="other"), "is no profile"),
        (lambda p: p.update(version=2), "is no profile"),
        (lambda p: p.update(bundles=[]), "without bundles"),
        (lambda p: p["bundles"][0]["bundle"].update(sha256="0" * 64), "measured another export of tiny-rb1"),
        (lambda p: p["bundles"].pop(1), "does not have tiny-rb2"),
        (lambda p: p["bundles"][0]["phases"].pop("head"), "lacks phases.head"),
        (lambda p: p["bundles"][0]["phases"]["tail"]["summary"].update(p50_ms=0), "must be a number"),
        (lambda p: p["bundles"][1]["phases"]["head"]["summary"].update(p50_ms="1"), "must be a number"),
        (lambda p: p["bundles"][1]["payload_bytes"].update(mean=-1), "must be a number"),
        (lambda p: [one["phases"].pop("baseline") for one in p["bundles"]], "did not measure the whole network"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_in_one_line(fleet, change, words):
    with pytest.raises(ReportError, match=words) as caught:
        options_from_profile(spoiled(fleet, change), fleet, where="profile.json")
    assert "profile.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_bundles_for_one_split_are_refused(fleet):
    twice = [fleet[0], fleet[0]]
    with pytest.raises(ReportError, match="more than one bundle for rb1"):
        options_from_profile(profile_of(fleet), twice)
