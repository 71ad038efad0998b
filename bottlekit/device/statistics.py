"""What a server has done and is doing: counters, and the last latencies. The event loop writes them, all read."""

import bisect
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional

from .stats import summary

# Upper edges of the latency histogram; one more bin has no edge.
LATENCY_EDGES_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
# The recent requests whose latencies are kept one by one, for percentiles.
_RECENT = 1024


class Latencies:
    """A histogram of latencies: how many in each bin of LATENCY_EDGES_MS, and their sum."""

    def __init__(self) -> None:
        self.bins = [0] * (len(LATENCY_EDGES_MS) + 1)
        self.total_ms = 0.0

    def count(self, latency_ms: float) -> None:
        """One more."""
        self.bins[bisect.bisect_left(LATENCY_EDGES_MS, latency_ms)] += 1
        self.total_ms += latency_ms


class SplitCounters:
    """One split's totals since the server started; a whole network counts as a split of its own."""

    def __init__(self) -> None:
        self.answered = 0
        self.batches = 0
        self.decode_us = 0
        self.tail_us = 0
        self.queue_us = 0
        self.latencies = Latencies()


class ClientCounters:
    """One connection: who it is, once it said hello, since when on the monotonic clock, and what it has had."""

    def __init__(self, peer: str, since: float) -> None:
        self.peer = peer
        self.name = ""
        self.since = since
        self.split = ""
        self.answered = 0
        self.refused = 0
        self.received_bytes = 0
        self.sent_bytes = 0


class Statistics:
    """How busy the server is. Written by the event loop only, read from anywhere."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.connections = 0
        self.in_flight = 0
        self.queued = 0
        self.answered = 0
        self.accepted = 0
        self.reloads = 0
        self.stopping = False
        self.received_bytes = 0
        self.sent_bytes = 0
        self.refused: Dict[str, int] = {}
        self.splits: Dict[str, SplitCounters] = {}
        self.clients: List[ClientCounters] = []
        self._recent: Deque[float] = deque(maxlen=_RECENT)

    def count_refused(self, code: str) -> None:
        """One more request was refused, for the reason that the wire calls `code`."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def count_batch(self, split: str, size: int, tail_us: int) -> None:
        """A tail ran once for `size` requests."""
        counters = self._split(split)
        counters.batches += 1
        counters.tail_us += tail_us

    def count_answer(self, split: str, latency_ms: float, queue_us: int, decode_us: int) -> None:
        """A request got its logits, so long after its last byte had come in."""
        counters = self._split(split)
        counters.answered += 1
        counters.queue_us += queue_us
        counters.decode_us += decode_us
        counters.latencies.count(latency_ms)
        self._recent.append(latency_ms)

    def snapshot(self) -> Dict[str, Any]:
        """Everything as JSON can hold it; docs/reference/serving.md names the fields."""
        # One moment for all of it: nobody is connected for longer than the server runs.
        now = time.monotonic()
        return {
            "uptime_s": round(now - self._started, 3),
            "connections": self.connections,
            "in_flight": self.in_flight,
            "queued": self.queued,
            "accepted": self.accepted,
            "answered": self.answered,
            "stopping": self.stopping,
            "reloads": self.reloads,
            "refused": dict(self.refused),
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "latency": self._latency(),
            "splits": {name: _split_values(counters) for name, counters in sorted(self.splits.items())},
            "clients": [_client_values(client, now) for client in self.clients],
        }

    def _split(self, name: str) -> SplitCounters:
        return self.splits.setdefault(name, SplitCounters())

    def _latency(self) -> Optional[Dict[str, Any]]:
        """Of the last requests: count, mean and the percentiles that so many support."""
        if not self._recent:
            return None
        found = summary(list(self._recent))
        return {name: found[name] for name in ("count", "mean_ms", "max_ms", "p50_ms", "p99_ms")}


def _split_values(counters: SplitCounters) -> Dict[str, Any]:
    return {
        "answered": counters.answered,
        "batches": counters.batches,
        "queue_us": counters.queue_us,
        "decode_us": counters.decode_us,
        "tail_us": counters.tail_us,
    }


def _client_values(client: ClientCounters, now: float) -> Dict[str, Any]:
    return {
        "name": client.name,
        "peer": client.peer,
        "split": client.split,
        "connected_s": round(max(0.0, now - client.since), 3),
        "answered": client.answered,
        "refused": client.refused,
        "received_bytes": client.received_bytes,
        "sent_bytes": client.sent_bytes,
    }
