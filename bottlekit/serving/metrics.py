"""A server's statistics as Prometheus reads them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bottlekit.device.pages import Answer
from bottlekit.device.statistics import LATENCY_EDGES_MS
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bottlekit.device.statistics import Latencies, Statistics
    from bottlekit.serving.triton_connection import TritonServer


def metrics_page(
    statistics: Statistics, tritons: Callable[[], Sequence[TritonServer]] = tuple
) -> Callable[[], Answer]:
    """The page `/metrics`. Raises UsageError where prometheus-client is not installed.

    Splits and `tritons` are labels, clients are not: they come and go, and Prometheus would keep a series for each.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError as error:
        raise UsageError(
            f"metrics need prometheus-client ({error}); type: pip install 'bottlekit[metrics]'"
        ) from error

    registry = CollectorRegistry()
    registry.register(_Collector(statistics, tritons))
    return lambda: Answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))


class _Collector:
    """Reads the statistics whenever Prometheus asks: there is one count of everything, not two."""

    def __init__(self, statistics: Statistics, tritons: Callable[[], Sequence[TritonServer]]) -> None:
        self._statistics = statistics
        self._tritons = tritons

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        now = self._statistics
        for name, words, value in (
            ("connections", "open connections", now.connections),
            ("clients", "connections that said hello", len(now.clients)),
            ("in_flight", "messages at work", now.in_flight),
            ("queued", "requests that wait for a tail", now.queued),
            ("stopping", "1 while the server stops", int(now.stopping)),
        ):
            yield GaugeMetricFamily("bottlekit_" + name, words, value=value)
        for name, words, value in (
            ("connections_accepted", "connections since the start", now.accepted),
            ("messages_answered", "messages answered, hello and ping included", now.answered),
            ("received_bytes", "bytes received, frames included, TLS not", now.received_bytes),
            ("sent_bytes", "bytes sent, frames included, TLS not", now.sent_bytes),
            ("reloads", "times the fleet was read again", now.reloads),
        ):
            yield CounterMetricFamily("bottlekit_" + name, words, value=value)
        refused = CounterMetricFamily("bottlekit_refused", "requests refused, by why", labels=["code"])
        for code, count in now.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield from self._of_splits(CounterMetricFamily, HistogramMetricFamily)
        servers = self._tritons()
        if servers:
            yield from _of_tritons(servers, GaugeMetricFamily, CounterMetricFamily, HistogramMetricFamily)

    def _of_splits(self, counter: Any, histogram: Any) -> Iterator[Any]:
        answered = counter("bottlekit_inferences", "inferences answered", labels=["split"])
        batches = counter("bottlekit_batches", "times a tail ran", labels=["split"])
        tail = counter("bottlekit_tail_seconds", "time in tails", labels=["split"])
        decode = counter("bottlekit_decode_seconds", "time decoding", labels=["split"])
        queue = counter("bottlekit_queue_seconds", "time that requests waited", labels=["split"])
        latency = histogram(
            "bottlekit_latency_seconds", "from a request's last byte to its answer", labels=["split"]
        )
        for name, split in self._statistics.splits.items():
            answered.add_metric([name], split.answered)
            batches.add_metric([name], split.batches)
            tail.add_metric([name], split.tail_us / 1e6)
            decode.add_metric([name], split.decode_us / 1e6)
            queue.add_metric([name], split.queue_us / 1e6)
            latency.add_metric([name], _buckets(split.latencies), split.latencies.total_ms / 1e3)
        yield from (answered, batches, tail, decode, queue, latency)


def _of_tritons(servers: Sequence[TritonServer], gauge: Any, counter: Any, histogram: Any) -> Iterator[Any]:
    up = gauge("bottlekit_triton_up", "1 while the Triton server is well", labels=["triton"])
    models = gauge("bottlekit_triton_models", "models it runs, of those needed", labels=["triton"])
    in_flight = gauge("bottlekit_triton_in_flight", "requests sent there and not answered", labels=["triton"])
    requests = counter(
        "bottlekit_triton_requests", "requests sent there, by what became of them", labels=["triton", "outcome"]
    )
    latency = histogram(
        "bottlekit_triton_latency_seconds", "from a request's sending to its logits", labels=["triton"]
    )
    for server in servers:
        label = [server.address]
        up.add_metric(label, int(server.well))
        models.add_metric(label, len(server.models))
        in_flight.add_metric(label, server.in_flight)
        for outcome, count in server.outcomes.items():
            requests.add_metric([*label, outcome], count)
        latency.add_metric(label, _buckets(server.latencies), server.latencies.total_ms / 1e3)
    yield from (up, models, in_flight, requests, latency)


def _buckets(latencies: Latencies) -> list[tuple[str, int]]:
    """Upper edges in seconds, and how many are at most as long, as Prometheus counts."""
    edges = [*(str(edge / 1e3) for edge in LATENCY_EDGES_MS), "+Inf"]
    return list(zip(edges, itertools.accumulate(latencies.bins), strict=True))
