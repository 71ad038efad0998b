"""The front end that forwards: bottlekit's wire for the devices, Triton servers for the work."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.device.journal import Journal
from bottlekit.device.lanes import Lanes
from bottlekit.device.pages import Answer
from bottlekit.device.server import Server
from bottlekit.device.service import TAIL, Served, TailService
from bottlekit.device.triton_model import IMAGE_FILE, LOGITS, PAYLOAD
from bottlekit.errors import DeadlineError, EngineError, PayloadError, ServerBusyError, UsageError
from bottlekit.serving.kserve import floats_from_response, infer_request
from bottlekit.serving.triton_pool import TritonPool
from bottlekit.serving.triton_repository import ensemble_name, whole_name

if TYPE_CHECKING:
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.limits import ServerLimits
    from bottlekit.device.runners import Runner
    from bottlekit.device.statistics import Statistics
    from bottlekit.serving.triton_connection import TritonServer

# How long a reload waits for what the Triton servers say of the new fleet.
_ASK_S = 30.0


class ForwardedTails(TailService):
    """A fleet whose tails run elsewhere: nothing is loaded."""

    def __init__(self, bundles: list[Bundle]) -> None:
        super().__init__(bundles, _no_runner)

    def __enter__(self) -> ForwardedTails:
        return self

    def batch_limit(self, part: str, number: int) -> int:
        """Triton makes the batches."""
        return 1


class ForwardedLanes(Lanes):
    """One generation of a fleet, computed by a pool of Triton servers.

    ::

        run(...) --> ModelInfer of the bundle's ensemble --> logits, checked: this request's, of this bundle's shape

    No more than `queue` requests are on their way at once: ServerBusyError. Triton batches them. The time that a
    request took there, waiting included, is told as the tail's.
    """

    def __init__(
        self, service: TailService, limits: ServerLimits, statistics: Statistics, loop: Any, tritons: TritonPool
    ) -> None:
        super().__init__(service, limits, statistics, loop)
        self._tritons = tritons
        self._numbers = itertools.count(1)
        tritons.want(self, models_of(service.bundles))

    async def run(self, part: str, number: int, data: bytes, arrived: float, deadline: float) -> tuple[Served, int]:
        """(logits and times, microseconds of waiting here). Raises as Lanes does, and as the pool."""
        bundle = self.service.bundle(number)
        if self.statistics.queued >= self.limits.queue:
            raise ServerBusyError(f"{self.statistics.queued} requests wait for Triton, that is the limit")
        model, tensor = (ensemble_name(bundle), PAYLOAD) if part == TAIL else (whole_name(bundle), IMAGE_FILE)
        if part == TAIL and len(data) > bundle.codec.max_payload_bytes:
            raise PayloadError(f"a payload of {bundle.name} has at most {bundle.codec.max_payload_bytes} bytes")
        request = infer_request(model, tensor, [data], bundle.dynamic_batch, str(next(self._numbers)))
        began = self.loop.time()
        self.count_queued(1)
        try:
            response = await self._tritons.infer(request, deadline)
        finally:
            self.count_queued(-1)
        logits = floats_from_response(response, request, LOGITS, (1, len(bundle.classes)))[0]
        ended = self.loop.time()
        if ended > deadline:
            raise DeadlineError("the request's deadline passed while Triton worked on it")
        served = Served(logits, 0, round((ended - began) * 1e6), 1)
        self.statistics.count_batch(self.split(part, number), 1, served.tail_us)
        return served, max(0, round((began - arrived) * 1e6))

    def check(self) -> None:
        """Raise ServerBusyError if no Triton server runs any of the fleet's tails now."""
        tails = [ensemble_name(bundle) for bundle in self.service.bundles]
        if len(self._tritons.lacking(tails)) == len(tails):
            raise ServerBusyError("no Triton server is well now; ask again later")

    def drop_the_late(self) -> None:
        """Deadlines travel with the requests."""

    def close(self) -> None:
        """Nobody asks for this generation any more."""
        self._tritons.forget(self)
        super().close()


class ForwardingServer(Server):
    """A Server whose tails are Triton's: same wire, same limits, same security; `pool` is where the work goes.

    It starts without a single Triton, and answers BUSY until there is one. A reload, though, is refused unless
    every tail of the new fleet is there somewhere: the repository comes first, the front end second.
    """

    def __init__(
        self,
        bundles: list[Bundle],
        addresses: list[str],
        journal: Journal,
        tls_folder: Path | None = None,
        **options: Any,
    ) -> None:
        """`tls_folder` holds the certificates for the way to Triton, which a reload reads again."""
        require_grpc()
        self.pool = TritonPool(addresses, journal, tls_folder)
        super().__init__(bundles, _no_runner, journal=journal, **options)

    def tritons(self) -> list[TritonServer]:
        """The Triton servers; none before it runs."""
        return self.pool.servers

    def _new_service(self, bundles: list[Bundle]) -> TailService:
        return ForwardedTails(bundles)

    def _new_lanes(self, service: TailService) -> Lanes:
        return ForwardedLanes(service, self._limits, self.statistics, self._loop, self.pool)

    async def _serve(self, until_signal: bool) -> None:
        async with self.pool:
            await super()._serve(until_signal)

    def _read_again(self) -> Any:
        access, service = super()._read_again()
        before = self.pool.tls
        self._on_the_loop(self.pool.renew(self.pool.read_tls()))
        try:
            self._check_there_is(service)
        except Exception:
            self._on_the_loop(self.pool.renew(before))
            raise
        return access, service

    def _check_there_is(self, service: TailService) -> None:
        """Raise EngineError unless every tail is at some Triton server now."""
        models = models_of(service.bundles)
        self.pool.want(service, models)
        try:
            self._on_the_loop(self.pool.check())
        finally:
            self.pool.forget(service)
        lacking = [name for name in self.pool.lacking(models) if not name.endswith("-whole")]
        if lacking:
            raise EngineError(
                f"no Triton server has {', '.join(lacking)}; give them the repository of the new fleet first: "
                "bottlekit export-triton"
            )

    def _on_the_loop(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_ASK_S)


def models_of(bundles: list[Bundle]) -> list[str]:
    """All models that a fleet's requests are sent to."""
    return [name(bundle) for bundle in bundles for name in (ensemble_name, whole_name)]


def ready_page(server: ForwardingServer) -> Callable[[], Answer]:
    """The page /ready: 200 if some Triton runs some tail, else 503; and what is known of each, as JSON."""

    def page() -> Answer:
        tails = [ensemble_name(bundle) for bundle in server.bundles]
        lacking = server.pool.lacking(tails)
        ready = len(lacking) < len(tails) and not server.statistics.stopping
        body = {"ready": ready, "lacking": lacking, "tritons": server.pool.status()}
        return Answer(200 if ready else 503, "application/json", json.dumps(body).encode("utf-8"))

    return page


def status_page(server: ForwardingServer) -> Callable[[], Answer]:
    """The page /status of such a server: what is known of the Triton servers too."""

    def page() -> Answer:
        body = {**server.statistics.snapshot(), "tritons": server.pool.status()}
        return Answer(200, "application/json", json.dumps(body, sort_keys=True).encode("utf-8"))

    return page


def require_grpc() -> None:
    """UsageError, with what to type, where grpcio or protobuf is not installed."""
    # grpc writes of every failed handshake on standard error; the journal says it once, and better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import google.protobuf  # noqa: F401
        import grpc.aio  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--triton needs grpcio ({error}); type: pip install 'bottlekit[triton]'") from error


def _no_runner(bundle: Bundle, part: str) -> Runner:
    raise EngineError(f"{part} of {bundle.name} runs on Triton, not here")
