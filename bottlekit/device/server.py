"""The server: asyncio around framed, compact Thrift; decoding and tails run in threads, off the event loop."""

import asyncio
import contextlib
import sys
from signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, signal
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from .access import Access, check_may_listen
from .bundle import Bundle
from .connection import Connection, converse
from .errors import BottlekitError, UsageError, WireError
from .handler import House
from .journal import Journal, Note
from .lanes import Lanes
from .limits import Rates, ServerLimits
from .pages import Page, Pages
from .service import RunnerFor, TailService, runner_from_onnx
from .statistics import Statistics
from .wire import load_rpc
from .wire.addresses import listening_socket

__all__ = ["Server", "ServerLimits", "server_from_fleet"]

# How often the watcher looks for connections and requests that are late.
WATCH_S = 0.1
# Connections beside those that said hello: in TLS, about to say it, about to be told that all places are taken.
_AT_THE_DOOR = 64
# After this many connections in a row the event loop does something else first.
_ACCEPT_AT_ONCE = 64


class Server:
    """One listening socket, many connections, one generation of a fleet after the other.

    ::

        socket --TLS--> length, checked --> frame --> Conversation --> Lanes --> thread: decode, tail
               <------------------------ frame <-------------------------------------------'

    Every connection has a deadline for whatever is being waited for; one watcher ends those that are late, so
    that silent, slow and deaf clients cost one place for a bounded time and nothing else. Whatever goes wrong
    in a connection ends that connection only.

    `statistics` are its counters; to `pages` more can be added before it is entered, if it has an HTTP address.

    Use it as `with server_from_fleet(...) as server: server.run()`: entering binds the address and loads the
    tails, so that what cannot work fails before anybody connects.
    """

    def __init__(
        self,
        bundles: List[Bundle],
        runner_for: RunnerFor,
        host: str = "127.0.0.1",
        port: int = 9090,
        limits: Optional[ServerLimits] = None,
        journal: Optional[Journal] = None,
        access: Optional[Access] = None,
        insecure: bool = False,
        fleet: Optional[Callable[[], List[Bundle]]] = None,
        http: Optional[Tuple[str, int]] = None,
    ) -> None:
        load_rpc()
        self._fleet = fleet if fleet is not None else lambda: bundles
        self._runner_for = runner_for
        self._asked_address = (host, port)
        self._limits = limits if limits is not None else ServerLimits()
        self._journal = journal if journal is not None else Journal()
        self._access = access if access is not None else Access()
        self._insecure = insecure
        self._http = http
        self.pages: Dict[str, Page] = {}
        if self._access.context is not None and sys.version_info < (3, 7):
            raise UsageError("a server with --tls needs Python 3.7 or later; clients do not")
        self.statistics = Statistics()
        self._service = self._new_service(bundles)
        self._connections: Set[Connection] = set()
        self._address: Optional[Tuple[str, int]] = None
        self._http_pages: Optional[Pages] = None
        self._stop_asked = False
        self._stopping: Optional[asyncio.Event] = None
        self._reloading: Any = None
        self._reload_again = False

    def __enter__(self) -> "Server":
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(contextlib.closing(listening_socket(*self._asked_address)))
            host, port = self._socket.getsockname()[:2]
            check_may_listen(host, self._access, self._insecure)
            self._socket.setblocking(False)
            self._loop = undo.enter_context(contextlib.closing(asyncio.new_event_loop()))
            if self._http is not None:
                self._http_pages = undo.enter_context(Pages(self._http, self.statistics, self.pages))
                check_may_listen(self._http_pages.address[0], Access(), self._insecure, "--http")
            self._service.__enter__()
            lanes = self._new_lanes(self._service)
            self._house = House(self._limits, self._access, self._journal, self._loop, lanes)
            undo.callback(self._house.close)
            self._open = undo.pop_all()
        self._connects = Rates(self._limits.connects_per_s, self._limits.burst_s, self._loop.time)
        self._address = (str(host), int(port))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._address = None
        self._open.close()

    @property
    def bundles(self) -> List[Bundle]:
        """The fleet that new clients are offered, in the order of the bundles' numbers."""
        return self._service.bundles

    @property
    def address(self) -> Tuple[str, int]:
        """The host and port that clients connect to; the port is the real one where 0 was asked for."""
        if self._address is None:
            raise WireError("the server is not open; use it inside `with server:`")
        return self._address

    @property
    def http_address(self) -> Optional[Tuple[str, int]]:
        """Where health, status and metrics are; None if nowhere."""
        return self._http_pages.address if self._http_pages is not None else None

    def run(self, until_signal: bool = False) -> None:
        """Serve until `stop`; with `until_signal` (main thread only) until SIGTERM or SIGINT as well.

        A second signal ends the process at once. SIGHUP is `reload`.
        """
        if self._address is None:
            raise WireError("the server is not open; use it inside `with server:`")
        self._loop.run_until_complete(self._serve(until_signal))

    def stop(self) -> None:
        """End `run`, from any thread: no new connections; requests at work are still answered."""
        self._stop_asked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
            self._loop.call_soon_threadsafe(self._set_stopping)

    def reload(self) -> None:
        """Read the fleet, the certificates and the tokens again, from any thread; returns before that is done.

        New connections get the new fleet; those that exist keep theirs, so that no request is dropped. If
        anything cannot be read or run, everything stays as it was, and the journal says why.
        """
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin_reload)

    def _new_service(self, bundles: List[Bundle]) -> TailService:
        return TailService(bundles, self._runner_for, self._limits.max_batch)

    def _new_lanes(self, service: TailService) -> Lanes:
        return Lanes(service, self._limits, self.statistics, self._loop)

    def _stop_by_signal(self) -> None:
        # A tail may hang: the second signal ends the process as if the first had never been waited for.
        for number in (SIGTERM, SIGINT):
            self._loop.remove_signal_handler(number)
            signal(number, SIG_DFL)
        self.stop()

    def _set_stopping(self) -> None:
        if self._stopping is not None:
            self._stopping.set()

    async def _serve(self, until_signal: bool) -> None:
        self._stopping = asyncio.Event()
        if self._stop_asked:
            self._stopping.set()
        if until_signal:
            for number in (SIGTERM, SIGINT):
                self._loop.add_signal_handler(number, self._stop_by_signal)
            self._loop.add_signal_handler(SIGHUP, self._begin_reload)
        if self._http_pages is not None:
            await self._http_pages.open()
        self._loop.add_reader(self._socket, self._accept)
        watcher = asyncio.ensure_future(self._end_the_late())
        await self._stopping.wait()
        self._loop.remove_reader(self._socket)
        self._socket.close()  # whoever connects from now on is told so at once
        self.statistics.stopping = True
        await self._drain()
        if self._reloading is not None:
            await asyncio.wait([self._reloading])
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        if self._http_pages is not None:
            await self._http_pages.close()

    def _accept(self) -> None:
        """Take those who wait to be connected; runs whenever there are any."""
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:  # no file descriptors are left, for one
                self._journal.write("failed", "cannot accept connections now: {}".format(error.strerror))
                self._loop.remove_reader(self._socket)
                self._loop.call_later(WATCH_S, self._accept_again)
                return
            self.statistics.accepted += 1
            if not self._connects.take(str(address[0])) or not self._make_room():
                accepted.close()
                continue
            connection = Connection(accepted, address)
            self._connections.add(connection)
            self.statistics.connections = len(self._connections)
            connection.task = asyncio.ensure_future(converse(connection, self._house))
            connection.task.add_done_callback(lambda task, ended=connection: self._forget(ended))

    def _accept_again(self) -> None:
        if self._stopping is not None and not self._stopping.is_set():
            self._loop.add_reader(self._socket, self._accept)

    def _make_room(self) -> bool:
        """Whether one more connection may come in; the one that is longest without a hello makes room for it."""
        if len(self._connections) < self._limits.connections + _AT_THE_DOOR:
            return True
        silent = [one for one in self._connections if not one.greeted and not one.ended_because]
        if silent:
            min(silent, key=lambda one: one.counters.since).end("others wanted its place before it said hello")
        return bool(silent)

    async def _drain(self) -> None:
        """Let requests at work be answered, end everything else, and wait for all conversations to be over."""
        for connection in self._connections:
            if not connection.working:
                connection.end("")
        if self._connections:
            await asyncio.wait([one.task for one in self._connections], timeout=self._limits.drain_s)
        for connection in self._connections:
            connection.end("the server stops")
        while self._connections:
            await asyncio.wait([one.task for one in self._connections])

    async def _end_the_late(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._loop.time()
            for connection in self._connections:
                if now > connection.deadline:
                    connection.end("no {} in time".format(connection.awaited))
            self._house.drop_the_late()

    def _forget(self, connection: Connection) -> None:
        """Whatever became of its task, which may have been cancelled before its first line."""
        connection.release()
        self._connections.discard(connection)
        self.statistics.connections = len(self._connections)

    def _begin_reload(self) -> None:
        if self._reloading is not None or self._stop_asked:
            self._reload_again = True
            return
        self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        try:
            access, service = await self._loop.run_in_executor(self._house.threads, self._read_again)
        except Exception as error:  # whatever it is, what is served now is still good
            kind = "" if isinstance(error, (BottlekitError, OSError)) else type(error).__name__ + ": "
            words = "reload failed, everything stays as it was: {}{}".format(kind, error)
            self._journal.write("reload-failed", words)
        else:
            changed = access.revoked != self._house.access.revoked
            self._house.access = access
            self._service = service
            self._house.renew(self._new_lanes(service))
            names = ", ".join(bundle.name for bundle in service.bundles)
            self._journal.write("reloaded", "reloaded, serving {}".format(names), bundles=names)
            if changed:
                self._ask_for_certificates_again()
        self._reloading = None
        if self._reload_again:
            self._reload_again = False
            self._begin_reload()

    def _read_again(self) -> Tuple[Access, TailService]:
        """Everything that a reload reads; in a thread, because loading tails takes long."""
        access = self._house.access.again()
        return access, self._new_service(self._fleet()).__enter__()

    def _ask_for_certificates_again(self) -> None:
        """Other certificates were revoked: everybody connects again, and those among them do not get in."""
        for connection in self._connections:
            connection.must_renew = True
            if not connection.working:
                connection.end("certificates were revoked, it must connect again")


def server_from_fleet(
    bundles: List[Bundle],
    host: str = "127.0.0.1",
    port: int = 9090,
    runner_for: Optional[RunnerFor] = None,
    limits: Optional[ServerLimits] = None,
    say: Callable[[str], None] = lambda line: None,
    note: Note = lambda fields: None,
    access: Optional[Access] = None,
    insecure: bool = False,
    fleet: Optional[Callable[[], List[Bundle]]] = None,
    http: Optional[Tuple[str, int]] = None,
) -> Server:
    """A server for the tails of a fleet, not yet open.

    `runner_for(bundle, part)` gives the runner of a part; without it ONNX Runtime runs the bundles' own files.
    `say` gets one line for everything worth a log, `note` the same and more as a flat object. `access` says who
    may use it; without it anybody may, and `host` must be this machine's own unless `insecure`. `fleet` reads
    the bundles again for `reload`. `http` is where `/health`, `/status` and the server's `pages` are.
    Raises UsageError for a fleet that cannot be served.
    """
    return Server(
        bundles,
        runner_for if runner_for is not None else runner_from_onnx(),
        host,
        port,
        limits,
        Journal(say, note),
        access,
        insecure,
        fleet,
        http,
    )
