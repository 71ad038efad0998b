"""What is told of every Triton server: Prometheus, /status, and the live view."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.client import SplitClient
from bottlekit.device.journal import Journal
from bottlekit.errors import DeadlineError, PayloadError, RemoteError, ServerBusyError
from bottlekit.serving.metrics import metrics_page
from bottlekit.serving.top import view
from bottlekit.serving.triton_front import ForwardingServer, status_page

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from servers import PATIENCE_S, in_a_thread, wait_until
from triton_double import TritonDouble, triton_double

ROOT = Path(__file__).parents[2]
BUNDLES = fleet_from_path(str(ROOT / "tests/data/tiny_fleet"))
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)


@contextlib.contextmanager
def front(*addresses: str) -> Iterator[ForwardingServer]:
    server = ForwardingServer(BUNDLES, list(addresses), Journal(), port=0, http=("127.0.0.1", 0))
    server.pages["/status"] = status_page(server)
    server.pages["/metrics"] = metrics_page(server.statistics, server.tritons)
    with server, in_a_thread(server):
        yield server


def get(server: ForwardingServer, path: str) -> str:
    assert server.http_address is not None
    connection = http.client.HTTPConnection(*server.http_address, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def samples(server: ForwardingServer) -> dict[tuple[str, str, str], float]:
    """By name, server, and what else is labelled."""
    return {
        (
            sample.name,
            sample.labels["triton"],
            sample.labels.get("outcome") or sample.labels.get("le", ""),
        ): sample.value
        for family in text_string_to_metric_families(get(server, "/metrics"))
        for sample in family.samples
        if "triton" in sample.labels
    }


def use(server: ForwardingServer, double: TritonDouble) -> None:
    """Three answers and one of each other kind, from the one server there is."""
    with SplitClient(BUNDLES[0], *server.address, timeout_s=PATIENCE_S) as client:
        for _ in range(3):
            client.infer_input(IMAGE)
        with pytest.raises(PayloadError):
            client._infer("infer", "tail", b"x", 0, {})
        for status, error in (
            (grpc.StatusCode.INTERNAL, RemoteError),
            (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
            (grpc.StatusCode.UNAVAILABLE, ServerBusyError),
        ):
            double.refuse = (status, "a test")
            with pytest.raises(error):
                client.infer_input(IMAGE)
            double.refuse = None


def test_prometheus_is_told_of_every_server() -> None:
    with triton_double(BUNDLES) as (double, address, _), triton_double(BUNDLES) as (_, dead, dead_server):
        dead_server.stop(None).wait()
        with front(address, dead) as server:
            wait_until(lambda: [one["well"] for one in server.pool.status()] == [True, False], "one is well")
            use(server, double)
            found = samples(server)
            total = "bottlekit_triton_requests_total"
            outcomes = {kind: value for (name, at, kind), value in found.items() if (name, at) == (total, address)}
            assert outcomes == {"answered": 3, "refused": 1, "late": 1, "failed": 1, "lost": 1}
            assert sum(value for (name, at, _), value in found.items() if (name, at) == (total, dead)) == 0
            assert found["bottlekit_triton_latency_seconds_count", address, ""] == 3
            assert found["bottlekit_triton_latency_seconds_bucket", address, "+Inf"] == 3
            assert found["bottlekit_triton_latency_seconds_sum", address, ""] > 0
            assert found["bottlekit_triton_in_flight", address, ""] == 0
            assert found["bottlekit_triton_up", dead, ""] == 0
            needed = 2 * len(BUNDLES)
            wait_until(
                lambda: samples(server)["bottlekit_triton_models", address, ""] == needed, "it is asked again"
            )
            assert samples(server)["bottlekit_triton_up", address, ""] == 1
            server.pool.servers[0].give_up("a test")
            assert samples(server)["bottlekit_triton_up", address, ""] == 0


def shown(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    console = Console(width=150, file=io.StringIO())
    console.print(view(now, before))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_live_view_has_a_row_for_every_server() -> None:
    with triton_double(BUNDLES) as (double, address, _), front(address, "127.0.0.1:1") as server:
        wait_until(lambda: server.pool.servers and server.pool.servers[0].well, "it is well")
        before = json.loads(get(server, "/status"))
        use(server, double)
        now = json.loads(get(server, "/status"))
        now["uptime_s"] = before["uptime_s"] + 2.0
        text = shown(now, before)
        place = re.escape(address)
        assert re.search(rf"{place} +│ (well, \d models|LOST: .+?) +│ 0 +│ 1\.5 +│ \d+\.\d\d +│ 1 +│ 3 ", text), (
            text
        )
        assert re.search(r"127\.0\.0\.1:1 +│ LOST: nothing answers.*│ 0 +│ 0\.0 +│ - +│ 0 +│ 0 ", text), text
        assert place.replace("\\", "") in shown(now, None)


def test_every_metric_and_every_key_is_documented() -> None:
    page = (ROOT / "docs/reference/serving.md").read_text(encoding="utf-8")
    with triton_double(BUNDLES) as (_, address, _), front(address) as server:
        wait_until(lambda: server.pool.servers, "it runs")
        names = {re.sub("_(bucket|count|sum)$", "", name) for name, _, _ in samples(server)}
        assert [name for name in sorted(names) if name not in page] == []
        keys = {"tritons", *server.pool.status()[0]}
        assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
