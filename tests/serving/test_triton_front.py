"""The front end that forwards to Triton, against doubles that fail as they are told."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from bottlekit.device.adaptive.client import AdaptiveClient
from bottlekit.device.adaptive.options import MOBILE_ONLY, options_from_profile
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.journal import Journal
from bottlekit.device.limits import ServerLimits
from bottlekit.device.pipeline import local_split_from_bundle
from bottlekit.errors import (
    DataError,
    DeadlineError,
    PayloadError,
    RemoteError,
    ServerBusyError,
    UsageError,
    WireError,
)
from bottlekit.serving.triton_front import ForwardingServer, ready_page
from bottlekit.serving.triton_pool import addresses_from_text
from bottlekit.serving.triton_repository import ensemble_name

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from servers import in_a_thread, serving, wait_until
from test_adaptive_client import NEVER_MS, QUICK, profile_of
from triton_double import TritonDouble, triton_double

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
BUNDLES = fleet_from_path(str(FLEET))
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)


@contextlib.contextmanager
def front(*addresses: str, fleet: Path = FLEET, **options: Any) -> Iterator[tuple[ForwardingServer, list[str]]]:
    """(a running front end, the lines of its log)."""
    lines: list[str] = []
    server = ForwardingServer(
        fleet_from_path(str(fleet)),
        list(addresses),
        Journal(lines.append, lambda fields: None),
        port=0,
        fleet=lambda: fleet_from_path(str(fleet)),
        **options,
    )
    with server, in_a_thread(server):
        yield server, lines


class Two(NamedTuple):
    """Two doubles and the front end before them."""

    one: TritonDouble
    two: TritonDouble
    server: ForwardingServer
    lines: list[str]
    first: str
    first_server: grpc.Server


@contextlib.contextmanager
def two_tritons() -> Iterator[Two]:
    with (
        triton_double(BUNDLES) as (one, first, first_server),
        triton_double(BUNDLES) as (two, second, _),
        front(first, second) as (server, lines),
    ):
        yield Two(one, two, server, lines, first, first_server)


def client(server: ForwardingServer, number: int = 0, **options: Any) -> SplitClient:
    return SplitClient(server.bundles[number], *server.address, **{"timeout_s": 60.0, **options})


def send(asking: SplitClient, payload: bytes) -> None:
    """Bytes that no encoder made, as a payload."""
    asking._infer("infer", "tail", payload, 0, {})


def closed_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def well(server: ForwardingServer) -> list[bool]:
    return [one["well"] for one in server.pool.status()]


def local(number: int, image: np.ndarray = IMAGE) -> np.ndarray:
    with local_split_from_bundle(BUNDLES[number], threads=1) as split:
        return split.infer(image).logits


@pytest.mark.parametrize("number", [0, 1])
def test_forwarded_answers_equal_local_ones(number: int) -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address) as (server, _):
        with client(server, number) as asking:
            answer = asking.infer_input(IMAGE)
            np.testing.assert_array_equal(answer.logits, local(number))
            assert answer.times_ms["tail"] > 0
            assert double.asked == [ensemble_name(BUNDLES[number])]
            assert asking.ping()[0] > 0
        snapshot = server.statistics.snapshot()
        split = BUNDLES[number].split["name"]
        assert (snapshot["queued"], snapshot["splits"][split]["answered"]) == (0, 1)
        assert snapshot["splits"][split]["batches"] == 1


def test_what_cannot_be_decoded_is_told_as_the_built_in_server_does() -> None:
    with triton_double(BUNDLES) as (_, address, _), front(address) as (server, _), client(server) as asking:
        with pytest.raises(PayloadError, match="payload"):
            send(asking, b"no payload of anything")
        with pytest.raises(PayloadError, match="has at most"):
            send(asking, b"x" * (BUNDLES[0].codec.max_payload_bytes + 1))
        np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))


def test_the_least_busy_server_gets_the_next_request() -> None:
    with two_tritons() as it, contextlib.ExitStack() as clients, ThreadPoolExecutor(8) as pool:
        it.one.hold.clear()
        it.two.hold.clear()
        asking = [clients.enter_context(client(it.server)) for _ in range(8)]
        answers = [pool.submit(each.infer_input, IMAGE) for each in asking]
        wait_until(lambda: len(it.one.asked) + len(it.two.asked) == 8, "all requests")
        assert (len(it.one.asked), len(it.two.asked)) == (4, 4)
        it.two.hold.set()  # it becomes idle; the other keeps its four
        wait_until(lambda: sum(answer.done() for answer in answers) == 4, "four answers")
        with client(it.server) as more:
            for _ in range(3):
                more.infer_input(IMAGE)
        assert (len(it.one.asked), len(it.two.asked)) == (4, 7)
        it.one.hold.set()
        for answer in answers:
            np.testing.assert_array_equal(answer.result().logits, local(0))


def test_equally_busy_servers_take_turns() -> None:
    with two_tritons() as it, client(it.server) as asking:
        for _ in range(6):
            asking.infer_input(IMAGE)
        assert (len(it.one.asked), len(it.two.asked)) == (3, 3)


def test_a_dead_server_is_left_out_and_comes_back() -> None:
    with two_tritons() as it, client(it.server) as asking:
        it.first_server.stop(None).wait()
        for _ in range(6):
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))
        wait_until(lambda: well(it.server) == [False, True], "one is left out")
        assert any(f"Triton at {it.first} is lost" in line for line in it.lines)
        assert len(it.two.asked) == 6
        with triton_double(BUNDLES, port=int(it.first.rpartition(":")[2])) as (again, address, _):
            assert address == it.first
            wait_until(lambda: well(it.server) == [True, True], "it comes back")
            for _ in range(4):
                asking.infer_input(IMAGE)
            assert len(again.asked) == 2
        assert it.one.asked == []


def test_a_server_that_dies_with_requests_gives_them_to_another() -> None:
    with two_tritons() as it, contextlib.ExitStack() as clients, ThreadPoolExecutor(8) as pool:
        it.one.hold.clear()
        asking = [clients.enter_context(client(it.server)) for _ in range(8)]
        answers = [pool.submit(each.infer_input, IMAGE) for each in asking]
        wait_until(lambda: len(it.one.asked) + len(it.two.asked) == 8, "all requests")
        assert it.one.asked
        it.first_server.stop(None)
        for answer in answers:
            np.testing.assert_array_equal(answer.result().logits, local(0))
        assert len(it.two.asked) == 8
        it.one.hold.set()


def test_a_server_that_hangs_loses_its_requests_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottlekit.serving.triton_connection.HEALTH_TIMEOUT_S", 1.0)
    silent = threading.Event()
    with two_tritons() as it, client(it.server) as asking:
        it.one.hold.clear()
        it.one.ServerReady = lambda request, context: silent.wait(120)  # type: ignore[method-assign, assignment]
        answers = []

        def ask() -> bool:
            with contextlib.suppress(ServerBusyError):  # the other one may look dead for a moment on a busy machine
                answers.append(asking.infer_input(IMAGE).logits)
            return len(answers) == 2

        wait_until(ask, "two answers")
        for answer in answers:
            np.testing.assert_array_equal(answer, local(0))
        assert len(it.two.asked) >= 2
        assert well(it.server)[0] is False
        silent.set()


def test_without_triton_clients_are_told_at_once_and_served_when_it_is_there() -> None:
    address = closed_port()
    with front(address) as (server, lines), client(server) as asking:
        assert any(f"Triton at {address} is not there yet: nothing answers there (" in line for line in lines)
        with pytest.raises(ServerBusyError, match="no Triton server can compute this now; ask again later") as told:
            asking.infer_input(IMAGE)
        assert address not in str(told.value)
        with pytest.raises(ServerBusyError, match="no Triton server is well now"):
            asking.ping()
        with triton_double(BUNDLES, port=int(address.rpartition(":")[2])):
            wait_until(lambda: well(server) == [True], "it is found")
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))
            assert asking.ping()[0] > 0


def test_an_adaptive_device_computes_alone_without_triton_and_is_told_when_it_is_back() -> None:
    options = options_from_profile(profile_of(BUNDLES, whole_ms=NEVER_MS), BUNDLES)
    patient = QUICK._replace(least_patience_ms=110_000.0)
    with contextlib.ExitStack() as stack:
        _, address, triton = stack.enter_context(triton_double(BUNDLES))
        server, _ = stack.enter_context(front(address))
        device = stack.enter_context(
            AdaptiveClient(BUNDLES, options, *server.address, settings=patient, probing=False, timeout_s=120.0)
        )
        answer = device.infer_input(IMAGE)
        number = [bundle.split["name"] for bundle in BUNDLES].index(answer.split)
        np.testing.assert_array_equal(answer.logits, local(number))
        assert device.probe()
        triton.stop(None).wait()
        assert device.infer_input(IMAGE).split == MOBILE_ONLY
        assert not device.probe()
        stack.enter_context(triton_double(BUNDLES, port=int(address.rpartition(":")[2])))
        wait_until(device.probe, "a ping that is answered")


def test_a_triton_that_is_not_ready_gets_nothing() -> None:
    with triton_double(BUNDLES) as (double, address, _):
        double.well = False
        with front(address) as (server, _), client(server) as asking:
            with pytest.raises(ServerBusyError):
                asking.infer_input(IMAGE)
            assert double.asked == []
            double.well = True
            wait_until(lambda: well(server) == [True], "it is ready")
            asking.infer_input(IMAGE)


def test_a_triton_of_another_export_gets_nothing() -> None:
    with triton_double(BUNDLES) as (double, address, _):
        double.models = {ensemble_name(BUNDLES[1])}
        with front(address) as (server, lines), client(server, 0) as first, client(server, 1) as second:
            np.testing.assert_array_equal(second.infer_input(IMAGE).logits, local(1))
            with pytest.raises(ServerBusyError):
                first.infer_input(IMAGE)
            assert double.asked == [ensemble_name(BUNDLES[1])]
            assert any(f"is well, but has not {ensemble_name(BUNDLES[0])}" in line for line in lines)


def test_a_model_that_goes_while_running_is_asked_elsewhere() -> None:
    with two_tritons() as it, client(it.server) as asking:
        it.one.models = set()
        for _ in range(4):
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))
        assert len(it.two.asked) == 4


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda request, response: setattr(response, "id", "another"), "another request's answer"),
        (lambda request, response: setattr(response, "model_name", "another"), "another model's answer"),
        (lambda request, response: setattr(response.outputs[0], "name", "probabilities"), "another tensor"),
        (lambda request, response: setattr(response.outputs[0], "datatype", "FP16"), "another type"),
        (lambda request, response: response.outputs[0].shape.append(1), "another shape"),
        (lambda request, response: response.raw_output_contents.append(b""), "two tensors"),
        (lambda request, response: response.raw_output_contents.__setitem__(0, b"\0" * 16), "too few bytes"),
    ],
)
def test_a_wrong_answer_never_reaches_a_client(spoil: Any, what: str) -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address) as (server, lines):
        with client(server) as asking:
            double.spoil = spoil
            with pytest.raises(RemoteError, match="the server failed"):
                asking.infer_input(IMAGE)
            double.spoil = lambda request, response: None
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))
        assert any("Triton" in line and "failed" in line for line in lines), what


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INTERNAL, RemoteError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerBusyError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
        (grpc.StatusCode.INVALID_ARGUMENT, RemoteError),
        (grpc.StatusCode.UNAVAILABLE, ServerBusyError),
    ],
)
def test_refusals_of_triton_have_the_same_names_here(status: grpc.StatusCode, error: type[WireError]) -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address) as (server, _), client(server) as asking:
        double.refuse = (status, "words with 127.0.0.1 in them")
        with pytest.raises(error) as told:
            asking.infer_input(IMAGE)
        assert "words" not in str(told.value)
        double.refuse = None
        wait_until(lambda: server.pool.lacking([ensemble_name(BUNDLES[0])]) == [], "it is asked again")
        np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))


def test_more_requests_than_the_queue_are_refused() -> None:
    with (
        triton_double(BUNDLES) as (double, address, _),
        front(address, limits=ServerLimits(queue=2)) as (server, _),
        contextlib.ExitStack() as clients,
        ThreadPoolExecutor(2) as pool,
    ):
        double.hold.clear()
        asking = [clients.enter_context(client(server)) for _ in range(2)]
        answers = [pool.submit(each.infer_input, IMAGE) for each in asking]
        wait_until(lambda: len(double.asked) == 2, "two requests")
        with client(server) as third, pytest.raises(ServerBusyError, match="2 requests wait for Triton"):
            third.infer_input(IMAGE)
        double.hold.set()
        for answer in answers:
            np.testing.assert_array_equal(answer.result().logits, local(0))


def test_a_deadline_travels_with_the_request() -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address) as (server, _):
        double.hold.clear()
        with pytest.raises(WireError), client(server, timeout_s=1.0) as asking:
            asking.infer_input(IMAGE)
        assert 0 < double.left_s[0] < 2.0  # grpc rounds it up
        wait_until(lambda: server.statistics.queued == 0, "the request is given up")
        double.hold.set()
        with client(server) as asking:
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))


def test_a_reload_waits_for_the_new_repository(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    shutil.copytree(FLEET / "rb1", fleet / "rb1")
    with triton_double(BUNDLES) as (double, address, _), front(address, fleet=fleet) as (server, lines):
        with client(server) as asking:
            asking.infer_input(IMAGE)
            manifest = json.loads((fleet / "rb1/bundle.json").read_text())
            (fleet / "rb1/bundle.json").write_text(json.dumps({**manifest, "command": "another export"}))
            server.reload()
            wait_until(lambda: any("reload failed" in line for line in lines), "a refusal")
            assert "give them the repository of the new fleet first" in lines[-1]
            asking.infer_input(IMAGE)
            new = ensemble_name(fleet_from_path(str(fleet))[0])
            double._parts[new] = double._parts[ensemble_name(BUNDLES[0])]
            double.models.add(new)
            server.reload()
            wait_until(lambda: server.statistics.reloads == 1, "a reload")
            asking.infer_input(IMAGE)  # of the fleet that it was told of
        with client(server) as asking:
            np.testing.assert_array_equal(asking.infer_input(IMAGE).logits, local(0))
        assert double.asked[-1] == new
        assert double.asked.count(ensemble_name(BUNDLES[0])) == 3


def test_the_page_ready_says_what_is_well() -> None:
    def get(server: ForwardingServer) -> tuple[int, dict[str, Any]]:
        assert server.http_address is not None
        connection = http.client.HTTPConnection(*server.http_address, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/ready")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    with triton_double(BUNDLES) as (double, address, _):
        server = ForwardingServer(BUNDLES, [address], Journal(), port=0, http=("127.0.0.1", 0))
        server.pages["/ready"] = ready_page(server)
        with server, in_a_thread(server):
            wait_until(lambda: server.pool.servers and well(server) == [True], "it is well")
            status, body = get(server)
            assert (status, body["ready"], body["lacking"]) == (200, True, [])
            assert body["tritons"] == [
                {
                    "address": address,
                    "well": True,
                    "why": "",
                    "models": 4,
                    "in_flight": 0,
                    **dict.fromkeys(("answered", "refused", "late", "failed", "lost"), 0),
                    "latency_ms": 0.0,
                }
            ]
            double.well = False
            wait_until(lambda: well(server) == [False], "it is not")
            status, body = get(server)
            assert (status, body["ready"]) == (503, False)
            assert body["lacking"] == [ensemble_name(bundle) for bundle in BUNDLES]


def test_addresses() -> None:
    assert addresses_from_text("grpc://a:8001") == (["a:8001"], False)
    assert addresses_from_text("grpc://a:8001, grpc://[::1]:1") == (["a:8001", "[::1]:1"], False)
    assert addresses_from_text("grpcs://a:1,grpcs://b:1") == (["a:1", "b:1"], True)
    with pytest.raises(UsageError, match="all of them must be grpcs://"):
        addresses_from_text("grpc://a:1,grpcs://b:1")
    for text in ("a:8001", "http://a:8001", "grpc://a", "grpc://a:8001,", "", "grpc://a:1,b:2"):
        with pytest.raises(UsageError, match="--triton must be"):
            addresses_from_text(text)
    with pytest.raises(UsageError, match="--triton names a:1 twice"):
        addresses_from_text("grpc://a:1,grpc://a:1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--triton", "localhost:8001"], "--triton must be grpc://HOST:PORT"),
        (["--triton", "grpc://a:1", "--threads", "2"], "do nothing with --triton"),
        (["--triton", "grpc://a:1", "--max-batch", "4"], "do nothing with --triton"),
        (["--triton", "grpc://a:1", "--max-wait-ms", "1"], "do nothing with --triton"),
        (["--triton", "grpcs://a:1"], "grpcs:// and --triton-tls go together"),
        (["--triton", "grpc://a:1", "--triton-tls", "pki"], "grpcs:// and --triton-tls go together"),
        (
            ["--triton", "grpcs://a:1", "--triton-tls", "pki"],
            "pki lacks ca.pem, the CA that signed Triton's certificate",
        ),
        (["--triton-tls", "pki"], "--triton-tls does nothing without --triton"),
    ],
)
def test_bad_options_are_refused(options: list[str], words: str, run: Callable[..., str]) -> None:
    assert words in run("serve", FLEET, "--port", 0, *options, code=2)


def test_without_grpc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with pytest.raises(UsageError, match=r"pip install 'bottlekit\[triton\]'"):
        ForwardingServer(BUNDLES, ["127.0.0.1:1"], Journal())


def test_an_image_is_forwarded_to_the_whole_network(picture: bytes) -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address) as (server, _), client(server) as asking:
        answer = asking.infer_cloud_only(picture)
        with serving(BUNDLES) as built_in, SplitClient(BUNDLES[0], *built_in.address) as other:
            np.testing.assert_array_equal(answer.logits, other.infer_cloud_only(picture).logits)
        with pytest.raises(DataError, match="the image sent"):
            asking.infer_cloud_only(b"no image")
        assert double.asked == [ensemble_name(BUNDLES[0]) + "-whole"] * 2
