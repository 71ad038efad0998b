"""Clients that are slow, silent, deaf, cut off or malicious: none of them harms another, and none stays."""

import contextlib
import os
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.device.runners import Runner, TensorInfo
from bottlekit.device.server import ServerLimits, server_from_fleet
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.framing import compact_protocol, frame_from_message

TINY_FLEET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "tiny_fleet")
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)
IMPATIENT = ServerLimits(image_bytes=4096, hello_s=0.4, idle_s=0.8, frame_s=0.4, drain_s=2.0)


@contextlib.contextmanager
def serving(bundles, **options):
    """A server for the bundles on a free port, in a thread."""
    with server_from_fleet(bundles, port=0, **options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def fleet():
    return fleet_from_path(TINY_FLEET)


@pytest.fixture(scope="module")
def strict_server(fleet):
    said = []
    with serving(fleet, limits=IMPATIENT, say=said.append) as server:
        yield server, said


@pytest.fixture
def strict(strict_server):
    """(a server with little patience, what it said during this test)."""
    server, said = strict_server
    said.clear()
    return server, said


def message(method, *arguments):
    """The Thrift message of a call."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
    lacking = {"hello": 4, "infer": 4, "infer_image": 4, "ping": 1}[method] - len(arguments)
    getattr(client, "send_" + method)(*(arguments + (None,) * lacking))
    return buffer.getvalue()


def frame(method, *arguments):
    return frame_from_message(message(method, *arguments))


HELLO = frame("hello", 1, "0.1.0")


def receive_frame(connection):
    header = receive(connection, 4)
    return receive(connection, struct.unpack("!i", header)[0])


def receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the server hung up after {} of {} bytes".format(len(data), size)
        data += more
    return data


def reply(connection, method):
    """The result of the next answer; raises what Thrift makes of it."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer(receive_frame(connection))
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 4096))
    return getattr(client, "recv_" + method)()


@contextlib.contextmanager
def raw_connection(server, hello=True):
    """A plain socket to the server, which has said hello unless told not to."""
    with socket.create_connection(server.address, timeout=10) as connection:
        if hello:
            connection.sendall(HELLO)
            receive_frame(connection)
        yield connection


def seconds_until_hung_up(connection):
    """How long the server keeps the connection, at most 10 s."""
    started = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - started


def words_about(connection, said):
    """What the server said about this connection; it says so just after it hung up."""
    name = "127.0.0.1:{}:".format(connection.getsockname()[1])
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        lines = [line for line in said if name in line]
        if lines:
            assert len(lines) == 1
            return lines[0]
        time.sleep(0.01)
    raise AssertionError("not a word about {} in {}".format(name, said))


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
        assert seconds_until_hung_up(connection) < 5
        bystander.ping()
        assert words_about(connection, said).isprintable()
    check_that_it_works(server, fleet[0])


def test_nobody_may_send_much_before_hello(fleet, strict):
    server, said = strict
    with raw_connection(server, hello=False) as connection:
        connection.sendall(struct.pack("!i", 300))
        assert seconds_until_hung_up(connection) < 5
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
        deadline = time.monotonic() + 5
        while server._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server._connections
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


def test_a_client_that_never_says_hello_is_dropped(strict):
    server, said = strict
    with raw_connection(server, hello=False) as connection:
        assert 0.2 < seconds_until_hung_up(connection) < 3
        assert "no hello in time" in words_about(connection, said)


@pytest.mark.parametrize("kind", ["small pieces", "another version"])
def test_no_way_of_saying_hello_buys_time(strict, kind):
    with raw_connection(strict[0], hello=False) as connection:
        started = time.monotonic()
        with contextlib.suppress(OSError, AssertionError):
            while time.monotonic() - started < 5:
                if kind == "small pieces":
                    connection.sendall(HELLO[:1])
                else:
                    connection.sendall(frame("hello", 7, "0.1.0"))
                    receive_frame(connection)
                time.sleep(0.1)
        assert time.monotonic() - started < 3


def test_half_a_request_is_dropped(strict):
    server, said = strict
    with raw_connection(server) as connection:
        connection.sendall(frame("ping", b"x" * 50)[:20])
        assert 0.2 < seconds_until_hung_up(connection) < 3
        assert "no complete request in time" in words_about(connection, said)


def test_an_idle_connection_is_dropped_but_not_a_used_one(strict):
    server, said = strict
    with raw_connection(server) as idle, raw_connection(server) as used:
        started = time.monotonic()
        while time.monotonic() - started < 1.6:
            used.sendall(frame("ping", b""))
            reply(used, "ping")
            time.sleep(0.1)
        assert seconds_until_hung_up(idle) < 0.5
        used.sendall(frame("ping", b""))
        reply(used, "ping")
        assert "no request in time" in words_about(idle, said)


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


def test_a_client_that_never_reads_is_dropped(fake_bundle):
    bundle = Bundle.load(fake_bundle(classes=[str(i) for i in range(30000)]))
    said = []
    request = frame("infer", 0, bundle.codec.encode(np.ones((3, 4, 4), np.float32)), 0)
    with serving([bundle], runner_for=WideTail, limits=IMPATIENT, say=said.append) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect(server.address)
            connection.sendall(HELLO)
            receive_frame(connection)
            started = time.monotonic()
            with contextlib.suppress(OSError):
                connection.sendall(request * 100)
            while not said and time.monotonic() - started < 10:
                time.sleep(0.05)
        assert "no taking of the answer in time" in said[0]


def test_a_long_computation_is_not_taken_for_a_slow_client(fleet):
    class Slow(WideTail):
        def _infer(self, feeds):
            if feeds["feature"].any():  # not when the server starts and tries it out
                time.sleep(1.5)
            return {"logits": np.arange(5, dtype=np.float32).reshape(1, 5)}

    with serving(fleet, runner_for=Slow, limits=IMPATIENT) as server:
        with SplitClient(fleet[0], *server.address) as client:
            answer = client.infer_input(IMAGE)
    assert answer.class_index == 4
    assert answer.times_ms["tail"] > 1400


# ---- numbers


def test_more_clients_than_places_are_turned_away_and_a_free_place_is_given_again(fleet):
    with serving(fleet, limits=ServerLimits(connections=2)) as server:
        with SplitClient(fleet[0], *server.address) as first:
            with SplitClient(fleet[0], *server.address):
                with pytest.raises(errors.ServerBusyError, match="2 clients are connected, that is the limit"):
                    SplitClient(fleet[0], *server.address).__enter__()
            deadline = time.monotonic() + 5
            while first.ping()[1]["connections"] > 1 and time.monotonic() < deadline:
                time.sleep(0.02)
            with SplitClient(fleet[0], *server.address) as third:
                assert third.ping()[1]["connections"] == 2


def test_silent_clients_take_no_place_for_long(fleet):
    limits = IMPATIENT._replace(connections=5)
    with serving(fleet, limits=limits) as server, contextlib.ExitStack() as stack:
        for _ in range(limits.connections):
            stack.enter_context(raw_connection(server, hello=False))
        deadline = time.monotonic() + 5
        while True:
            try:
                check_that_it_works(server, fleet[0])
                break
            except errors.WireError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_a_busy_tail_does_not_stop_a_hello(fleet):
    release = threading.Event()

    class Stuck(WideTail):
        def _infer(self, feeds):
            if feeds["feature"].any():  # not when the server starts and tries it out
                release.wait(20)
            return {"logits": np.zeros((1, 5), np.float32)}

    with serving(fleet, runner_for=Stuck) as server:
        asking = []
        try:
            for _ in range(6):
                client = SplitClient(fleet[0], *server.address).__enter__()
                thread = threading.Thread(target=client.infer_input, args=(IMAGE,))
                thread.start()
                asking.append((client, thread))
            deadline = time.monotonic() + 10
            while server.statistics.in_flight < 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            with SplitClient(fleet[1], *server.address, timeout_s=5) as other:
                assert other.ping()[1]["in_flight"] == 6
        finally:
            release.set()
            for client, thread in asking:
                thread.join(20)
                client.__exit__()


def test_stopping_does_not_wait_for_those_that_only_sit_there(fleet):
    with server_from_fleet(fleet, port=0) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        with raw_connection(server) as greeted, raw_connection(server, hello=False) as silent:
            greeted.sendall(b"\0")
            started = time.monotonic()
            server.stop()
            thread.join(20)
            assert time.monotonic() - started < 2
            assert seconds_until_hung_up(greeted) < 1
            assert seconds_until_hung_up(silent) < 1


def test_no_client_is_forgotten_that_connects_while_the_server_stops(fleet):
    for attempt in range(20):
        with server_from_fleet(fleet, port=0) as server:
            thread = threading.Thread(target=server.run)
            thread.start()
            clients = [socket.create_connection(server.address, timeout=10) for _ in range(3)]
            time.sleep(0.0005 * (attempt % 5))
            server.stop()
            thread.join(20)
            for client in clients:
                assert seconds_until_hung_up(client) < 2
                client.close()
