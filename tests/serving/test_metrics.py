"""What a server tells over HTTP: health, status, metrics; and what `bottlekit top` makes of it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.server import Server, server_from_fleet
from bottlekit.device.statistics import Statistics
from bottlekit.errors import PayloadError, ServerUnreachableError, WireError
from bottlekit.serving.metrics import metrics_page
from bottlekit.serving.top import status_from_server, view

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import PATIENCE_S, in_a_thread, wait_until

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "tests/data/tiny_fleet"
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = server_from_fleet(fleet_from_path(str(FLEET)), port=0, http=("127.0.0.1", 0))
    server.pages["/metrics"] = metrics_page(server.statistics)
    with server, in_a_thread(server):
        yield server


def address(server: Server) -> tuple[str, int]:
    assert server.http_address is not None
    return server.http_address


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*address(server), timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def use(server: Server) -> None:
    """Three inferences at rb1, one whole network, one refusal."""
    from bottlekit.device.images import jpeg_from_image

    with SplitClient(fleet_from_path(str(FLEET))[0], *server.address) as client:
        for _ in range(3):
            client.infer_input(IMAGE)
        client.infer_cloud_only(jpeg_from_image(np.zeros((8, 8, 3), np.uint8), 90))
        with pytest.raises(PayloadError):
            client._infer("infer", "tail", b"x", 0, {})


def test_prometheus_reads_what_happened() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with serving() as server:
        use(server)
        status, text = get(server, "/metrics")
        assert status == 200
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["bottlekit_inferences_total", (("split", "rb1"),)] == 3
        assert samples["bottlekit_inferences_total", (("split", "rb1 whole"),)] == 1
        assert samples["bottlekit_batches_total", (("split", "rb1"),)] == 3
        assert samples["bottlekit_refused_total", (("code", "PAYLOAD"),)] == 1
        assert samples["bottlekit_messages_answered_total", ()] == 6
        assert samples["bottlekit_latency_seconds_count", (("split", "rb1"),)] == 3
        assert samples["bottlekit_latency_seconds_bucket", (("le", "+Inf"), ("split", "rb1"))] == 3
        assert 0 < samples["bottlekit_tail_seconds_total", (("split", "rb1"),)] < 10
        assert samples["bottlekit_received_bytes_total", ()] > 3 * 300


def test_every_metric_and_every_key_is_documented() -> None:
    text = (ROOT / "docs/reference/serving.md").read_text()
    with serving() as server:
        use(server)
        names = set(re.findall(r"^# TYPE (\w+)", get(server, "/metrics")[1], re.MULTILINE))
        assert {name for name in names if name not in text} == set()
        with SplitClient(fleet_from_path(str(FLEET))[0], *server.address):
            status = json.loads(get(server, "/status")[1])
        keys = {*status, *status["latency"], *status["splits"]["rb1"], *status["clients"][0]}
        assert {key for key in keys if f"`{key}`" not in text} == set()


def test_the_histograms_edges_are_upper_ones() -> None:
    statistics = Statistics()
    for latency_ms in (0.5, 0.6, 5000.0, 6000.0):
        statistics.count_answer("rb1", latency_ms, 0, 0)
    bins = statistics.splits["rb1"].latencies.bins
    assert (bins[0], bins[1], bins[-2], bins[-1], sum(bins)) == (1, 1, 1, 1, 4)


def test_percentiles_need_as_many_samples_as_everywhere() -> None:
    statistics = Statistics()
    for _ in range(4):
        statistics.count_answer("rb1", 1.0, 0, 0)
    latency = statistics.snapshot()["latency"]
    assert (latency["count"], latency["p50_ms"], latency["p99_ms"]) == (4, None, None)
    for _ in range(2000):
        statistics.count_answer("rb1", 3.0, 0, 0)
    latency = statistics.snapshot()["latency"]
    assert (latency["count"], latency["p50_ms"], latency["p99_ms"]) == (1024, 3.0, 3.0)


def test_health_is_good_until_the_server_stops() -> None:
    with serving() as server:
        assert get(server, "/health") == (200, "ok\n")
        server.statistics.stopping = True
        assert get(server, "/health") == (503, "stopping\n")
        server.statistics.stopping = False


def test_other_pages_and_methods_are_refused_in_words() -> None:
    with serving() as server:
        assert get(server, "/") == (404, "there are: /health, /metrics, /status\n")
        assert get(server, "/health?x=1")[0] == 200
        assert get(server, "/health", "POST")[0] == 405
        assert get(server, "/health", "HEAD") == (200, "")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health", b"\r\n\r\n", b"x" * 10000, b"\xff\xfe\r\n\r\n", b"A" * 9000 + b"\r\n\r\n"]
)
def test_who_asks_otherwise_gets_nothing_and_delays_nobody(sent: bytes) -> None:
    with serving() as server, socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(sent)
        assert get(server, "/health")[0] == 200
        with contextlib.suppress(ConnectionError):
            while connection.recv(1000):
                pass


def test_more_at_once_than_the_pages_answer_do_not_harm_the_server() -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(address(server), PATIENCE_S))
        use(server)
        wait_until(lambda: is_healthy(server))


def is_healthy(server: Server) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(server, "/health") == (200, "ok\n")
    return False


def test_without_prometheus_the_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from bottlekit.serving.metrics import metrics_page\n"
        "from bottlekit.device.statistics import Statistics\n"
        "from bottlekit.errors import UsageError\n"
        "try: metrics_page(Statistics())\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'bottlekit[metrics]'" in done.stdout


# ---- the view


def shown(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(view(now, before))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_top_shows_clients_splits_and_rates() -> None:
    with serving() as server, SplitClient(fleet_from_path(str(FLEET))[1], *server.address) as client:
        before = status_from_server(*address(server))
        for _ in range(10):
            client.infer_input(IMAGE)
        now = status_from_server(*address(server))
        now["uptime_s"] = before["uptime_s"] + 2.0
        text = shown(now, before)
        assert "clients 1" in text
        assert re.search(r"rb2 +│ 5\.0 +│ 1\.0", text)
        assert re.search(r"127\.0\.0\.1 +│ 127\.0\.0\.1:\d+ +│ rb2 +│ 5\.0", text)
        assert "refused: none" in text
        assert shown(now, None)
        assert shown(before, now | {"splits": {}})


def test_top_says_where_nobody_answers_and_who_is_no_server() -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ServerUnreachableError, match=f"bottlekit serve FLEET --http 127.0.0.1:{port}"):
        status_from_server("127.0.0.1", port)
    with serving() as server, pytest.raises(WireError, match="not a bottlekit server's"):
        status_from_server(*server.address)
