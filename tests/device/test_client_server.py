"""Client and server over a real socket in one process: remote equals local, bytes are counted, errors arrive."""

import contextlib
import io
import os
import shutil
import socket
import sys
import threading
import time

import numpy as np
import pytest

from bottlekit.device import errors
from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.files import sha256_of_file, write_json
from bottlekit.device.images import image_from_bytes, input_from_image, jpeg_from_image
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.pipeline import LocalSplit, local_split_from_bundle, local_whole_from_bundle
from bottlekit.device.runners import Runner, TensorInfo
from bottlekit.device.server import ServerLimits, server_from_fleet
from bottlekit.device.service import runner_from_engines

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from servers import PATIENCE_S, join, serving

CODECS = [
    {"name": "jpeg", "bits": 8, "quality": 20},
    {"name": "jpeg", "bits": 4, "quality": 90},
    {"name": "png", "bits": 8, "quality": 20},
    {"name": "png", "bits": 3, "quality": 20},
    {"name": "raw", "bits": 8, "quality": 20},
    {"name": "raw", "bits": 1, "quality": 20},
]


class Fake(Runner):
    """A graph of one numpy function."""

    def __init__(self, source, target, function):
        super().__init__("fake " + target)
        self._source = source
        self._target = target
        self._function = function

    def _activate(self):
        free = (None, None, None, None)
        return [TensorInfo(self._source, free, np.dtype(np.float32))], []

    def _deactivate(self):
        pass

    def _infer(self, feeds):
        return {self._target: self._function(feeds[self._source])}


def fake_head(bundle):
    """A linear map of the pixels to the feature's shape."""
    c, h, w = bundle.feature_shape
    weight = np.random.RandomState(1).normal(size=(3 * bundle.input_shape[2] ** 2, c * h * w)).astype(np.float32)
    return Fake("image", "feature", lambda image: (image.reshape(1, -1) @ weight).reshape(1, c, h, w))


def fake_runner_for(bundle, part):
    """Linear maps to logits; another one for every part."""
    count = len(bundle.classes)
    source = "feature" if part == "tail" else "image"

    def function(array):
        random = np.random.RandomState(len(part))
        return array.reshape(1, -1) @ random.normal(size=(array.size, count)).astype(np.float32)

    return Fake(source, "logits", function)


@pytest.fixture(scope="module")
def tiny(fleet):
    """A server of the tiny fleet with ONNX Runtime."""
    with serving(fleet) as server:
        yield server


def images(count, side, seed=0):
    return np.random.RandomState(seed).normal(size=(count, 1, 3, side, side)).astype(np.float32)


# ---- remote equals local


@pytest.mark.parametrize("number", [0, 1])
def test_remote_equals_local_bit_for_bit_with_onnx_runtime(fleet, tiny, number):
    bundle = fleet[number]
    inputs = images(20, 8)
    with local_split_from_bundle(bundle) as local, SplitClient(bundle, *tiny.address) as client:
        for image in inputs:
            expected = local.infer(image)
            answer = client.infer_input(image)
            assert answer.logits.dtype == expected.logits.dtype == np.float32
            assert answer.logits.tobytes() == expected.logits.tobytes()
            assert answer.payload_bytes == expected.payload_bytes
            assert answer.class_index == int(np.argmax(expected.logits))
            assert answer.class_name == bundle.classes[answer.class_index]
            assert answer.class_indices.tolist() == list(range(len(bundle.classes)))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: "{name}-{bits}".format(**codec))
def test_remote_equals_local_bit_for_bit_with_every_codec(fake_bundle, codec):
    bundle = Bundle.load(fake_bundle(codec=codec, classes=["a", "b", "c"], feature=(3, 4, 5)))
    inputs = images(8, 8)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving([bundle], runner_for=fake_runner_for))
        head = stack.enter_context(fake_head(bundle))
        tail = stack.enter_context(fake_runner_for(bundle, "tail"))
        client = stack.enter_context(SplitClient(bundle, *server.address, head_runner=head))
        local = LocalSplit(head, bundle.codec, tail)
        for image in inputs:
            assert client.infer_input(image).logits.tobytes() == local.infer(image).logits.tobytes()


def test_remote_equals_local_for_many_clients_at_once(fleet, tiny):
    failures = []

    def work(seed):
        try:
            bundle = fleet[seed % 2]
            with SplitClient(bundle, *tiny.address) as client:
                for image, expected in zip(inputs[seed], wanted[seed]):
                    if client.infer_input(image).logits.tobytes() != expected:
                        failures.append(seed)
        except Exception as error:
            failures.append(error)

    inputs = [images(15, 8, seed) for seed in range(8)]
    wanted = []
    for seed in range(8):
        with local_split_from_bundle(fleet[seed % 2]) as local:
            wanted.append([local.infer(image).logits.tobytes() for image in inputs[seed]])
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert failures == []


def test_an_image_of_any_size_is_preprocessed_as_the_bundle_says(fleet, tiny):
    bundle = fleet[0]
    pixels = np.random.RandomState(0).randint(0, 256, (20, 31, 3)).astype(np.uint8)
    with local_split_from_bundle(bundle) as local, SplitClient(bundle, *tiny.address) as client:
        expected = local.infer(input_from_image(pixels, bundle.preprocessing)[np.newaxis])
        assert client.infer_image(pixels).logits.tobytes() == expected.logits.tobytes()


def test_the_best_few_are_those_of_all_logits(fleet, tiny):
    bundle = fleet[0]
    with SplitClient(bundle, *tiny.address) as client:
        for image in images(5, 8):
            everything = client.infer_input(image)
            best = client.infer_input(image, top_k=2)
            order = np.argsort(-everything.logits, kind="stable")[:2]
            assert best.class_indices.tolist() == order.tolist()
            assert best.logits.tobytes() == everything.logits[order].tobytes()
            assert best.class_index == everything.class_index
            assert best.top(2) == everything.top(2)
            assert client.infer_input(image, top_k=500).top(9) == everything.top(9)


@pytest.mark.parametrize(("number", "part"), [(0, "baseline"), (1, "full")])
def test_cloud_only_runs_the_whole_network_and_says_which(fleet, tiny, number, part):
    bundle = fleet[number]
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
    data = jpeg_from_image(pixels, 90)
    with local_whole_from_bundle(bundle) as local, SplitClient(bundle, *tiny.address) as client:
        expected = local.infer(input_from_image(image_from_bytes(data), bundle.preprocessing)[np.newaxis])
        answer = client.infer_cloud_only(data)
        assert local.part == part
        assert answer.logits.tobytes() == expected.logits.tobytes()
        assert answer.payload_bytes == len(data)
        assert set(answer.times_ms) == {"round_trip", "queue", "decode", part}


# ---- what it costs


def test_times_are_named_and_fit_into_each_other(fleet, tiny):
    with SplitClient(fleet[0], *tiny.address) as client:
        started = time.perf_counter()
        client.load_head()
        times = client.infer_input(images(1, 8)[0]).times_ms
        elapsed_ms = (time.perf_counter() - started) * 1e3
    assert set(times) == {"head", "encode", "round_trip", "queue", "decode", "tail"}
    assert all(value >= 0 for value in times.values())
    assert times["queue"] + times["decode"] + times["tail"] < times["round_trip"]
    assert times["head"] + times["encode"] + times["round_trip"] < elapsed_ms


def test_bytes_are_those_that_a_bystander_counts(fleet, tiny):
    with counting_proxy(tiny.address) as (address, counted), SplitClient(fleet[1], *address) as client:
        hello = counted()
        answer = client.infer_input(images(1, 8)[0])
        sent, received = (after - before for after, before in zip(counted(), hello))
    assert (answer.framed_bytes, answer.response_bytes) == (sent, received)
    assert answer.framed_bytes == answer.payload_bytes + 20
    assert answer.response_bytes >= 4 + 5 * 4


def test_a_ping_grows_with_its_padding_and_tells_the_load(fleet, tiny):
    with SplitClient(fleet[0], *tiny.address) as client:
        before = client.ping()[1]
        client.infer_input(images(1, 8)[0])
        elapsed_ms, load = client.ping(10000)
        assert client._connected().sent_bytes > 10000
    assert elapsed_ms > 0
    assert load["answered"] == before["answered"] + 2
    assert load["in_flight"] == 0
    assert load["connections"] >= 1


@contextlib.contextmanager
def counting_proxy(address):
    """(an address that leads to `address`, a function giving the bytes (up, down) so far)."""
    counts = [0, 0]
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)

    def pump(source, target, index):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(65536), b""):
                counts[index] += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def proxy():
        near, _ = listening.accept()
        with near, socket.create_connection(address) as far:
            down = threading.Thread(target=pump, args=(far, near, 1))
            down.start()
            pump(near, far, 0)
            down.join()

    thread = threading.Thread(target=proxy)
    thread.start()
    yield listening.getsockname(), lambda: tuple(counts)
    join(thread)
    listening.close()


# ---- bundles that do not match


def changed_copy(bundle, folder, **changes):
    shutil.copytree(bundle.path, str(folder))
    write_json(os.path.join(str(folder), "bundle.json"), dict(bundle.manifest, **changes))
    return Bundle.load(str(folder))


def test_another_export_of_the_same_bundle_is_refused_with_both_hashes(fleet, tiny, tmp_path):
    other = changed_copy(fleet[0], tmp_path / "copy", command="exported again")
    with pytest.raises(errors.BundleError) as caught:
        SplitClient(other, *tiny.address).__enter__()
    assert other.sha256[:8] in str(caught.value)
    assert fleet[0].sha256[:8] in str(caught.value)


def test_a_bundle_that_the_server_has_not_is_refused_with_a_list_of_those_it_has(fleet, tiny, tmp_path):
    other = changed_copy(fleet[0], tmp_path / "copy", name="resnet18-rb7")
    with pytest.raises(errors.BundleError, match=r"does not serve resnet18-rb7 .* tiny-rb1 .* tiny-rb2"):
        SplitClient(other, *tiny.address).__enter__()


def test_a_payload_of_another_bundle_is_refused_and_the_connection_lives_on(fleet, tiny):
    with SplitClient(fleet[0], *tiny.address) as client:
        for payload in (fleet[1].codec.encode(np.ones((5, 2, 2), np.float32)), b"", b"\0" * 8, b"\0" * 1000):
            with pytest.raises(errors.PayloadError, match="refused"):
                client._infer("infer", "tail", payload, 0, {})
        client._number = 1
        with pytest.raises(errors.PayloadError):
            client._infer("infer", "tail", fleet[0].codec.encode(np.ones((2, 4, 4), np.float32)), 0, {})
        client._number = 0
        assert client.infer_input(images(1, 8)[0]).logits.size == 5


@pytest.mark.parametrize("number", [-1, 2, 32767])
def test_a_bundle_number_that_does_not_exist_is_refused(fleet, tiny, number):
    with SplitClient(fleet[0], *tiny.address) as client:
        client._number = number
        with pytest.raises(errors.BundleError, match=r"there are 0 \(tiny-rb1\), 1 \(tiny-rb2\)"):
            client.infer_input(images(1, 8)[0])


# ---- bad requests


def test_an_image_that_is_none_is_a_data_error(fleet, tiny):
    with SplitClient(fleet[0], *tiny.address) as client:
        for data in (b"", b"no image", jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90)[:100]):
            with pytest.raises(errors.DataError):
                client.infer_cloud_only(data)
        assert client.infer_cloud_only(jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90)).logits.size == 5


def test_a_small_file_of_a_huge_image_is_refused(fleet, tiny):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (4100, 4100)).save(buffer, "PNG")
    with SplitClient(fleet[0], *tiny.address) as client, pytest.raises(errors.DataError, match="pixels"):
        client.infer_cloud_only(buffer.getvalue())


def test_what_is_larger_than_the_server_takes_is_not_even_sent(fleet):
    with serving(fleet, limits=ServerLimits(image_bytes=5000)) as server:
        with SplitClient(fleet[0], *server.address) as client:
            limit = client._frame_bytes - 64
            with pytest.raises(errors.UsageError, match="takes at most {}".format(limit)):
                client.infer_cloud_only(bytes(limit + 1))
            with pytest.raises(errors.DataError):
                client.infer_cloud_only(bytes(limit))
            client.ping(limit)
            with pytest.raises(errors.UsageError):
                client.ping(limit + 1)


@pytest.mark.parametrize("top_k", [-1, 32768])
def test_a_top_k_that_cannot_be_sent_is_a_usage_error(fleet, tiny, top_k):
    with SplitClient(fleet[0], *tiny.address) as client:
        with pytest.raises(errors.UsageError, match="top_k"):
            client.infer_input(images(1, 8)[0], top_k)


def test_an_input_of_another_shape_never_leaves_the_client(fleet, tiny):
    with SplitClient(fleet[0], *tiny.address) as client:
        with pytest.raises(errors.EngineError, match="shape"):
            client.infer_input(images(1, 9)[0])
        with pytest.raises(errors.EngineError, match="float32"):
            client.infer_input(images(1, 8)[0].astype(np.float64))


def test_a_tail_that_fails_is_told_without_details_and_written_to_the_log(fleet):
    calls = []

    def breaking(bundle, part):
        def function(feature):
            if feature.any():  # not when the server starts and tries it out
                calls.append(1)
            if len(calls) == 1:
                raise errors.EngineError("/secret/engine is broken")
            return np.zeros((1, 5), np.float32)

        return Fake("feature", "logits", function)

    said = []
    with serving(fleet, runner_for=breaking, say=said.append) as server:
        with SplitClient(fleet[0], *server.address) as client:
            with pytest.raises(errors.RemoteError) as caught:
                client.infer_input(images(1, 8)[0])
            assert "secret" not in str(caught.value)
            assert client.infer_input(images(1, 8)[0]).logits.tolist() == [0] * 5
    assert any("/secret/engine is broken" in line for line in said)


# ---- no server, or no bottlekit server


def free_port():
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_there_names_the_address_and_the_command(fleet):
    port = free_port()
    with pytest.raises(errors.ServerUnreachableError) as caught:
        SplitClient(fleet[0], "127.0.0.1", port).__enter__()
    assert "127.0.0.1:{}".format(port) in str(caught.value)
    assert "bottlekit serve" in str(caught.value)


@pytest.mark.parametrize("host", ["host.invalid", "a" * 300, "\udcff"])
def test_a_name_that_is_no_host_is_unreachable(fleet, host):
    with pytest.raises(errors.ServerUnreachableError):
        SplitClient(fleet[0], host, 1, timeout_s=2).__enter__()


@contextlib.contextmanager
def answering(reply):
    """An address where `reply(connection)` is called for one client."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1)

    def accept():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            reply(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listening.getsockname()
        join(thread)
    finally:
        listening.close()


def silence(connection):
    while connection.recv(65536):
        pass


def drip(connection):
    connection.recv(65536)
    connection.sendall(b"\0\0\4\0")
    for _ in range(200):
        time.sleep(0.02)
        connection.sendall(b"\x82")


WRONG_SERVERS = {
    "http": lambda connection: (connection.recv(65536), connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    "garbage": lambda connection: (connection.recv(65536), connection.sendall(b"\0\0\0\4\1\2\3\4")),
    "empty frame": lambda connection: (connection.recv(65536), connection.sendall(b"\0\0\0\0")),
    "huge frame": lambda connection: (connection.recv(65536), connection.sendall(b"\x7f\xff\xff\xff")),
    "negative frame": lambda connection: (connection.recv(65536), connection.sendall(b"\xff\xff\xff\xff")),
    "half a frame": lambda connection: (connection.recv(65536), connection.sendall(b"\0\0\0\x20\x82")),
    "an empty welcome": lambda connection: (
        connection.recv(65536),
        connection.sendall(b"\0\0\0\x0d\x82\x41\x00\x05hello\x0c\x00\x00\x00"),
    ),
    "hangs up": lambda connection: None,
    "silent": silence,
    "drips": drip,
}


@pytest.mark.parametrize("kind", sorted(WRONG_SERVERS))
def test_a_server_that_speaks_otherwise_is_a_wire_error_in_bounded_time(fleet, kind):
    with answering(WRONG_SERVERS[kind]) as address:
        started = time.monotonic()
        with pytest.raises(errors.WireError, match=r"127\.0\.0\.1"):
            SplitClient(fleet[0], *address, timeout_s=0.5).__enter__()
        assert time.monotonic() - started < 30


def test_a_server_that_dies_during_a_request_is_a_wire_error_for_who_does_not_want_to_wait(fleet, tiny):
    with dying_proxy(tiny.address) as (address, die):
        with SplitClient(fleet[0], *address, timeout_s=PATIENCE_S, reconnect=False) as client:
            client.infer_input(images(1, 8)[0])
            die()
            with pytest.raises(errors.WireError, match="closed the connection"):
                client.infer_input(images(1, 8)[0])


def test_a_server_that_dies_and_does_not_come_back_is_a_wire_error_when_the_time_is_over(fleet, tiny):
    with dying_proxy(tiny.address) as (address, die), SplitClient(fleet[0], *address) as client:
        client.infer_input(images(1, 8)[0])
        die()
        client._timeout_s = 1.0
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(errors.WireError):
                client.infer_input(images(1, 8)[0])
            assert time.monotonic() - started < 30


@contextlib.contextmanager
def dying_proxy(address):
    """(an address that leads to `address`, a function after which the next request breaks the connection)."""
    dead = threading.Event()

    def proxy(near):
        with socket.create_connection(address) as far:
            for data in iter(lambda: near.recv(65536), b""):
                if dead.is_set():
                    return
                far.sendall(data)
                near.sendall(far.recv(65536))

    with answering(proxy) as proxied:
        yield proxied, dead.set


def test_a_server_that_does_not_answer_in_time_is_a_wire_error(fleet):
    release = threading.Event()

    def stuck(bundle, part):
        def function(feature):
            if feature.any():  # not when the server starts and tries it out
                release.wait(PATIENCE_S)
            return np.zeros((1, 5), np.float32)

        return Fake("feature", "logits", function)

    with serving(fleet, runner_for=stuck) as server:
        try:
            with SplitClient(fleet[0], *server.address) as client:
                client._timeout_s = 0.4
                with pytest.raises(errors.WireError, match=r"did not answer infer within 0.4 s"):
                    client.infer_input(images(1, 8)[0])
        finally:
            release.set()


def test_a_client_that_speaks_another_version_is_told_both(fleet, tiny, monkeypatch):
    from bottlekit.device.wire import load_rpc

    client = SplitClient(fleet[0], *tiny.address)
    client._rpc = load_rpc()._replace(constants=type("Constants", (), {"PROTOCOL": 7}))
    with pytest.raises(errors.RemoteError, match=r"speaks protocol 1, the client .* 7; install the same version"):
        client.__enter__()


def test_a_client_outside_its_with_block_says_so(fleet, tiny):
    client = SplitClient(fleet[0], *tiny.address)
    with pytest.raises(errors.WireError, match="not connected"):
        client.ping()
    with client:
        client.ping()
    with pytest.raises(errors.WireError, match="not connected"):
        client.ping()


# ---- listening and stopping


def test_a_port_in_use_is_named(fleet):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(errors.AddressInUseError, match="127.0.0.1:{} is in use.*--port".format(port)):
            server_from_fleet(fleet, port=port).__enter__()


def test_two_servers_cannot_share_a_port(fleet):
    with server_from_fleet(fleet, port=0) as first:
        with pytest.raises(errors.AddressInUseError):
            server_from_fleet(fleet, port=first.address[1]).__enter__()


@pytest.mark.parametrize(("host", "port"), [("host.invalid", 0), ("203.0.113.9", 0), ("127.0.0.1", 99999)])
def test_an_address_that_this_machine_has_not_is_a_usage_error(fleet, host, port):
    with pytest.raises(errors.UsageError, match=host):
        server_from_fleet(fleet, host=host, port=port).__enter__()


def test_a_fleet_that_cannot_run_fails_before_anybody_connects(fleet):
    closed = []

    class Closing(Fake):
        def _deactivate(self):
            closed.append(self.name)

    def second_fails(bundle, part):
        if bundle is fleet[1]:
            raise errors.EngineError("no such engine")
        return Closing("feature", "logits", lambda feature: np.zeros((1, 5), np.float32))

    server = server_from_fleet(fleet, port=0, runner_for=second_fails)
    with pytest.raises(errors.EngineError, match="no such engine"):
        server.__enter__()
    assert closed == ["fake logits"]
    with pytest.raises(errors.WireError, match="not open"):
        server.run()


def test_a_tail_of_other_classes_fails_before_anybody_connects(fleet):
    def too_many(bundle, part):
        return Fake("feature", "logits", lambda feature: np.zeros((1, 6), np.float32))

    with pytest.raises(errors.EngineError, match="the tail of tiny-rb1 gives 6 logits, and the bundle has 5"):
        server_from_fleet(fleet, port=0, runner_for=too_many).__enter__()


def test_a_graph_that_bundles_have_in_common_is_loaded_once(fleet, tmp_path):
    twins = [fleet[0], changed_copy(fleet[0], tmp_path / "copy", name="twin")]
    asked = []

    def noting(bundle, part):
        asked.append(part)
        return OnnxRuntimeRunner(bundle.onnx_path(part), spin=False)

    data = jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90)
    with serving(twins, runner_for=noting) as server:
        answers = []
        for bundle in twins:
            with SplitClient(bundle, *server.address) as client:
                answers.append((client.infer_cloud_only(data).class_index, client.infer_input(images(1, 8)[0])[0]))
    assert answers[0] == answers[1]
    assert asked == ["tail", "baseline"]


def test_no_bundle_is_nothing_to_serve():
    with pytest.raises(errors.UsageError, match="no bundle"):
        server_from_fleet([])


def test_the_whole_network_is_loaded_only_when_somebody_asks_for_it(fleet):
    asked = []

    def noting(bundle, part):
        asked.append((bundle.split["name"], part))
        return OnnxRuntimeRunner(bundle.onnx_path(part), spin=False)

    data = jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90)
    with serving(fleet, runner_for=noting) as server, SplitClient(fleet[1], *server.address) as client:
        client.infer_input(images(1, 8)[0])
        assert asked == [("rb1", "tail"), ("rb2", "tail")]
        client.infer_cloud_only(data)
        client.infer_cloud_only(data)
        assert asked == [("rb1", "tail"), ("rb2", "tail"), ("rb2", "full")]


def test_a_stopping_server_still_answers_what_it_is_at_work_on(fleet):
    at_work, release = threading.Event(), threading.Event()

    def slow(bundle, part):
        def function(feature):
            if feature.any():  # not when the server starts and tries it out
                at_work.set()
                release.wait(PATIENCE_S)
            return np.arange(5, dtype=np.float32).reshape(1, 5)

        return Fake("feature", "logits", function)

    with serving(fleet, runner_for=slow, limits=ServerLimits(drain_s=PATIENCE_S)) as server:
        idle = SplitClient(fleet[0], *server.address, reconnect=False)
        with SplitClient(fleet[0], *server.address, timeout_s=PATIENCE_S) as client, idle:
            answers = []
            asking = threading.Thread(target=lambda: answers.append(client.infer_input(images(1, 8)[0])))
            asking.start()
            assert at_work.wait(PATIENCE_S)
            server.stop()
            with pytest.raises(errors.WireError):
                ping_for_ever(idle)
            with pytest.raises(errors.WireError):
                SplitClient(fleet[0], *server.address).__enter__()
            release.set()
            join(asking)
            assert answers[0].logits.tolist() == [0, 1, 2, 3, 4]


def ping_for_ever(client):
    while True:
        client.ping()


def test_a_server_told_to_stop_before_it_ran_stops_at_once(fleet):
    with server_from_fleet(fleet, port=0) as server:
        server.stop()
        server.run()
    server.stop()


# ---- engines


def engine_folder(bundle, folder, parts):
    """Engines for the CPU as `bottlekit build` leaves them: the graphs, and sidecars."""
    for part in parts:
        path = str(folder / "{}-{}-cpu.onnx".format(bundle.name, part))
        shutil.copy(bundle.onnx_path(part), path)
        sidecar = {
            "format": "bottlekit-engine",
            "version": 1,
            "bundle": {"name": bundle.name, "sha256": bundle.sha256},
            "part": part,
            "target": "cpu",
            "kind": "onnxruntime",
            "precision": "fp32",
            "key": {},
            "engine_sha256": sha256_of_file(path),
            "engine_bytes": os.path.getsize(path),
            "golden": {"compared": True, "max_abs": 0.0},
        }
        write_json(path + ".json", sidecar)
    return str(folder)


def test_tails_run_from_engines(fleet, tmp_path):
    bundle = fleet[1]
    engines = engine_folder(bundle, tmp_path, ["tail"])
    image = images(1, 8)[0]
    with serving([bundle], runner_for=runner_from_engines(engines, "cpu", threads=1)) as server:
        with SplitClient(bundle, *server.address) as client, local_split_from_bundle(bundle, threads=1) as local:
            assert client.infer_input(image).logits.tobytes() == local.infer(image).logits.tobytes()
            with pytest.raises(errors.RemoteError, match="EngineError"):
                client.infer_cloud_only(jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90))


def test_a_missing_engine_fails_before_anybody_connects(fleet, tmp_path):
    engines = engine_folder(fleet[0], tmp_path, ["head"])
    with pytest.raises(errors.EngineError, match="no engine of tiny-rb1's tail for cpu"):
        server_from_fleet(fleet, port=0, runner_for=runner_from_engines(engines, "cpu")).__enter__()
