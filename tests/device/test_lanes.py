"""Queues, batches, deadlines and limits, seen from clients of a real server."""

import contextlib
import os
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.limits import Rates, ServerLimits
from bottlekit.device.runners import Runner, TensorInfo

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from raw_client import frame, header, raw_connection, receive_frame
from servers import PATIENCE_S, TINY_FLEET, join, serving, wait_until


class Tail(Runner):
    """Logits that tell which feature they are of: its sum in every class. Waits in `_infer` for `gate`."""

    def __init__(self, classes, gate=None, batches=None, most=1000):
        super().__init__("tail")
        self._classes = classes
        self._gate = gate
        self._batches = batches if batches is not None else []
        self._most = most

    def _activate(self):
        return [TensorInfo("feature", (None, None, None, None), np.dtype(np.float32))], []

    def _deactivate(self):
        self._batches.append("closed")

    def _infer(self, feeds):
        feature = feeds["feature"]
        if len(feature) > self._most:
            raise errors.EngineError("this engine takes {}".format(self._most))
        if feature.any():  # not when the server starts and tries it out
            self._batches.append(len(feature))
            if self._gate is not None:
                assert self._gate.wait(PATIENCE_S)
        sums = feature.reshape(len(feature), -1).sum(axis=1, dtype=np.float64).astype(np.float32)
        return {"logits": np.repeat(sums[:, None], self._classes, axis=1)}


@pytest.fixture
def bundles(fake_bundle):
    specs = [{"name": "raw", "bits": 8, "quality": 20}, {"name": "png", "bits": 8, "quality": 20}]
    return [
        Bundle.load(fake_bundle("net{}".format(index), index=index + 1, codec=codec, classes=["a", "b", "c"]))
        for index, codec in enumerate(specs)
    ]


def feature(bundle, value):
    array = np.zeros(bundle.feature_shape, np.float32)
    array[0, 0, 0] = value
    return array


def ask(client, bundle, value, **options):
    """The answer to a feature of which everybody knows the sum."""
    return client._infer("infer", "tail", bundle.codec.encode(feature(bundle, value)), 0, {})


class Asking(threading.Thread):
    """A client in a thread of its own, which asks once."""

    def __init__(self, server, bundle, value):
        super().__init__()
        self._asked = (server, bundle, value)
        self.value = value
        self.answer = None
        self.error = None

    def run(self):
        server, bundle, value = self._asked
        try:
            with SplitClient(bundle, *server.address, timeout_s=PATIENCE_S) as client:
                self.answer = ask(client, bundle, value)
        except errors.BottlekitError as error:
            self.error = error


def started(askings):
    for asking in askings:
        asking.start()
    return askings


# ---- batches


def test_what_comes_in_while_a_tail_is_busy_is_computed_together(bundles):
    gate, batches = threading.Event(), []
    limits = ServerLimits(max_batch=4)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, gate, batches), limits=limits) as server:
        askings = started([Asking(server, bundles[0], 1.0)])
        wait_until(lambda: batches == [1])
        askings += started([Asking(server, bundles[0], float(value)) for value in range(2, 8)])
        wait_until(lambda: server.statistics.queued == 6)
        gate.set()
        join(*askings)
        assert batches == [1, 4, 2]
        assert [asking.answer.logits.tolist() for asking in askings] == [[one.value] * 3 for one in askings]
        assert sorted(asking.answer.batch for asking in askings) == [1, 2, 2, 4, 4, 4, 4]
        assert server.statistics.splits["rb1"].batches == 3
        assert server.statistics.splits["rb1"].answered == 7


def test_an_idle_tail_waits_for_company_as_long_as_it_is_told(bundles):
    batches = []
    limits = ServerLimits(max_batch=3, max_wait_s=0.3)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, None, batches), limits=limits) as server:
        asking = started([Asking(server, bundles[0], 1.0)])[0]
        join(asking)
        assert batches == [1]
        assert asking.answer.times_ms["queue"] >= 299


def test_a_full_batch_waits_for_nobody(bundles):
    batches = []
    limits = ServerLimits(max_batch=3, max_wait_s=3600.0)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, None, batches), limits=limits) as server:
        askings = started([Asking(server, bundles[0], float(value)) for value in (1, 2)])
        wait_until(lambda: server.statistics.queued == 2)
        assert batches == []
        askings += started([Asking(server, bundles[0], 3.0)])
        join(*askings)
        assert batches == [3]


def test_splits_are_never_mixed_and_do_not_wait_for_each_other(bundles):
    gates = {bundle.name: threading.Event() for bundle in bundles}
    batches = {bundle.name: [] for bundle in bundles}

    def runner_for(bundle, part):
        return Tail(3, gates[bundle.name], batches[bundle.name])

    # The graphs of the two are the same bytes, which the server would load once.
    for number, bundle in enumerate(bundles):
        bundle.manifest["files"]["tail.onnx"]["sha256"] = str(number) * 64
    with serving(bundles, runner_for=runner_for) as server:
        slow = started([Asking(server, bundles[0], float(value)) for value in (1, 2, 3)])
        wait_until(lambda: server.statistics.queued == 2)
        gates["net1"].set()
        quick = started([Asking(server, bundles[1], float(value)) for value in (4, 5)])
        join(*quick)
        assert [asking.answer.logits.tolist() for asking in quick] == [[4.0] * 3, [5.0] * 3]
        assert [asking.answer for asking in slow] == [None] * 3
        gates["net0"].set()
        join(*slow)
        assert [asking.answer.logits.tolist() for asking in slow] == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


@pytest.mark.parametrize("kind", ["the bundle is not dynamic", "the engine takes one", "the operator says so"])
def test_a_tail_that_takes_one_gets_one_at_a_time(bundles, kind):
    gate, batches = threading.Event(), []
    bundle = bundles[0]
    bundle.dynamic_batch = kind != "the bundle is not dynamic"
    most = 1 if kind == "the engine takes one" else 1000
    limits = ServerLimits(max_batch=1 if kind == "the operator says so" else 8)
    with serving([bundle], runner_for=lambda *_: Tail(3, gate, batches, most), limits=limits) as server:
        askings = started([Asking(server, bundle, float(value)) for value in (1, 2, 3)])
        wait_until(lambda: server.statistics.queued == 2)
        gate.set()
        join(*askings)
        assert batches == [1, 1, 1]
        assert [asking.answer.logits[0] for asking in askings] == [1.0, 2.0, 3.0]


def test_a_payload_that_is_none_spoils_nobody_elses_batch(bundles):
    gate, batches = threading.Event(), []
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, gate, batches)) as server:
        first = started([Asking(server, bundles[0], 1.0)])
        wait_until(lambda: batches == [1])
        good = started([Asking(server, bundles[0], float(value)) for value in (2, 3)])
        wait_until(lambda: server.statistics.queued == 2)
        with SplitClient(bundles[0], *server.address) as client:
            bad = threading.Thread(target=lambda: errors_of.append(refusal(client)))
            errors_of = []
            bad.start()
            wait_until(lambda: server.statistics.queued == 3)
            gate.set()
            join(bad)
        join(*(first + good))
        assert isinstance(errors_of[0], errors.PayloadError)
        assert [asking.answer.logits[0] for asking in first + good] == [1.0, 2.0, 3.0]
        assert batches == [1, 2]


def refusal(client):
    try:
        client._infer("infer", "tail", b"no payload", 0, {})
    except errors.BottlekitError as error:
        return error


def test_a_batch_that_fails_is_everybodys_error_and_the_next_one_works(bundles):
    gate, batches = threading.Event(), []

    class Breaking(Tail):
        def _infer(self, feeds):
            logits = super()._infer(feeds)
            if len(batches) == 2:
                raise errors.EngineError("out of memory")
            return logits

    with serving(bundles[:1], runner_for=lambda *_: Breaking(3, gate, batches)) as server:
        askings = started([Asking(server, bundles[0], 1.0)])
        wait_until(lambda: batches == [1])
        askings += started([Asking(server, bundles[0], float(value)) for value in (2, 3)])
        wait_until(lambda: server.statistics.queued == 2)
        gate.set()
        join(*askings)
        assert [type(asking.error) for asking in askings] == [type(None), errors.RemoteError, errors.RemoteError]
        later = started([Asking(server, bundles[0], 9.0)])[0]
        join(later)
        assert later.answer.logits[0] == 9.0


# ---- limits


def test_a_full_queue_says_so_at_once_and_the_rest_is_answered(bundles):
    gate, batches = threading.Event(), []
    limits = ServerLimits(queue=2, max_batch=1)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, gate, batches), limits=limits) as server:
        askings = started([Asking(server, bundles[0], 1.0)])
        wait_until(lambda: batches == [1])
        askings += started([Asking(server, bundles[0], float(value)) for value in (2, 3)])
        wait_until(lambda: server.statistics.queued == 2)
        shed = started([Asking(server, bundles[0], 4.0)])[0]
        join(shed)  # although the tail is still busy
        assert isinstance(shed.error, errors.ServerBusyError)
        assert "2 requests wait for a tail" in str(shed.error)
        gate.set()
        join(*askings)
        assert [asking.answer.logits[0] for asking in askings] == [1.0, 2.0, 3.0]
        assert server.statistics.queued == 0
        assert server.statistics.refused == {"BUSY": 1}


def test_a_client_that_asks_too_often_is_told_so_and_can_go_on_later(bundles):
    limits = ServerLimits(requests_per_s=2.0, burst_s=2.0)
    now = [0.0]
    with serving(bundles[:1], runner_for=lambda *_: Tail(3), limits=limits) as server:
        server._house.rates = Rates(limits.requests_per_s, limits.burst_s, lambda: now[0])
        with SplitClient(bundles[0], *server.address) as client:
            for value in range(1, 5):
                assert ask(client, bundles[0], float(value)).logits[0] == value
            with pytest.raises(errors.ServerBusyError, match="127.0.0.1 asks more than 2 times a second"):
                ask(client, bundles[0], 5.0)
            now[0] += 0.5
            assert ask(client, bundles[0], 6.0).logits[0] == 6.0


def test_one_client_does_not_take_all_places(bundles):
    limits = ServerLimits(connections_per_client=2)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3), limits=limits) as server:
        with SplitClient(bundles[0], *server.address), SplitClient(bundles[0], *server.address):
            with pytest.raises(errors.ServerBusyError, match="127.0.0.1 is connected 2 times"):
                SplitClient(bundles[0], *server.address).__enter__()


def test_who_connects_too_often_is_not_let_in_for_a_while(bundles):
    limits = ServerLimits(connects_per_s=0.001, burst_s=3000.0)
    with serving(bundles[:1], runner_for=lambda *_: Tail(3), limits=limits) as server:
        for _ in range(3):
            with SplitClient(bundles[0], *server.address) as client:
                ask(client, bundles[0], 1.0)
        with pytest.raises(errors.WireError, match="closed the connection"):
            SplitClient(bundles[0], *server.address).__enter__()


# ---- deadlines


def test_work_whose_deadline_has_passed_is_dropped_and_answered_as_such(bundles):
    gate, batches = threading.Event(), []
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, gate, batches)) as server:
        busy = started([Asking(server, bundles[0], 1.0)])[0]
        wait_until(lambda: batches == [1])
        with SplitClient(bundles[0], *server.address, timeout_s=PATIENCE_S) as client:
            payload = bundles[0].codec.encode(feature(bundles[0], 2.0))
            began = time.monotonic()
            with pytest.raises(errors.DeadlineError, match="passed while it waited; its work was dropped"):
                client._ask("the payload", len(payload), "infer", 0, payload, 0, 300)
            assert 0.29 < time.monotonic() - began < 30
            gate.set()
            join(busy)
            assert ask(client, bundles[0], 3.0).logits[0] == 3.0
        assert batches == [1, 1]  # the dropped one was never computed
        assert server.statistics.refused == {"DEADLINE": 1}


@pytest.mark.parametrize("deadline_ms", [0, -5])
def test_a_deadline_that_is_over_on_arrival_is_answered_as_such(bundles, deadline_ms):
    with serving(bundles[:1], runner_for=lambda *_: Tail(3)) as server:
        with SplitClient(bundles[0], *server.address) as client:
            payload = bundles[0].codec.encode(feature(bundles[0], 2.0))
            with pytest.raises(errors.DeadlineError):
                client._ask("the payload", len(payload), "infer", 0, payload, 0, deadline_ms)


def test_an_answer_that_was_computed_too_late_is_none(bundles):
    late = []

    class Slow(Tail):
        def _infer(self, feeds):
            if feeds["feature"].any():
                time.sleep(late[-1] / 1e3)
            return super()._infer(feeds)

    with serving(bundles[:1], runner_for=lambda *_: Slow(3)) as server:
        with SplitClient(bundles[0], *server.address, timeout_s=PATIENCE_S) as client:
            payload = bundles[0].codec.encode(feature(bundles[0], 2.0))
            while True:
                # A machine that is busy enough lets it wait until then: with more time it does not.
                late.append(200 * 4 ** len(late))
                with pytest.raises(errors.DeadlineError) as caught:
                    client._ask("the payload", len(payload), "infer", 0, payload, 0, late[-1])
                if "while it was computed" in str(caught.value) or len(late) > 3:
                    break
            assert "while it was computed" in str(caught.value)


def test_the_deadline_of_a_hello_holds_for_requests_without_their_own(bundles):
    """What a client does not wait for any more is not computed for it."""
    gate, batches = threading.Event(), []
    with serving(bundles[:1], runner_for=lambda *_: Tail(3, gate, batches)) as server:
        busy = started([Asking(server, bundles[0], 1.0)])[0]
        wait_until(lambda: batches == [1])
        with impatient_client(server, bundles[0], 0.4) as impatient:
            with pytest.raises(errors.WireError):
                ask(impatient, bundles[0], 2.0)
            wait_until(lambda: server.statistics.queued == 0)
        gate.set()
        join(busy)
        assert batches == [1]
        wait_until(lambda: server.statistics.refused == {"DEADLINE": 1})


@contextlib.contextmanager
def impatient_client(server, bundle, timeout_s):
    """A client that says hello with this timeout, and may take longer to say it."""
    client = SplitClient(bundle, *server.address, timeout_s=timeout_s)
    client._connect(time.monotonic() + PATIENCE_S)
    client._inside = True
    try:
        yield client
    finally:
        client.__exit__()


# ---- numbers


def test_an_answer_with_another_number_is_nobodys(bundles):
    with serving(bundles[:1], runner_for=lambda *_: Tail(3)) as server:
        with SplitClient(bundles[0], *server.address, reconnect=False) as client:

            class Wrong:
                number = 99

                def __getattr__(self, name):
                    return getattr(client._protocol, name)

            client._protocol, real = Wrong(), client._protocol
            Wrong.__getattr__ = lambda self, name: getattr(real, name)
            with pytest.raises(errors.WireError, match="number 2 with number 99"):
                ask(client, bundles[0], 1.0)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 1 << 30, -1])
def test_the_server_repeats_whatever_number_it_is_given(bundles, number):
    with serving(bundles[:1], runner_for=lambda *_: Tail(3)) as server:
        with raw_connection(server, hello=False) as connection:
            for method, arguments in (("hello", (1, "0")), ("ping", (b"",))):
                connection.sendall(frame(method, *arguments, number=number))
                assert header(receive_frame(connection)) == (method, 2, number)


def test_numbers_go_round_without_a_seam():
    fleet = fleet_from_path(TINY_FLEET)
    with serving(fleet) as server, SplitClient(fleet[0], *server.address) as client:
        sizes = set()
        for _ in range(300):
            client.ping()
            sizes.add(client._connected().sent_bytes)
        assert len(sizes) == 1
