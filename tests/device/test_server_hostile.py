"""Clients that are slow, silent, deaf, cut off or malicious: none of them harms another, and none stays."""

import contextlib
import os
import random
import select
import socket
import struct
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.runners import Runner, TensorInfo
from bottlekit.device.server import ServerLimits, server_from_fleet
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.framing import frame_from_message

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from raw_client import HELLO, frame, message, raw_connection, receive_frame, reply, wait_for_the_end
from servers import PATIENCE_S, in_a_thread, join, serving, wait_until

IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)
# Who is ended here is ended for what was sent. Where it is for being slow, a test says how slow.
PATIENT = ServerLimits(
    image_bytes=4096, hello_s=PATIENCE_S, idle_s=PATIENCE_S, frame_s=PATIENCE_S, drain_s=PATIENCE_S
)


@pytest.fixture(scope="module")
def strict_server(fleet):
    said = []
    with serving(fleet, limits=PATIENT, say=said.append) as server:
        yield server, said


@pytest.fixture
def strict(strict_server):
    """(a server that ends nobody for being slow, what it said during this test)."""
    server, said = strict_server
    said.clear()
    return server, said


def words_about(connection, said):
    """What the server said about this connection; it says so just after it hung up."""
    name = "127.0.0.1:{}:".format(connection.getsockname()[1])
    lines = wait_until(lambda: [line for line in said if name in line], "a word about it")
    assert len(lines) == 1
    return lines[0]


def check_that_it_works(server, bundle):
    with local_split_from_bundle(bundle) as local, SplitClient(bundle, *server.address) as client:
        assert client.infer_input(IMAGE).logits.tobytes() == local.infer(IMAGE).logits.tobytes()


# ---- frames that are none

BAD_FRAMES = {
    "a length over the limit": struct.pack("!i", 1 << 20) + b"x" * 100,
    "the largest length there is": b"\x7f\xff\xff\xff",
    "a negative length": b"\xff\xff\xff\xff",
    "a length of zero": b"\0\0\0\0",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes(bytearray.fromhex("16030100a5010000a1030300")) + b"\1" * 160,
    "garbage in a good frame": frame_from_message(bytes(bytearray(range(200)))),
    "millions of items": frame_from_message(message("ping", b"")[:8] + b"\x19\xf3\xc0\x8d\xb7\x01" + b"\1" * 300),
    "structs in structs": frame_from_message(message("ping", b"")[:8] + b"\x9c" + b"\x1c" * 3000),
    "bytes longer than the frame": frame_from_message(message("ping", b"")[:8] + b"\x18\xff\xff\xff\xff\x07"),
    "a message cut short": frame_from_message(message("infer", 0, b"x" * 50, 5)[:-20]),
}


@pytest.mark.parametrize("greeted", [True, False])
@pytest.mark.parametrize("what", sorted(BAD_FRAMES))
def test_a_bad_frame_ends_its_own_connection_and_no_other(fleet, strict, what, greeted):
    server, said = strict
    with SplitClient(fleet[0], *server.address) as bystander, raw_connection(server, greeted) as connection:
        connection.sendall(BAD_FRAMES[what])
        wait_for_the_end(connection)
        bystander.ping()
        assert words_about(connection, said).isprintable()
    check_that_it_works(server, fleet[0])


def test_nobody_may_send_much_before_hello(fleet, strict):
    server, said = strict
    with raw_connection(server, hello=False) as connection:
        connection.sendall(struct.pack("!i", 300))
        wait_for_the_end(connection)
        assert "the limit is 256" in words_about(connection, said)


def test_a_connection_that_is_cut_anywhere_harms_nobody(fleet, strict):
    server, _ = strict
    request = HELLO + frame("infer", 0, fleet[0].codec.encode(np.ones((2, 4, 4), np.float32)), 0)
    for length in list(range(len(HELLO) + 12)) + [len(request) - 1, len(request)]:
        with raw_connection(server, hello=False) as connection:
            connection.sendall(request[:length])
            if length % 2:  # half of them with a reset instead of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    check_that_it_works(server, fleet[0])


def test_mutated_requests_never_break_the_server(fleet):
    dice = random.Random(1)
    payload = fleet[0].codec.encode(np.ones((2, 4, 4), np.float32))
    originals = [message("infer", 0, payload, 5), message("ping", b"abc"), message("infer_image", 1, payload, 0)]
    answered = 0
    with serving(fleet, limits=ServerLimits(image_bytes=4096)) as server:
        for _ in range(300):
            mutated = bytearray(dice.choice(originals))
            for _ in range(dice.randint(1, 4)):
                mutated[dice.randrange(len(mutated))] = dice.randrange(256)
            with raw_connection(server) as connection:
                connection.sendall(frame_from_message(bytes(mutated)))
                with contextlib.suppress(AssertionError, ConnectionError):
                    receive_frame(connection)
                    answered += 1
        check_that_it_works(server, fleet[0])
        wait_until(lambda: not server._connections, "the end of all connections")
        assert server.statistics.in_flight == 0
    assert 20 < answered < 300


# ---- requests that are well formed and wrong


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (("infer", None, b"x", 1), "PROTOCOL"),
        (("infer", 0, None, 1), "PROTOCOL"),
        (("infer", 0, b"x", None), "PROTOCOL"),
        (("infer", 0, b"x", -1), "PROTOCOL"),
        (("infer", 9, b"x", 1), "BUNDLE"),
        (("infer", -1, b"x", 1), "BUNDLE"),
        (("infer", 0, b"x", 1), "PAYLOAD"),
        (("infer_image", 0, b"x", 1), "IMAGE"),
        (("infer_image", 9, b"x", 1), "BUNDLE"),
    ],
)
def test_a_wrong_request_is_refused_with_its_code_and_the_connection_lives_on(strict, request_, code):
    types = load_rpc().types
    with raw_connection(strict[0]) as connection:
        connection.sendall(frame(*request_))
        with pytest.raises(types.Refused) as caught:
            reply(connection, request_[0])
        assert caught.value.code == getattr(types.Code, code)
        connection.sendall(frame("ping", None))
        assert reply(connection, "ping").connections >= 1


@pytest.mark.parametrize("request_", [("infer", 0, b"x", 1), ("infer_image", 0, b"x", 1), ("ping", b"")])
def test_nothing_is_answered_before_hello(strict, request_):
    types = load_rpc().types
    with raw_connection(strict[0], hello=False) as connection:
        connection.sendall(frame(*request_))
        with pytest.raises(types.Refused, match="say hello first") as caught:
            reply(connection, request_[0])
        assert caught.value.code == types.Code.PROTOCOL


@pytest.mark.parametrize("protocol", [0, 2, -1, None])
def test_a_hello_in_another_version_opens_nothing(strict, protocol):
    types = load_rpc().types
    with raw_connection(strict[0], hello=False) as connection:
        connection.sendall(frame("hello", protocol, "9.9\x1b[2J" + "9" * 100))
        with pytest.raises(types.Refused, match="install the same version") as caught:
            reply(connection, "hello")
        assert caught.value.code == types.Code.PROTOCOL
        assert caught.value.message.isprintable()
        connection.sendall(frame("ping", b""))
        with pytest.raises(types.Refused):
            reply(connection, "ping")


def test_an_unknown_method_is_answered_as_thrift_does(strict):
    from thrift.Thrift import TApplicationException

    with raw_connection(strict[0]) as connection:
        connection.sendall(frame("ping", b"").replace(b"ping", b"pong"))
        with pytest.raises(TApplicationException, match="pong"):
            reply(connection, "ping")
        connection.sendall(frame("ping", b""))
        reply(connection, "ping")


def test_requests_sent_all_at_once_are_answered_in_order(fleet, strict):
    features = np.random.RandomState(0).uniform(0, 1, (5, 2, 4, 4)).astype(np.float32)
    payloads = [fleet[0].codec.encode(feature) for feature in features]
    with raw_connection(strict[0]) as connection:
        connection.sendall(b"".join(frame("infer", 0, payload, 0) for payload in payloads))
        together = [reply(connection, "infer").logits for _ in payloads]
        alone = []
        for payload in payloads:
            connection.sendall(frame("infer", 0, payload, 0))
            alone.append(reply(connection, "infer").logits)
    assert together == alone
    assert len(set(alone)) == 5


def test_hellos_cannot_be_tried_for_long(strict):
    server, said = strict
    with raw_connection(server, hello=False) as connection:
        answered = 0
        with contextlib.suppress(AssertionError, ConnectionError):
            for _ in range(20):
                connection.sendall(frame("hello", 7, "0.1.0"))
                receive_frame(connection)
                answered += 1
        assert answered == 3
        assert "no valid hello among 3 messages" in words_about(connection, said)


# ---- time


@contextlib.contextmanager
def impatient(fleet, **limits):
    """(a server that is patient but for these limits, what it says)."""
    said = []
    with serving(fleet, limits=PATIENT._replace(**limits), say=said.append) as server:
        yield server, said


def test_a_client_that_never_says_hello_is_dropped(fleet):
    with impatient(fleet, hello_s=0.4) as (server, said):
        started = time.monotonic()
        with raw_connection(server, hello=False) as connection:
            wait_for_the_end(connection)
            assert time.monotonic() - started >= 0.4
            assert "no hello in time" in words_about(connection, said)


def test_small_pieces_of_a_hello_buy_no_time(fleet):
    """A slow loris: something arrives all the time, and never a whole hello."""
    with impatient(fleet, hello_s=0.4) as (server, said), raw_connection(server, hello=False) as connection:
        connection.sendall(b"\0\0\1\0")
        ended = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    connection.sendall(b"\x82")

        dripping = threading.Thread(target=drip)
        dripping.start()
        wait_for_the_end(connection)
        ended.set()
        join(dripping)
        assert "no hello in time" in words_about(connection, said)


def test_a_slow_loris_among_greeted_clients_is_dropped_and_delays_nobody(fleet):
    with impatient(fleet, frame_s=0.5) as (server, said), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(raw_connection(server)) for _ in range(10)]
        request, left = frame("ping", b"x" * 4000), dict.fromkeys(slow, 0)
        while left:
            for one in list(left):
                try:
                    one.sendall(request[left[one] : left[one] + 1])
                    left[one] += 1
                except OSError:
                    del left[one]
            check_that_it_works(server, fleet[0])
        for one in slow:
            assert "no complete request in time" in words_about(one, said)


def test_a_hello_in_another_version_buys_no_time(fleet):
    with impatient(fleet, hello_s=0.4) as (server, said), raw_connection(server, hello=False) as connection:
        with contextlib.suppress(OSError, AssertionError):
            connection.sendall(frame("hello", 7, "0.1.0"))
            receive_frame(connection)
        wait_for_the_end(connection)
        assert "no hello in time" in words_about(connection, said)


def test_half_a_request_is_dropped(fleet):
    with impatient(fleet, frame_s=0.4) as (server, said), raw_connection(server) as connection:
        started = time.monotonic()
        connection.sendall(frame("ping", b"x" * 50)[:20])
        wait_for_the_end(connection)
        assert time.monotonic() - started >= 0.4
        assert "no complete request in time" in words_about(connection, said)


def test_an_idle_connection_is_dropped_but_not_a_used_one(fleet):
    idle_s = 1.0
    with impatient(fleet, idle_s=idle_s) as (server, said):
        for _ in range(20):
            with raw_connection(server) as used, raw_connection(server) as idle:
                longest_gap_s, before = 0.0, time.monotonic()
                with contextlib.suppress(OSError, AssertionError):
                    while not select.select([idle], [], [], 0.05)[0]:
                        used.sendall(frame("ping", b""))
                        reply(used, "ping")
                        now = time.monotonic()
                        longest_gap_s, before = max(longest_gap_s, now - before), now
                    used.sendall(frame("ping", b""))
                    assert reply(used, "ping").connections >= 1
                    wait_for_the_end(idle)
                    assert "no request in time" in words_about(idle, said)
                    return
                # On a machine as busy as that, the used one may have been idle too.
                assert max(longest_gap_s, time.monotonic() - before) > idle_s / 2
        raise AssertionError("a used connection was dropped 20 times")


class WideTail(Runner):
    """Thirty thousand logits, which take a while to read."""

    def __init__(self, bundle, part):
        super().__init__("wide")

    def _activate(self):
        return [TensorInfo("feature", (None, None, None, None), np.dtype(np.float32))], []

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        return {"logits": np.zeros((1, 30000), np.float32)}


@pytest.mark.parametrize("how", ["never", "byte by byte"])
def test_a_client_that_does_not_read_in_time_is_dropped_and_delays_nobody(fake_bundle, how):
    bundle = Bundle.load(fake_bundle(classes=[str(i) for i in range(30000)]))
    said = []
    request = frame("infer", 0, bundle.codec.encode(np.ones((3, 4, 4), np.float32)), 0)
    limits = PATIENT._replace(frame_s=0.4)
    with serving([bundle], runner_for=WideTail, limits=limits, say=said.append) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(PATIENCE_S)
            connection.connect(server.address)
            connection.sendall(HELLO)
            receive_frame(connection)
            asking = threading.Thread(target=send, args=(connection, request * 100))
            asking.start()

            def dropped():
                with contextlib.suppress(OSError):
                    if how != "never":
                        connection.recv(1)
                bystander.ping()
                return said

            with SplitClient(bundle, *server.address, timeout_s=PATIENCE_S) as bystander:
                wait_until(dropped, "a word about it")
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            join(asking)
        assert "no taking of the answer in time" in said[0]


def send(connection, data):
    with contextlib.suppress(OSError):
        connection.sendall(data)


def test_a_long_computation_is_not_taken_for_a_slow_client(fleet):
    class Slow(WideTail):
        def _infer(self, feeds):
            if feeds["feature"].any():  # not when the server starts and tries it out
                time.sleep(1.0)
            return {"logits": np.arange(5, dtype=np.float32).reshape(1, 5)}

    limits = PATIENT._replace(frame_s=0.3, idle_s=0.3)
    with serving(fleet, runner_for=Slow, limits=limits) as server:
        with SplitClient(fleet[0], *server.address, timeout_s=PATIENCE_S) as client:
            answer = client.infer_input(IMAGE)
    assert answer.class_index == 4
    assert answer.times_ms["tail"] > 900


# ---- numbers


def test_more_clients_than_places_are_turned_away_and_a_free_place_is_given_again(fleet):
    with serving(fleet, limits=ServerLimits(connections=2)) as server:
        with SplitClient(fleet[0], *server.address) as first:
            with SplitClient(fleet[0], *server.address):
                with pytest.raises(errors.ServerBusyError, match="2 clients are connected, that is the limit"):
                    SplitClient(fleet[0], *server.address).__enter__()
            wait_until(lambda: first.ping()[1]["connections"] == 1, "a free place")
            with SplitClient(fleet[0], *server.address) as third:
                assert third.ping()[1]["connections"] == 2


def test_silent_clients_take_no_place_for_long(fleet):
    limits = PATIENT._replace(connections=5)
    with serving(fleet, limits=limits) as server, contextlib.ExitStack() as stack:
        for _ in range(limits.connections + 100):  # more than may stand at the door
            stack.enter_context(raw_connection(server, hello=False))
        check_that_it_works(server, fleet[0])


def test_a_busy_tail_does_not_stop_a_hello(fleet):
    release = threading.Event()

    class Stuck(WideTail):
        def _infer(self, feeds):
            if feeds["feature"].any():  # not when the server starts and tries it out
                release.wait(PATIENCE_S)
            return {"logits": np.zeros((1, 5), np.float32)}

    with serving(fleet, runner_for=Stuck) as server:
        asking = []
        try:
            for _ in range(6):
                client = SplitClient(fleet[0], *server.address, timeout_s=PATIENCE_S).__enter__()
                thread = threading.Thread(target=client.infer_input, args=(IMAGE,))
                thread.start()
                asking.append((client, thread))
            wait_until(lambda: server.statistics.in_flight == 6, "six requests at work")
            with SplitClient(fleet[1], *server.address) as other:
                assert other.ping()[1]["in_flight"] == 6
        finally:
            release.set()
            for client, thread in asking:
                join(thread)
                client.__exit__()


def test_stopping_does_not_wait_for_those_that_only_sit_there(fleet):
    limits = PATIENT._replace(drain_s=3600.0)
    with server_from_fleet(fleet, port=0, limits=limits) as server, contextlib.ExitStack() as stack:
        with in_a_thread(server):
            greeted = stack.enter_context(raw_connection(server))
            silent = stack.enter_context(raw_connection(server, hello=False))
            greeted.sendall(b"\0")
        wait_for_the_end(greeted)
        wait_for_the_end(silent)


def test_no_client_is_forgotten_that_connects_while_the_server_stops(fleet):
    for attempt in range(20):
        with serving(fleet, limits=PATIENT) as server:
            clients = [socket.create_connection(server.address, timeout=PATIENCE_S) for _ in range(3)]
            time.sleep(0.0005 * (attempt % 5))
        for client in clients:
            wait_for_the_end(client)
            client.close()
