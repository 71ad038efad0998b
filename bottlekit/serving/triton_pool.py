"""Many Triton servers as one: who of them is well, who has least to do, and what to do when one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bottlekit.device.errors import error_from_words
from bottlekit.device.triton_model import ERROR_MARK
from bottlekit.device.wire.addresses import address_from_text
from bottlekit.errors import BottlekitError, DeadlineError, EngineError, ServerBusyError, UsageError
from bottlekit.serving.kserve import method

if TYPE_CHECKING:
    from bottlekit.device.journal import Journal

# How often each server is asked whether it is well, and how long it has to say so.
HEALTH_S = 1.0
HEALTH_TIMEOUT_S = 5.0
# The longest that a request without a deadline may take.
LONGEST_S = 60.0

_NOT_ASKED = "not asked yet"
_DECODERS_ERROR = re.compile(re.escape(ERROR_MARK) + r"(\w+): (.*)", re.DOTALL)
_CHANNEL = (
    # A name may stand for several addresses, as a headless service of Kubernetes does.
    ("grpc.lb_policy_name", "round_robin"),
    # A server that comes back is asked again soon; grpc's own patience grows to minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 200),
    # The way to a Triton is the operator's own; a proxy for the web has nothing to do with it.
    ("grpc.enable_http_proxy", 0),
)


class _LostError(Exception):
    """The server did not answer, and another may."""


def addresses_from_text(text: str) -> list[str]:
    """The HOST:PORT of each of grpc://HOST:PORT[,grpc://HOST:PORT...]; UsageError for anything else."""
    found = []
    for one in text.split(","):
        scheme, mark, rest = one.strip().partition("://")
        if not mark or scheme != "grpc":
            raise UsageError(f"--triton must be grpc://HOST:PORT, several with commas between, not '{text}'")
        host, port = address_from_text(rest, "--triton")
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if address in found:
            raise UsageError(f"--triton names {address} twice")
        found.append(address)
    return found


class TritonServer:
    """One server: a channel, and what is known of it. It belongs to the event loop.

    `models` are those of the wanted ones that it was ready to run when last asked; none while it is not well.
    """

    def __init__(self, address: str) -> None:
        import grpc.aio

        self.address = address
        self.well = False
        self.why = _NOT_ASKED
        self.models: frozenset[str] = frozenset()
        self.answered = 0
        self.lost = 0
        self.turn = 0
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
        self._infer = method("ModelInfer").on(self._channel)
        self._server_ready = method("ServerReady").on(self._channel)
        self._model_ready = method("ModelReady").on(self._channel)
        self._calls: set[Any] = set()
        self._given_up: set[Any] = set()
        self.ask_again = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that wait for its answer."""
        return len(self._calls)

    async def check(self, wanted: Iterable[str]) -> None:
        """Ask it whether it is well, and which of the wanted models it would run."""
        import grpc.aio

        try:
            ready = await self._server_ready(method("ServerReady").request(), timeout=HEALTH_TIMEOUT_S)
            if not ready.ready:
                self.give_up("it says that it is not ready")
                return
            models = [name for name in wanted if await self._is_ready(name)]
        except grpc.aio.AioRpcError as error:
            self.give_up(_words(error))
            return
        self.well, self.why, self.models = True, "", frozenset(models)

    async def _is_ready(self, model: str) -> bool:
        import grpc.aio

        request = method("ModelReady").request(name=model)
        try:
            return bool((await self._model_ready(request, timeout=HEALTH_TIMEOUT_S)).ready)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                return False
            raise

    def give_up(self, why: str) -> None:
        """It is not well: nobody is sent to it, and those who wait for it try elsewhere."""
        self.well, self.why, self.models = False, why, frozenset()
        for call in list(self._calls):
            self._given_up.add(call)
            call.cancel()

    async def infer(self, request: Any, timeout_s: float) -> Any:
        """Its ModelInferResponse. Raises _LostError, and what `_error` makes of its refusals."""
        import grpc.aio

        call = self._infer(request, timeout=timeout_s)
        self._calls.add(call)
        try:
            response = await call
        except asyncio.CancelledError:
            if call in self._given_up:
                raise _LostError(self.why) from None
            raise
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                self.lost += 1
                self.models = frozenset()  # until it was asked again
                self.ask_again.set()
                raise _LostError(_words(error)) from error
            raise _error(error, self.address) from error
        finally:
            self._calls.discard(call)
            self._given_up.discard(call)
        self.answered += 1
        return response

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


class TritonPool:
    """Sends each request to the least busy of the servers that are well, and to another if that one is lost.

    ::

        infer --least busy of those that run the model--> TritonServer --lost--> the next one
                                                                       --none left--> ServerBusyError

    Inference changes nothing, so that asking twice does no harm. Every server is asked once a second whether it is
    well; one that was lost comes back by that. All methods belong to the event loop, inside `async with`.
    """

    def __init__(self, addresses: list[str], journal: Journal) -> None:
        self._addresses = addresses
        self._journal = journal
        # By generation of the fleet: the models it needs.
        self._wanted: dict[object, tuple[str, ...]] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self.servers: list[TritonServer] = []
        self._turn = 0

    async def __aenter__(self) -> TritonPool:
        self.servers = [TritonServer(address) for address in self._addresses]
        await self.check()
        self._watchers = [asyncio.ensure_future(self._watch(server)) for server in self.servers]
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for server in self.servers:
            await server.close()

    def want(self, generation: object, models: Iterable[str]) -> None:
        """From now on servers are asked for these models too; from any thread."""
        self._wanted[generation] = tuple(models)

    def forget(self, generation: object) -> None:
        """Its models are no longer needed; from any thread."""
        self._wanted.pop(generation, None)

    async def check(self) -> None:
        """Ask all servers now."""
        await asyncio.gather(*(self._ask(server) for server in self.servers))

    def lacking(self, models: Iterable[str]) -> list[str]:
        """Those of the models that no server runs now."""
        return [model for model in models if not any(model in server.models for server in self.servers)]

    async def infer(self, request: Any, deadline: float) -> Any:
        """The ModelInferResponse of some server; `deadline` is the event loop's time.

        Raises ServerBusyError when no server runs the model now, DeadlineError, and what the model refuses with.
        """
        loop = asyncio.get_running_loop()
        deadline = min(deadline, loop.time() + LONGEST_S)
        tried: set[str] = set()
        while True:
            server = self._choose(request.model_name, tried)
            if server is None:
                # Which servers there are, and what ails them, is told in the log and to nobody else.
                raise ServerBusyError("no Triton server can compute this now; ask again later")
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise DeadlineError("the request's deadline passed before a Triton server had answered")
            tried.add(server.address)
            with contextlib.suppress(_LostError):
                return await server.infer(request, left_s)

    def status(self) -> list[dict[str, Any]]:
        """What is known of each server, as JSON can hold it."""
        return [
            {
                "address": server.address,
                "well": server.well,
                "why": server.why,
                "models": len(server.models),
                "in_flight": server.in_flight,
                "answered": server.answered,
                "lost": server.lost,
            }
            for server in self.servers
        ]

    def _choose(self, model: str, tried: set[str]) -> TritonServer | None:
        fit = [one for one in self.servers if model in one.models and one.address not in tried]
        if not fit:
            return None
        server = min(fit, key=lambda one: (one.in_flight, one.turn))
        self._turn += 1
        server.turn = self._turn  # of equally busy ones, the one whose turn is longest ago
        return server

    async def _watch(self, server: TritonServer) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(server.ask_again.wait(), HEALTH_S)
                await asyncio.sleep(HEALTH_S / 10)  # one that fails every request is not asked without end
            server.ask_again.clear()
            await self._ask(server)

    async def _ask(self, server: TritonServer) -> None:
        was_well, first, had = server.well, server.why == _NOT_ASKED, server.models
        wanted = {model for models in list(self._wanted.values()) for model in models}
        await server.check(sorted(wanted))
        missing = sorted(wanted - server.models)
        if server.well and (not was_well or had != server.models):
            words = f"Triton at {server.address} is well"
            words += f", but has not {', '.join(missing)}" if missing else ""
            self._journal.write("triton-well", words, triton=server.address)
        elif (was_well or first) and not server.well:
            what = "is not there yet" if first else "is lost"
            self._journal.write(
                "triton-lost", f"Triton at {server.address} {what}: {server.why}", triton=server.address
            )


def _words(error: Any) -> str:
    """What a failed call tells, on one line."""
    return " ".join(f"{error.code().name}: {error.details() or ''}".split())[:300]


def _error(error: Any, address: str) -> BottlekitError:
    """The error of a call that Triton refused, or did not finish."""
    import grpc

    decoders = _DECODERS_ERROR.search(error.details() or "")
    if decoders:
        return error_from_words(decoders[1], decoders[2])
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError("the request's deadline passed while Triton worked on it")
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusyError(f"Triton at {address} is at a limit of its own")
    return EngineError(f"Triton at {address} failed: {_words(error)}")
