"""What clients may ask of a server: sizes, times, numbers, rates."""

from collections import OrderedDict
from typing import Callable, NamedTuple

# Buckets of clients that were not seen for longest are forgotten first; a forgotten client starts with a full one.
_MAX_BUCKETS = 4096


class ServerLimits(NamedTuple):
    """What clients may ask of the server's memory and patience, and how it batches."""

    connections: int = 256
    connections_per_client: int = 0  # of one device, token or address; 0: as many as there are
    requests_per_s: float = 0.0  # of one client, on the average of `burst_s`; 0: as many as it can
    connects_per_s: float = 200.0  # from one address, on the average of `burst_s`; 0: as many as it can
    burst_s: float = 5.0
    image_bytes: int = 1 << 20  # the longest image file of a cloud-only request
    handshake_s: float = 5.0  # for TLS
    hello_s: float = 5.0  # from connecting to a complete hello
    idle_s: float = 300.0  # between two requests
    frame_s: float = 10.0  # from a request's first bytes to its last, and for the client to take the answer
    drain_s: float = 5.0  # for requests at work when the server is told to stop
    queue: int = 256  # requests that may wait for a tail, of all splits together
    max_batch: int = 16  # requests of one split that are computed together
    max_wait_s: float = 0.0  # for a batch to fill while its tail is idle; while it is busy they gather anyway


class Rates:
    """Token buckets, one a client: `per_s` on average, and what `burst_s` allows at once.

    `clock` gives seconds and never goes back.
    """

    def __init__(self, per_s: float, burst_s: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s * burst_s)
        self._clock = clock
        self._buckets: "OrderedDict[str, _Bucket]" = OrderedDict()

    def take(self, name: str) -> bool:
        """Whether `name` may do it once more now."""
        if not self._per_s:
            return True
        now = self._clock()
        bucket = self._buckets.pop(name, _Bucket(self._size, now))
        held = min(self._size, bucket.held + (now - bucket.since) * self._per_s)
        allowed = held >= 1.0
        self._buckets[name] = _Bucket(held - 1.0 if allowed else held, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return allowed


class _Bucket(NamedTuple):
    """What a client had left at a time."""

    held: float
    since: float
