"""Many Triton servers as one: who of them is well, who has least to do, and what to do when one is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.device.wire.addresses import address_from_text
from bottlekit.errors import DeadlineError, ServerBusyError, UsageError
from bottlekit.serving.triton_connection import LONGEST_S, NOT_ASKED, LostError, TritonServer
from bottlekit.serving.triton_tls import TritonTls, tls_from_folder

if TYPE_CHECKING:
    from bottlekit.device.journal import Journal

# How often each server is asked whether it is well.
HEALTH_S = 1.0
_SCHEMES = {"grpc": False, "grpcs": True}


def addresses_from_text(text: str) -> tuple[list[str], bool]:
    """(HOST:PORT of each in grpc://HOST:PORT[,grpc://HOST:PORT...], whether they say grpcs). Raises UsageError."""
    found: list[str] = []
    schemes = set()
    for one in text.split(","):
        scheme, mark, rest = one.strip().partition("://")
        if not mark or scheme not in _SCHEMES:
            raise UsageError(
                f"--triton must be grpc://HOST:PORT (grpcs:// with TLS), several with commas between, not '{text}'"
            )
        host, port = address_from_text(rest, "--triton")
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if address in found:
            raise UsageError(f"--triton names {address} twice")
        found.append(address)
        schemes.add(scheme)
    if len(schemes) > 1:
        raise UsageError("--triton has grpc:// and grpcs://; with TLS all of them must be grpcs://")
    return found, _SCHEMES[schemes.pop()]


class TritonPool:
    """Sends each request to the least busy of the servers that are well, and to another if that one is lost.

    ::

        infer --least busy of those that run the model--> TritonServer --lost--> the next one
                                                                       --none left--> ServerBusyError

    Inference changes nothing, so that asking twice does no harm. Every server is asked once a second whether it is
    well; one that was lost comes back by that. All methods belong to the event loop, inside `async with`.
    """

    def __init__(self, addresses: list[str], journal: Journal, tls_folder: Path | None = None) -> None:
        """`tls_folder` is what `tls_from_folder` reads; None for connections that are not encrypted."""
        self._addresses = addresses
        self._journal = journal
        self._tls_folder = tls_folder
        self.tls = self.read_tls()
        # By generation of the fleet: the models it needs.
        self._wanted: dict[object, tuple[str, ...]] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self.servers: list[TritonServer] = []
        self._turn = 0

    async def __aenter__(self) -> TritonPool:
        self.servers = [TritonServer(address, self.tls) for address in self._addresses]
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

    def read_tls(self) -> TritonTls | None:
        """The certificates as they are now; from any thread. Raises UsageError."""
        return None if self._tls_folder is None else tls_from_folder(self._tls_folder)

    async def renew(self, tls: TritonTls | None) -> None:
        """Connect with other certificates, if they are others; requests at work are finished with the old ones."""
        if tls != self.tls:
            self.tls = tls
            for server in self.servers:
                server.connect(tls)
            await self.check()

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
            with contextlib.suppress(LostError):
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
                **server.outcomes,
                "latency_ms": round(server.latencies.total_ms, 3),
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
        was_well, first, had = server.well, server.why == NOT_ASKED, server.models
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
