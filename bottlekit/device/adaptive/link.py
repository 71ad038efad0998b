"""One connection for all bundles of a fleet, on which nobody waits longer than was said for this request."""

import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..bundle import Bundle
from ..client import InferAnswer, SplitClient
from ..errors import BundleError
from ..runner import Runner
from ..wire.framing import REQUEST_OVERHEAD_BYTES
from .traffic import Traffic


class FleetLink(SplitClient):
    """A SplitClient that changes its bundle without another connection, and its patience with every request.

    It connects when it is first used, so that a server that is away is no error before anybody asks, and again when
    the server has closed the connection meanwhile. What breaks under a request is that request's error, at once.
    `traffic` is common to all links of a client; `crossed` tells of the last request or ping whether it shared the
    link with another.
    """

    def __init__(
        self,
        bundles: List[Bundle],
        host: str,
        port: int,
        timeout_s: float,
        traffic: Traffic,
        tls_folder: Optional[str] = None,
        server_name: Optional[str] = None,
        token: Optional[bytes] = None,
    ) -> None:
        super().__init__(
            bundles[0],
            host,
            port,
            timeout_s=timeout_s,
            tls_folder=tls_folder,
            server_name=server_name,
            token=token,
            reconnect=False,
        )
        self.crossed = False
        self._traffic = traffic
        self._numbers: Dict[Tuple[str, str], int] = {}

    def __enter__(self) -> "FleetLink":
        self._inside = True
        return self

    def ready(self, timeout_s: float) -> float:
        """Connect unless that is done; returns the time it took in ms, or 0. Raises WireError, BundleError."""
        if self._wire is not None and self._wire.has_ended():
            self._hang_up()
        if self._wire is not None:
            return 0.0
        started = time.perf_counter()
        self._timeout_s = timeout_s
        self._connect(time.monotonic() + timeout_s)
        return (time.perf_counter() - started) * 1e3

    def infer_with(
        self, bundle: Bundle, head: Runner, image: np.ndarray, patience_s: float
    ) -> Tuple[InferAnswer, float]:
        """Classify a preprocessed image, float32 (1, 3, h, w), at this bundle's split.

        Returns the answer and the time in ms that connecting took, 0 where there was a connection. Raises WireError
        when there is no answer within `patience_s` of network time, BundleError when the server has not the bundle.
        """
        self._bundle, self._head = bundle, head
        connect_ms = self.ready(patience_s)
        self._take_number(bundle)
        self._timeout_s = patience_s
        return self.infer_input(image), connect_ms

    def timed_ping(self, padding_bytes: int, timeout_s: float) -> Tuple[int, float, int]:
        """(bytes sent, round trip in ms, requests at work at the server); no more padding than the server takes."""
        self.ready(timeout_s)
        self._timeout_s = timeout_s
        padding_bytes = min(padding_bytes, self._frame_bytes - REQUEST_OVERHEAD_BYTES)
        elapsed_ms, load = self.ping(padding_bytes)
        return self._connected().sent_bytes, elapsed_ms, max(load["in_flight"], load["queued"])

    def _take_number(self, bundle: Bundle) -> None:
        key = (bundle.name, bundle.sha256)
        if key not in self._numbers:
            raise BundleError(
                "{} does not serve {}; use the same fleet on both sides".format(self._where, bundle.name)
            )
        self._number = self._numbers[key]

    def _call(self, deadline: float, method: str, *arguments: object) -> Any:
        if method == "infer":
            # The server drops what nobody waits for any more.
            left_ms = max(1, int((deadline - time.monotonic()) * 1e3))
            arguments = arguments[:-1] + (left_ms,)
        with self._traffic.message() as message:
            answer = super()._call(deadline, method, *arguments)
        self.crossed = message.crossed
        if method == "hello":
            offered = answer.bundles or []
            self._numbers = {(info.name, info.sha256): number for number, info in enumerate(offered)}
        return answer
