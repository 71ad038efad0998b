"""The repository of a fleet on a real tritonserver: it answers as the built-in server does, bit for bit."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from bottlekit.build.agent_pack import pack_agent
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.journal import Journal
from bottlekit.device.service import TAIL, WHOLE, Served, TailService, runner_from_onnx
from bottlekit.errors import RemoteError, ServerBusyError
from bottlekit.serving.kserve import floats_from_response, infer_request, method
from bottlekit.serving.triton_front import ForwardingServer
from bottlekit.serving.triton_repository import (
    RepositoryOptions,
    ensemble_name,
    repository_from_fleet,
    whole_name,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from servers import in_a_thread, wait_until
from triton_server import Triton, triton_home, triton_running

pytestmark = pytest.mark.slow

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
ANSWER_S = 60
BATCH = 8


class Running(NamedTuple):
    """A tritonserver with a fleet, a connection to it, and the built-in way to the same answers."""

    server: Triton
    channel: Any
    bundles: list[Bundle]
    built_in: TailService

    def infer(self, model: str, tensor: str, strings: list[bytes], bundle: Bundle) -> np.ndarray:
        request = infer_request(model, tensor, strings, bundle.dynamic_batch, request_id="7")
        response = method("ModelInfer").on(self.channel)(request, timeout=ANSWER_S)
        return floats_from_response(response, request, "logits", (len(strings), len(bundle.classes)))

    def expected(self, number: int, datas: list[bytes], part: str = TAIL) -> np.ndarray:
        outcomes = self.built_in.run(part, number, datas)
        assert all(isinstance(one, Served) for one in outcomes)
        return np.stack([one.logits for one in outcomes if isinstance(one, Served)])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = triton_home()
    folder = tmp_path_factory.mktemp("triton")
    bundles = fleet_from_path(str(FLEET))
    options = RepositoryOptions(max_batch=BATCH, backend="python", decoders=1, threads=1)
    repository_from_fleet(bundles, folder / "repository", pack_agent, options)
    with (
        TailService(bundles, runner_from_onnx(threads=1), max_batch=BATCH) as built_in,
        triton_running(home, folder / "repository", folder) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        yield Running(server, channel, bundles, built_in)


def payloads_of(bundle: Bundle) -> list[bytes]:
    """Of every golden feature, and of features that nobody trained for."""
    random = np.random.default_rng(9)
    features = [*bundle.golden()["feature"], *random.normal(size=(5, *bundle.feature_shape)).astype(np.float32)]
    return [bundle.codec.encode(one) for one in features]


@pytest.mark.parametrize("number", [0, 1])
def test_every_golden_payload_has_the_built_in_logits(running: Running, number: int) -> None:
    bundle = running.bundles[number]
    golden = bundle.golden()
    for position, payload in enumerate(payloads_of(bundle)):
        logits = running.infer(ensemble_name(bundle), "payload", [payload], bundle)
        np.testing.assert_array_equal(logits, running.expected(number, [payload]))
        if position < len(golden["logits"]):
            np.testing.assert_allclose(logits[0], golden["logits"][position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_a_batch_has_the_built_in_logits_of_the_same_batch(running: Running, number: int) -> None:
    bundle = running.bundles[number]
    for count in (2, 3, BATCH):
        payloads = payloads_of(bundle)[:count]
        logits = running.infer(ensemble_name(bundle), "payload", payloads, bundle)
        np.testing.assert_array_equal(logits, running.expected(number, payloads))


def test_requests_that_triton_batches_get_their_own_answers(running: Running) -> None:
    work = [(number, payload) for number in (0, 1) for payload in payloads_of(running.bundles[number])] * 8
    alone = {one: running.expected(one[0], [one[1]]) for one in set(work)}

    def ask(one: tuple[int, bytes]) -> np.ndarray:
        bundle = running.bundles[one[0]]
        return running.infer(ensemble_name(bundle), "payload", [one[1]], bundle)

    with ThreadPoolExecutor(16) as pool:
        for one, logits in zip(work, pool.map(ask, work), strict=True):
            # A batch may be summed in another order; what distinguishes two payloads is far larger.
            np.testing.assert_allclose(logits, alone[one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_file_has_the_logits_of_the_whole_network(running: Running, number: int, picture: bytes) -> None:
    bundle = running.bundles[number]
    logits = running.infer(whole_name(bundle), "file", [picture], bundle)
    np.testing.assert_array_equal(logits, running.expected(number, [picture], WHOLE))


def test_what_cannot_be_decoded_is_refused_by_name_and_touches_nobody(running: Running) -> None:
    bundle = running.bundles[0]
    good = payloads_of(bundle)[0]
    with ThreadPoolExecutor(8) as pool:
        asked = [good, b"", good[:-3], good, b"x" * 100, good] * 4
        futures = [
            (one, pool.submit(running.infer, ensemble_name(bundle), "payload", [one], bundle)) for one in asked
        ]
        for one, future in futures:
            if one is good:
                np.testing.assert_allclose(future.result(), running.expected(0, [good]), rtol=1e-4, atol=1e-5)
            else:
                with pytest.raises(grpc.RpcError) as raised:
                    future.result()
                assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert "bottlekit PayloadError: " in raised.value.details()
    with pytest.raises(grpc.RpcError, match="bottlekit DataError: the image sent"):
        running.infer(whole_name(bundle), "file", [b"no image"], bundle)


def test_another_export_of_a_bundle_has_another_name(running: Running) -> None:
    bundle = running.bundles[0]
    other = f"{bundle.name}-{'0' * 12}"
    with pytest.raises(grpc.RpcError) as raised:
        running.infer(other, "payload", payloads_of(bundle)[:1], bundle)
    assert raised.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)


def test_a_triton_that_is_killed_in_the_middle_costs_no_wrong_answer(running: Running, tmp_path: Path) -> None:
    """Many clients on a front end before two real servers, of which one dies and comes back."""
    bundles, home = running.bundles, triton_home()
    repository_from_fleet(
        bundles[:1],
        tmp_path / "r",
        pack_agent,
        RepositoryOptions(backend="python", decoders=1, threads=1, whole=False),
    )
    features = [bundles[0].codec.decode(payload) for payload in payloads_of(bundles[0])]
    payloads = [bundles[0].codec.encode(feature) for feature in features]
    expected = [running.expected(0, [payload])[0] for payload in payloads]
    stop = threading.Event()
    counts = {"right": 0, "busy": 0}

    def keep_asking(offset: int) -> None:
        with SplitClient(bundles[0], *front.address, timeout_s=ANSWER_S) as asking:
            for number in itertools.count(offset):
                if stop.is_set():
                    return
                place = number % len(payloads)
                try:
                    answer = asking._infer("infer", "tail", payloads[place], 0, {})
                except (ServerBusyError, RemoteError):
                    counts["busy"] += 1
                    continue
                # In a batch the sum may be rounded otherwise; another's answer is far from this.
                np.testing.assert_allclose(answer.logits, expected[place], rtol=1e-4, atol=1e-5)
                counts["right"] += 1

    with contextlib.ExitStack() as servers:
        second = servers.enter_context(triton_running(home, tmp_path / "r", tmp_path))
        front = ForwardingServer(bundles[:1], [running.server.grpc, second.grpc], Journal(), port=0)
        with front, in_a_thread(front), ThreadPoolExecutor(6) as pool:
            wait_until(lambda: [one["well"] for one in front.pool.status()] == [True, True], "both are well")
            asking = [pool.submit(keep_asking, offset) for offset in range(6)]
            try:
                wait_until(lambda: min(one["answered"] for one in front.pool.status()) >= 20, "both answer")
                second.kill()
                wait_until(lambda: not front.pool.status()[1]["well"], "the dead one is left out")
                before = counts["right"]
                wait_until(lambda: counts["right"] > before + 50, "the other does the work")
                answered = front.pool.status()[1]["answered"]
                servers.enter_context(triton_running(home, tmp_path / "r", tmp_path, port=second.port))
                wait_until(lambda: front.pool.status()[1]["answered"] > answered + 20, "it comes back")
            finally:
                stop.set()
            for one in asking:
                one.result()
    assert counts["right"] > 90
    assert counts["busy"] <= 6  # at most what each client had on its way in the moment of the kill
