"""The server: asyncio around framed, compact Thrift; the work is done in threads, off the event loop."""

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from signal import SIG_DFL, SIGINT, SIGTERM, signal
from typing import Any, Callable, List, NamedTuple, Optional, Set, Tuple

from .bundle import Bundle
from .errors import WireError
from .handler import Conversation, Statistics
from .service import RunnerFor, TailService, runner_from_onnx
from .wire import load_rpc
from .wire.addresses import listening_socket
from .wire.framing import (
    FRAME_LENGTH,
    REQUEST_CONTAINER_LENGTH,
    REQUEST_OVERHEAD_BYTES,
    compact_protocol,
    frame_from_message,
)

# How often the watcher looks for connections that are late.
WATCH_S = 0.1


class ServerLimits(NamedTuple):
    """What a client may ask of the server's memory and patience."""

    connections: int = 64
    image_bytes: int = 1 << 20  # the longest image file of a cloud-only request
    hello_s: float = 5.0  # from connecting to a complete hello
    idle_s: float = 300.0  # between two requests
    frame_s: float = 10.0  # from a request's first bytes to its last, and for the client to take the answer
    drain_s: float = 5.0  # for requests at work when the server is told to stop


class Server:
    """One listening socket, many connections, one TailService.

    ::

        socket --length, checked--> frame --> thread: Processor -> Conversation -> TailService
               <------------------- frame <-------------------------------------------'

    Every connection has a deadline for whatever is being waited for; one watcher ends those that are late, so
    that silent, slow and deaf clients cost one place for a bounded time and nothing else. Whatever goes wrong
    in a connection ends that connection only.

    Use it as `with server_from_fleet(...) as server: server.run()`: entering binds the address and loads the
    tails, so that what cannot work fails before anybody connects.
    """

    def __init__(
        self,
        service: TailService,
        host: str = "127.0.0.1",
        port: int = 9090,
        limits: Optional[ServerLimits] = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._rpc = load_rpc()
        self._service = service
        self._asked_address = (host, port)
        self._limits = limits if limits is not None else ServerLimits()
        self._say = say
        self._told_limits = self._rpc.types.Limits(
            frame_bytes=REQUEST_OVERHEAD_BYTES + max(service.largest_payload_bytes, self._limits.image_bytes),
            connections=self._limits.connections,
            idle_s=int(self._limits.idle_s),
        )
        self._statistics = Statistics()
        self._connections: Set[_Connection] = set()
        self._address: Optional[Tuple[str, int]] = None
        self._stop_asked = False
        self._stopping: Optional[asyncio.Event] = None

    def __enter__(self) -> "Server":
        with contextlib.ExitStack() as undo:
            self._socket = undo.enter_context(contextlib.closing(listening_socket(*self._asked_address)))
            undo.enter_context(self._service)
            self._loop = undo.enter_context(contextlib.closing(asyncio.new_event_loop()))
            self._open = undo.pop_all()
        host, port = self._socket.getsockname()[:2]
        self._address = (str(host), int(port))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._address = None
        self._open.close()

    @property
    def bundles(self) -> List[Bundle]:
        """The fleet, in the order of the bundles' numbers."""
        return self._service.bundles

    @property
    def address(self) -> Tuple[str, int]:
        """The host and port that clients connect to; the port is the real one where 0 was asked for."""
        if self._address is None:
            raise WireError("the server is not open; use it inside `with server:`")
        return self._address

    def run(self, until_signal: bool = False) -> None:
        """Serve until `stop`; with `until_signal` (main thread only) until SIGTERM or SIGINT as well.

        A second signal ends the process at once.
        """
        if self._address is None:
            raise WireError("the server is not open; use it inside `with server:`")
        self._loop.run_until_complete(self._serve(until_signal))

    def stop(self) -> None:
        """End `run`, from any thread: no new connections; requests at work are still answered."""
        self._stop_asked = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
            self._loop.call_soon_threadsafe(self._set_stopping)

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
        tasks: Set[Any] = set()
        # A thread for every client that may wait for a tail, so that a busy tail delays no hello and no ping.
        with ThreadPoolExecutor(self._limits.connections, thread_name_prefix="bottlekit-serve") as pool:

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.ensure_future(self._converse(pool, reader, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            listener = await asyncio.start_server(connected, sock=self._socket)
            watcher = asyncio.ensure_future(self._end_the_late())
            await self._stopping.wait()
            # asyncio forgets clients that it has accepted but not yet passed on when their listener closes: so
            # accept no more, let those few turns of the loop pass, and only then close.
            self._loop.remove_reader(self._socket)
            await asyncio.sleep(WATCH_S / 2)
            listener.close()
            await self._drain(tasks)
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _drain(self, tasks: Set[Any]) -> None:
        """Let requests at work be answered, end everything else, and wait for all conversations to be over."""
        for connection in list(self._connections):
            if not connection.working:
                connection.end("")
        if tasks:
            await asyncio.wait(list(tasks), timeout=self._limits.drain_s)
        for connection in list(self._connections):
            connection.end("the server stops")
        while tasks:
            await asyncio.wait(list(tasks))

    async def _end_the_late(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for connection in list(self._connections):
                if self._loop.time() > connection.deadline:
                    connection.end("no {} in time".format(connection.awaited))

    async def _converse(
        self, pool: ThreadPoolExecutor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection, from its first byte to its last."""
        connection = _Connection(writer)
        self._connections.add(connection)
        self._statistics.connections = len(self._connections)
        try:
            if len(self._connections) > self._limits.connections:
                raise WireError("{} clients are connected, that is the limit".format(self._limits.connections))
            await self._answer_frames(pool, reader, connection)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up, or was ended, which has its reason
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whatever a client sends harms nobody else
            connection.end("{}: {}".format(type(error).__name__, error))
        finally:
            self._connections.discard(connection)
            self._statistics.connections = len(self._connections)
            writer.close()
            if connection.ended_because:
                self._say("ended {}: {}".format(connection.peer, connection.ended_because))

    async def _answer_frames(
        self, pool: ThreadPoolExecutor, reader: asyncio.StreamReader, connection: "_Connection"
    ) -> None:
        conversation = Conversation(self._service, self._told_limits, self._statistics, self._say)
        processor = self._rpc.service.Processor(conversation)
        hello_deadline = self._loop.time() + self._limits.hello_s
        while not self._stop_asked:
            if conversation.greeted:
                connection.expect("request", self._loop.time() + self._limits.idle_s)
            else:
                connection.expect("hello", hello_deadline)
            (length,) = FRAME_LENGTH.unpack(await reader.readexactly(FRAME_LENGTH.size))
            if not 0 < length <= conversation.frame_bytes:
                raise WireError(
                    "a frame of {} bytes; the limit is {} here".format(length, conversation.frame_bytes)
                )
            if conversation.greeted:
                connection.expect("complete request", self._loop.time() + self._limits.frame_s)
            frame = await reader.readexactly(length)
            connection.work()
            self._statistics.in_flight += 1
            try:
                reply = await self._loop.run_in_executor(pool, self._reply, processor, frame)
            finally:
                self._statistics.in_flight -= 1
            connection.expect("taking of the answer", self._loop.time() + self._limits.frame_s)
            connection.writer.write(frame_from_message(reply))
            await connection.writer.drain()
            self._statistics.answered += 1
            connection.working = False

    def _reply(self, processor: Any, frame: bytes) -> bytes:
        """Answer one message; runs in a thread. Raises whatever Thrift makes of a malformed one."""
        from thrift.transport.TTransport import TMemoryBuffer

        request, reply = TMemoryBuffer(frame), TMemoryBuffer()
        processor.process(
            compact_protocol(request, len(frame), REQUEST_CONTAINER_LENGTH),
            compact_protocol(reply, len(frame), REQUEST_CONTAINER_LENGTH),
        )
        answer: bytes = reply.getvalue()
        return answer


class _Connection:
    """A client as the server sees it: who it is, what it is waited for, and until when."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        peer = writer.get_extra_info("peername")
        self.peer = "{}:{}".format(*peer[:2]) if peer else "a client that is gone"
        self.awaited = ""
        self.deadline = float("inf")
        self.working = False
        self.ended_because = ""
        with contextlib.suppress(OSError):  # the client is gone already, which the first read will tell
            # An answer is one small segment; asyncio sets this itself only where the socket names its protocol.
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def expect(self, what: str, deadline: float) -> None:
        """Wait for `what` until `deadline`, on the event loop's clock."""
        self.awaited = what
        self.deadline = deadline

    def work(self) -> None:
        """The server's turn: nothing is waited for until the answer is there."""
        self.working = True
        self.deadline = float("inf")

    def end(self, because: str) -> None:
        """Drop the connection now; whoever reads from it finds its end."""
        self.ended_because = self.ended_because or because
        self.writer.transport.abort()


def server_from_fleet(
    bundles: List[Bundle],
    host: str = "127.0.0.1",
    port: int = 9090,
    runner_for: Optional[RunnerFor] = None,
    limits: Optional[ServerLimits] = None,
    say: Callable[[str], None] = lambda line: None,
) -> Server:
    """A server for the tails of a fleet, not yet open.

    `runner_for(bundle, part)` gives the runner of a part; without it ONNX Runtime runs the bundles' own files.
    `say` gets one line for everything worth a log. Raises UsageError for a fleet that cannot be served.
    """
    service = TailService(bundles, runner_for if runner_for is not None else runner_from_onnx())
    return Server(service, host, port, limits, say)
