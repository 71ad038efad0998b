"""A server that goes and comes back, and a network that breaks: bounded waiting, no wrong answer, no lost one."""

import contextlib
import os
import socket
import struct
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.server import server_from_fleet

TINY_FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")
INPUTS = np.random.RandomState(3).normal(size=(12, 1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def fleet():
    return fleet_from_path(TINY_FLEET)


@pytest.fixture(scope="module")
def wanted(fleet):
    """The logits of INPUTS for each bundle, computed here."""
    found = []
    for bundle in fleet:
        with local_split_from_bundle(bundle) as local:
            found.append([local.infer(image).logits.tobytes() for image in INPUTS])
    return found


@contextlib.contextmanager
def serving(bundles, port=0):
    with server_from_fleet(bundles, port=port) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


class Link:
    """A proxy whose connections can be cut after so many more bytes, or swallow everything."""

    def __init__(self, address):
        self._address = address
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(16)
        self._sockets = []
        self._threads = []
        self.up_left = self.down_left = float("inf")
        self.swallow = False
        self.connections = 0

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_exception):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for one in self._sockets:
            one.close()

    @property
    def address(self):
        return self._listening.getsockname()

    def cut(self):
        """Break all connections, with a reset."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                self.connections += 1
                try:
                    far = socket.create_connection(self._address)
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                self._start(self._pump, near, far, "up_left")
                self._start(self._pump, far, near, "down_left")

    def _pump(self, source, target, counter):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(65536), b""):
                if self.swallow:
                    continue
                left = getattr(self, counter)
                if len(data) > left:
                    target.sendall(data[: int(left)])
                    setattr(self, counter, float("inf"))
                    break
                setattr(self, counter, left - len(data))
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def test_a_server_that_is_started_again_is_found_again(fleet, wanted):
    with serving(fleet) as server:
        port = server.address[1]
        client = SplitClient(fleet[1], "127.0.0.1", port, timeout_s=15).__enter__()
        assert client.infer_input(INPUTS[0]).logits.tobytes() == wanted[1][0]
    answers = []
    asking = threading.Thread(target=lambda: answers.extend(client.infer_input(one) for one in INPUTS))
    asking.start()
    time.sleep(0.4)
    assert answers == []
    # Alone, the bundle has another number than before.
    with serving(fleet[1:], port):
        asking.join(20)
        assert [answer.logits.tobytes() for answer in answers] == wanted[1]
        client.__exit__()


def test_a_server_that_comes_back_with_another_export_is_refused(fleet):
    with serving(fleet) as server:
        port = server.address[1]
        client = SplitClient(fleet[0], "127.0.0.1", port, timeout_s=10).__enter__()
    with serving(fleet[1:], port):
        for _ in range(2):
            with pytest.raises(errors.BundleError, match="does not serve tiny-rb1"):
                client.infer_input(INPUTS[0])
        client.__exit__()


@pytest.mark.parametrize("direction", ["up_left", "down_left"])
def test_a_link_that_is_cut_anywhere_in_a_message_costs_time_and_nothing_else(fleet, wanted, direction):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=10) as client:
            client.infer_input(INPUTS[0])
            for turn, left in enumerate([0, 1, 3, 4, 5, 17, 30, 35]):
                setattr(link, direction, left)
                before = link.connections
                answer = client.infer_input(INPUTS[turn])
                assert answer.logits.tobytes() == wanted[0][turn]
                assert link.connections == before + 1
                assert answer.times_ms["round_trip"] < 5000


def test_a_link_that_breaks_again_and_again_gives_no_wrong_answer(fleet, wanted):
    dice = np.random.RandomState(1)
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=30) as client:
            for turn in range(150):
                cutting = threading.Timer(dice.uniform(0, 0.004), link.cut)
                if turn % 3 == 0:
                    cutting.start()
                number = turn % len(INPUTS)
                assert client.infer_input(INPUTS[number]).logits.tobytes() == wanted[0][number]
                if turn % 3 == 0:
                    cutting.join(20)
        assert link.connections > 10


def test_a_connection_that_only_looks_open_costs_its_request_the_timeout_and_the_next_one_nothing(fleet, wanted):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=2.0) as client:
            client.infer_input(INPUTS[0])
            link.swallow = True
            started = time.monotonic()
            with pytest.raises(errors.WireError, match="did not answer infer within 2 s"):
                client.infer_input(INPUTS[1])
            assert time.monotonic() - started < 6
            link.swallow = False
            assert client.infer_input(INPUTS[2]).logits.tobytes() == wanted[0][2]
            assert link.connections == 2


def test_an_answer_that_comes_too_late_is_never_taken_for_the_next_ones(fleet, wanted):
    with serving(fleet) as server, Link(server.address) as link:
        with SplitClient(fleet[0], *link.address, timeout_s=2.0) as client:
            for turn in range(2):
                client.infer_input(INPUTS[turn])
                link.swallow = True
                with pytest.raises(errors.WireError):
                    client.infer_input(INPUTS[turn + 1])
                link.swallow = False
                assert client.infer_input(INPUTS[turn + 2]).logits.tobytes() == wanted[0][turn + 2]


def test_waiting_for_a_server_that_never_comes_back_ends_in_time(fleet):
    with serving(fleet) as server:
        client = SplitClient(fleet[0], *server.address, timeout_s=1.0).__enter__()
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(errors.ServerUnreachableError):
            client.infer_input(INPUTS[0])
        assert 0.5 < time.monotonic() - started < 6
    client.__exit__()


def test_a_clock_that_jumps_ends_nothing_and_delays_nothing(fleet, wanted, monkeypatch):
    """All waiting is by the monotonic clock; the other one may be set at any time."""
    with serving(fleet) as server, SplitClient(fleet[0], *server.address, timeout_s=5) as client:
        for turn, now in enumerate([0.0, 4e9, 1e9]):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            time.sleep(0.15)
            assert client.infer_input(INPUTS[turn]).logits.tobytes() == wanted[0][turn]
