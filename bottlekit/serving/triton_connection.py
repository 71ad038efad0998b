"""One Triton server: a channel, what is known of it, and what became of the requests that it was sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from bottlekit.device.errors import error_from_words
from bottlekit.device.statistics import Latencies
from bottlekit.device.triton_model import ERROR_MARK
from bottlekit.errors import BottlekitError, DeadlineError, EngineError, ServerBusyError
from bottlekit.serving.kserve import method
from bottlekit.serving.triton_tls import TritonTls, why_not_connected

# How long it has to say whether it is well.
HEALTH_TIMEOUT_S = 5.0
# The longest that a request may take, also one without a deadline.
LONGEST_S = 60.0
NOT_ASKED = "not asked yet"
# What may become of a request: logits; a payload that cannot be decoded; its deadline passed; any other failure;
# no answer at all, whereupon another server is asked.
OUTCOMES = ("answered", "refused", "late", "failed", "lost")

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


class LostError(Exception):
    """The server did not answer, and another may."""


class TritonServer:
    """One server: a channel, and what is known of it. It belongs to the event loop.

    `models` are those of the wanted ones that it was ready to run when last asked; none while it is not well.
    """

    def __init__(self, address: str, tls: TritonTls | None = None) -> None:
        self.address = address
        self.well = False
        self.why = NOT_ASKED
        self.models: frozenset[str] = frozenset()
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.latencies = Latencies()
        self.turn = 0
        self._calls: set[Any] = set()
        self._given_up: set[Any] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._channel: Any = None
        self.ask_again = asyncio.Event()
        self.connect(tls)

    def connect(self, tls: TritonTls | None) -> None:
        """A channel with these certificates; one that there was is closed when its requests are answered."""
        import grpc.aio

        if self._channel is not None:
            closing = asyncio.ensure_future(self._channel.close(LONGEST_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL)
        else:
            self._channel = grpc.aio.secure_channel(self.address, tls.credentials(), options=_CHANNEL)
        self._infer = method("ModelInfer").on(self._channel)
        self._server_ready = method("ServerReady").on(self._channel)
        self._model_ready = method("ModelReady").on(self._channel)
        self._tls = tls

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
            self.give_up(why_not_connected(_words(error), self._tls))
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
        """Its ModelInferResponse. Raises LostError, and what `_error` makes of its refusals."""
        import grpc.aio

        began = asyncio.get_running_loop().time()
        call = self._infer(request, timeout=timeout_s)
        self._calls.add(call)
        try:
            response = await call
        except asyncio.CancelledError:
            if call in self._given_up:
                self.outcomes["lost"] += 1
                raise LostError(self.why) from None
            raise
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                self.outcomes["lost"] += 1
                self.models = frozenset()  # until it was asked again
                self.ask_again.set()
                raise LostError(_words(error)) from error
            raised, outcome = _error(error, self.address)
            self.outcomes[outcome] += 1
            raise raised from error
        finally:
            self._calls.discard(call)
            self._given_up.discard(call)
        self.outcomes["answered"] += 1
        self.latencies.count((asyncio.get_running_loop().time() - began) * 1e3)
        return response

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


def _words(error: Any) -> str:
    """What a failed call tells, on one line."""
    return " ".join(f"{error.code().name}: {error.details() or ''}".split())[:300]


def _error(error: Any, address: str) -> tuple[BottlekitError, str]:
    """(the error of a call that Triton refused, or did not finish; which of OUTCOMES that is)."""
    import grpc

    decoders = _DECODERS_ERROR.search(error.details() or "")
    if decoders:
        return error_from_words(decoders[1], decoders[2]), "refused"
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError("the request's deadline passed while Triton worked on it"), "late"
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusyError(f"Triton at {address} is at a limit of its own"), "failed"
    return EngineError(f"Triton at {address} failed: {_words(error)}"), "failed"
