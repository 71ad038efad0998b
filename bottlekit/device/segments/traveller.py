"""Running a schedule: segments here and there, what crosses in between, and what happens when the server dies."""

import time
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from ..errors import UsageError, WireError
from ..wire.addresses import ConnectionLost
from ..wire.layers import load_layers_rpc
from .client import SegmentClient
from .route import Route, Step, check_route
from .source import Segments, Span


class StepTime(NamedTuple):
    """A segment as it ran: `machine` is "mobile" where it ran here, also in the cloud's place.

    `ms` of a cloud's segment is the round trip: sending, the server's work, receiving.
    """

    machine: str
    first: int
    last: int
    ms: float


class Journey(NamedTuple):
    """One image's results by name, each as the network gives it, and how they came to be.

    `lost` says why the server's segments ran here from some layer on, None if it answered. The bytes are all that
    crossed the socket for this image.
    """

    results: Dict[str, np.ndarray]
    steps: List[StepTime]
    latency_ms: float
    sent_bytes: int
    received_bytes: int
    lost: Optional[str]


class Traveller:
    """The client of a schedule, used as `with Traveller(...) as traveller:`.

    ::

        image --> [segment here] --> tensors ==lacking there==> [segment there] ==wanted here==> ... --> results

    A tensor crosses once, at the last switch before it is read. Entering connects, if a segment is there, and loads
    all segments that run here. If the server is lost on the way, the rest runs here, from the last boundary of
    which all tensors are here, at worst from the image; the next image tries to connect again. With `may_finish`
    False the error is raised instead. `exact`: see Segments.opened. `tls_folder`, `server_name`: as of SplitClient.
    """

    def __init__(
        self,
        route: Route,
        segments: Segments,
        address: Optional[Tuple[str, int]],
        timeout_s: float = 10.0,
        exact: bool = False,
        may_finish: bool = True,
        tls_folder: Optional[str] = None,
        server_name: Optional[str] = None,
    ) -> None:
        check_route(route, segments, "the schedule")
        if address is None and route.there:
            raise UsageError("the schedule runs layers on a server: give --server HOST:PORT")
        self._route = route
        self._segments = segments
        self._address = address
        self._timeout_s = timeout_s
        self._exact = exact
        self._may_finish = may_finish
        self._tls = (tls_folder, server_name)
        self._client: Optional[SegmentClient] = None

    def __enter__(self) -> "Traveller":
        for step in self._route.steps:
            if step.machine == "mobile":
                self._segments.opened(step.span, self._exact)
        if self._route.there:
            self._connect()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._client is not None:
            self._client.close()

    def run(self, image: np.ndarray) -> Journey:
        """The network's results for its input, float32 (1, 3, h, w)."""
        started = time.perf_counter()
        trip = _Trip({self._segments.input_name: image})
        before = (0, 0) if self._client is None else (self._client.sent_bytes, self._client.received_bytes)
        lost: Optional[str] = None
        for at, step in enumerate(self._route.steps):
            if step.machine == "mobile":
                self._here(trip, step.span)
                continue
            try:
                self._there(trip, at, step)
            except WireError as error:
                if not self._may_finish:
                    raise
                lost = str(error)
                self._finish(trip, step.span.first)
                break
        after = before if self._client is None else (self._client.sent_bytes, self._client.received_bytes)
        # A new connection counts from 0.
        sent, received = (new - old if new >= old else new for new, old in zip(after, before))
        results = {name: trip.values[name] for name in self._segments.result_names}
        return Journey(results, trip.steps, (time.perf_counter() - started) * 1e3, sent, received, lost)

    def _connect(self) -> None:
        assert self._address is not None
        settings = {"exact": "1" if self._exact else "0", "codec": self._route.codec or ""}
        client = SegmentClient(
            self._address[0],
            self._address[1],
            self._segments.sha256,
            self._route.there,
            settings,
            self._timeout_s,
            *self._tls,
        )
        self._client = client.__enter__()

    def _here(self, trip: "_Trip", span: Span) -> None:
        runner = self._segments.opened(span, self._exact)
        started = time.perf_counter()
        trip.values.update(runner.run({info.name: trip.values[info.name] for info in runner.inputs}))
        ms = (time.perf_counter() - started) * 1e3
        trip.steps.append(StepTime("mobile", span.first, span.last, ms))

    def _there(self, trip: "_Trip", at: int, step: Step) -> None:
        started = time.perf_counter()
        number = sum(one.machine == "cloud" for one in self._route.steps[:at])
        if self._client is None or not self._client.open:
            if number:
                raise WireError("the server was lost before")
            self._connect()
        assert self._client is not None
        edges = self._segments.edges(step.span)
        lacking = {name: trip.values[name] for name in edges.inputs if name not in trip.there}
        trip.there.update(lacking)
        trip.there.update(edges.outputs)
        wanted = [name for name in self._read_next(at) if name in trip.there and name not in trip.values]
        trip.values.update(self._asked(number, lacking, wanted))
        ms = (time.perf_counter() - started) * 1e3
        trip.steps.append(StepTime("cloud", step.span.first, step.span.last, ms))

    def _asked(self, number: int, arrays: Dict[str, np.ndarray], wanted: List[str]) -> Dict[str, np.ndarray]:
        assert self._client is not None
        task = load_layers_rpc().types.Task.INFER
        try:
            return self._client.run(task, number, arrays, wanted)
        except ConnectionLost:
            if number:
                raise
        # A server that was started again since the last image knows nothing yet, and need not.
        self._connect()
        return self._client.run(task, number, arrays, wanted)

    def _read_next(self, at: int) -> List[str]:
        """What is read here after a step of the server's and before its next one."""
        names: List[str] = []
        for step in self._route.steps[at + 1 :]:
            if step.machine == "cloud":
                return names
            names.extend(name for name in self._segments.edges(step.span).inputs if name not in names)
        return names + [name for name in self._segments.result_names if name not in names]

    def _finish(self, trip: "_Trip", first: int) -> None:
        """Run the rest here, from the last boundary up to `first` of which every tensor is here."""
        begin = max(
            boundary
            for boundary in range(first + 1)
            if all(name in trip.values for name in self._segments.crossing(boundary))
        )
        self._here(trip, Span(begin, self._segments.count - 1))


class _Trip:
    """One image under way: the tensors that are here, and the names of those that are there."""

    def __init__(self, values: Dict[str, np.ndarray]) -> None:
        self.values = values
        self.there: Set[str] = set()
        self.steps: List[StepTime] = []
