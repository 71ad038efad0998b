"""The server of segments: one thread a connection, because each has a device waiting for its answer."""

import contextlib
import select
import socket
import ssl
import threading
from signal import SIGINT, SIGTERM, signal
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from ... import __version__
from ..access import Access, check_may_listen
from ..errors import PayloadError, ServerBusyError, WireError
from ..wire.addresses import listening_socket
from ..wire.layers import layers_refused_from_error, load_layers_rpc
from ..wire.refusals import foreign_words
from .arrays import arrays_from_wire, wire_from_arrays
from .messages import Call, call_from_frame, frame_from_answer, frame_from_unknown, received_frame
from .source import Span
from .work import Work

# The longest hello: a few spans and settings. Nobody who has not said hello may send more.
HELLO_BYTES = 1 << 16

WorkFor = Callable[[str, List[Span], Dict[str, str]], Work]


class SegmentLimits(NamedTuple):
    """Of a connection: the largest frame, and how long is waited for a hello, a request, the rest of one."""

    connections: int = 16
    frame_bytes: int = 64 << 20
    hello_s: float = 10.0
    idle_s: float = 300.0
    frame_s: float = 60.0


class SegmentServer:
    """One listening socket, and a Work for each connection that says hello.

    ::

        socket --> length, checked --> frame --> call --> Work.run --> arrays --> frame

    Whatever goes wrong in a connection ends that connection only. `codec` in the settings of a hello names the
    codec of the answers. `access`: with its certificates, clients must have one of the same CA.
    Use it as `with SegmentServer(...) as server: server.run()`.
    """

    def __init__(
        self,
        work_for: WorkFor,
        host: str = "127.0.0.1",
        port: int = 9091,
        limits: Optional[SegmentLimits] = None,
        say: Callable[[str], None] = lambda line: None,
        access: Optional[Access] = None,
        insecure: bool = False,
    ) -> None:
        load_layers_rpc()
        self._work_for = work_for
        self._asked = (host, port)
        self._limits = limits if limits is not None else SegmentLimits()
        self._say = say
        self._access = access if access is not None else Access()
        self._insecure = insecure
        self._stopping = threading.Event()
        # A byte through it ends the wait for connections; a signal handler may write one.
        self._wake: Tuple[socket.socket, ...] = ()
        self._threads: Set[threading.Thread] = set()
        self._connected: Set[socket.socket] = set()
        self._lock = threading.Lock()
        self.address = ("", 0)

    def __enter__(self) -> "SegmentServer":
        self._socket = listening_socket(*self._asked)
        try:
            host, port = self._socket.getsockname()[:2]
            check_may_listen(str(host), self._access, self._insecure)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(0.0)
        self._wake = socket.socketpair()
        self.address = (str(host), int(port))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()
        with self._lock:
            for connected in self._connected:
                # The thread that reads from it finds the end of the stream, and closes.
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for one in self._wake:
            one.close()

    def run(self, until_signal: bool = False) -> None:
        """Serve until `stop`; with `until_signal` (main thread only) until SIGTERM or SIGINT as well."""
        if until_signal:
            for number in (SIGTERM, SIGINT):
                signal(number, lambda *_: self.stop())
        while not self._stopping.is_set():
            select.select([self._socket, self._wake[0]], [], [])
            try:
                connected, address = self._socket.accept()
            except OSError:
                continue  # woken up, or gone before it was let in
            peer = "{}:{}".format(*address[:2])
            thread = threading.Thread(target=self._converse, args=(connected, peer), daemon=True)
            with self._lock:
                self._connected.add(connected)
                self._threads.add(thread)
            thread.start()

    def stop(self) -> None:
        """End `run`, from any thread or signal handler."""
        self._stopping.set()
        with contextlib.suppress(OSError):  # closed: there is nothing left to stop
            self._wake[1].send(b"x")

    def _converse(self, connected: socket.socket, peer: str) -> None:
        conversation = _Conversation(self._work_for, self._limits, self._full)
        reason = ""
        accepted = connected
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._access.context is not None:
                connected.settimeout(self._limits.hello_s)
                connected = self._access.context.wrap_socket(connected, server_side=True)
            self._answer_frames(connected, conversation)
        except ssl.SSLError as error:
            reason = "no TLS: {}".format(error)
        except socket.timeout:
            reason = "silent or slow for too long"
        except OSError:
            pass  # it hung up
        except Exception as error:  # Thrift's decoder raises what it likes on bytes that are no Thrift
            reason = "{}: {}".format(type(error).__name__, foreign_words(error))
        finally:
            conversation.end()
            connected.close()
            with self._lock:
                self._connected.discard(accepted)
                self._threads.discard(threading.current_thread())
        for line in conversation.failures + ([reason] if reason else []):
            self._say("{}: {}".format(peer, line))

    def _answer_frames(self, connected: socket.socket, conversation: "_Conversation") -> None:
        limits = self._limits
        while not self._stopping.is_set():
            greeted = conversation.work is not None
            most = limits.frame_bytes if greeted else HELLO_BYTES
            frame = received_frame(connected, most, limits.idle_s if greeted else limits.hello_s, limits.frame_s)
            if frame is None:
                return
            connected.settimeout(limits.frame_s)
            connected.sendall(conversation.reply(frame))

    def _full(self) -> bool:
        with self._lock:
            return len(self._connected) > self._limits.connections


class _Conversation:
    """One connection's answers. Every error while answering becomes a Refused, which says why."""

    def __init__(self, work_for: WorkFor, limits: SegmentLimits, full: Callable[[], bool]) -> None:
        self._work_for = work_for
        self._limits = limits
        self._full = full
        self._codec: Optional[str] = None
        self.work: Optional[Work] = None
        self.failures: List[str] = []

    def reply(self, frame: bytes) -> bytes:
        """Answer one message. Raises whatever Thrift makes of a malformed one."""
        call = call_from_frame(frame)
        if call.arguments is None:
            return frame_from_unknown(call)
        try:
            answer = self._hello(call.arguments) if call.method == "hello" else self._run(call.arguments)
            reply = frame_from_answer(call, success=answer)
            if len(reply) > self._limits.frame_bytes:
                raise PayloadError("the answer has {} bytes, more than a frame may have".format(len(reply)))
            return reply
        except Exception as error:
            return self._refused(call, error)

    def end(self) -> None:
        """The connection is over."""
        if self.work is not None:
            self.work.close()

    def _refused(self, call: Call, error: Exception) -> bytes:
        refused = layers_refused_from_error(error)
        if refused.code == load_layers_rpc().types.Code.INTERNAL:
            self.failures.append("{} failed: {}: {}".format(call.method, type(error).__name__, error))
        return frame_from_answer(call, refused=refused)

    def _hello(self, call: Any) -> Any:
        rpc = load_layers_rpc()
        if call.protocol != rpc.constants.PROTOCOL:
            raise WireError(
                "this server (bottlekit {}) speaks layers protocol {}, the client {}; install the same version on "
                "both sides".format(__version__, rpc.constants.PROTOCOL, call.protocol)
            )
        if self.work is not None:
            raise WireError("hello was said already")
        if self._full():
            raise ServerBusyError("{} clients are connected, that is the limit".format(self._limits.connections))
        spans: List[Tuple[Any, Any]] = [(span.first, span.last) for span in call.segments or ()]
        if any(value is None for span in spans for value in span):
            raise WireError("a segment without its first and last layer")
        settings = dict(call.settings or {})
        self._codec = settings.get("codec") or None
        self.work = self._work_for(call.network or "", [Span(*span) for span in spans], settings)
        return rpc.types.Welcome(rpc.constants.PROTOCOL, __version__, self._limits.frame_bytes)

    def _run(self, call: Any) -> Any:
        if self.work is None:
            raise WireError("say hello first")
        if call.task is None or call.segment is None:
            raise WireError("the request lacks its task or its segment")
        arrays = arrays_from_wire(call.arrays)
        answer = self.work.run(call.task, call.segment, arrays, list(call.wanted or ()))
        return wire_from_arrays(answer, self._codec)
