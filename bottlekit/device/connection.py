"""A client as the server sees it: who it is, what it is waited for and until when, and its frames in turn."""

import asyncio
import contextlib
import socket
import ssl
import time
from typing import Any, Optional, Tuple

from .errors import WireError
from .handler import Conversation, House
from .statistics import ClientCounters
from .wire.framing import FRAME_LENGTH, frame_from_message

# Messages in which a client may say who it is and what it speaks; who guesses tokens gets no more of a connection.
HELLOS = 3


class Connection:
    """One accepted socket, from before TLS to its end.

    `deadline` is when what is `awaited` must have come, on the event loop's clock; the server ends connections
    that are late. `working` while the server's turn is on.
    """

    def __init__(self, accepted: socket.socket, address: Tuple[Any, ...]) -> None:
        self.peer = "{}:{}".format(*address[:2])
        self.host = str(address[0])
        self.awaited = ""
        self.deadline = float("inf")
        self.working = False
        self.greeted = False
        self.must_renew = False
        self.ended_because = ""
        self.counters = ClientCounters(self.peer, time.monotonic())
        self.certificate: Any = None  # as `ssl` tells it; None without TLS
        self.task: Any = None
        self.writer: Optional[asyncio.StreamWriter] = None
        self._accepted = accepted
        self._over_tls = False
        accepted.setblocking(False)
        with contextlib.suppress(OSError):  # the client is gone already, which the first read will tell
            # An answer is one small segment; asyncio sets this itself only where the socket names its protocol.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def open(
        self, loop: Any, context: Optional[ssl.SSLContext], handshake_s: float, longest: int
    ) -> asyncio.StreamReader:
        """The reader of what the client sends, after TLS where there is a context. Raises OSError, ssl.SSLError."""
        reader = asyncio.StreamReader(limit=longest, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        options = {} if context is None else {"ssl": context, "ssl_handshake_timeout": handshake_s}
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._accepted, **options)
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        if context is not None:
            self._over_tls = True
            self.certificate = transport.get_extra_info("peercert")
        return reader

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
        if self.writer is not None:
            self.writer.transport.abort()
        elif self.task is not None:
            self.task.cancel()

    def release(self) -> None:
        """The end of a connection that never was open."""
        if self.writer is None:
            self._accepted.close()

    async def close(self) -> None:
        """Close after what was written has gone out; over TLS the client gets a second to say goodbye."""
        if self.writer is None:
            return
        if not self._over_tls:
            self.writer.close()
            return
        with contextlib.suppress(Exception):  # a client that says no goodbye, or went before, has gone all the same
            self.writer.close()
            await asyncio.wait_for(self.writer.wait_closed(), 1.0)
        self.writer.transport.abort()


async def converse(connection: Connection, house: House) -> None:
    """One connection, from its first byte to its last. Whatever a client sends ends its own connection at most."""
    limits = house.limits
    conversation: Optional[Conversation] = None
    try:
        connection.expect("TLS handshake", house.loop.time() + limits.handshake_s)
        context = house.access.context
        reader = await connection.open(house.loop, context, limits.handshake_s, house.longest_frame())
        certificate = connection.certificate
        conversation = Conversation(house, connection.counters, connection.peer, connection.host, certificate)
        await _answer_frames(reader, connection, conversation, house)
    except ssl.SSLError as error:
        connection.end("no TLS: {}".format(getattr(error, "verify_message", None) or error.reason or error))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has hung up, or was ended, which has its reason
    except asyncio.CancelledError:
        if not connection.ended_because and not house.statistics.stopping:
            raise
    except Exception as error:
        connection.end("{}: {}".format(type(error).__name__, error))
    finally:
        if conversation is not None:
            conversation.end()
        _tell_end(connection, house)
        await connection.close()


async def _answer_frames(
    reader: asyncio.StreamReader, connection: Connection, conversation: Conversation, house: House
) -> None:
    assert connection.writer is not None
    limits, totals, time_s = house.limits, house.statistics, house.loop.time
    hello_deadline = time_s() + limits.hello_s
    hellos_left = HELLOS
    while not totals.stopping and not connection.must_renew:
        if conversation.greeted:
            connection.expect("request", time_s() + limits.idle_s)
        elif hellos_left:
            hellos_left -= 1
            connection.expect("hello", hello_deadline)
        else:
            raise WireError("no valid hello among {} messages".format(HELLOS))
        (length,) = FRAME_LENGTH.unpack(await reader.readexactly(FRAME_LENGTH.size))
        if not 0 < length <= conversation.frame_bytes:
            raise WireError("a frame of {} bytes; the limit is {} here".format(length, conversation.frame_bytes))
        if conversation.greeted:
            connection.expect("complete request", time_s() + limits.frame_s)
        frame = await reader.readexactly(length)
        arrived = time_s()
        connection.work()
        totals.in_flight += 1
        try:
            reply = frame_from_message(await conversation.reply(frame, arrived))
        finally:
            totals.in_flight -= 1
        connection.greeted = conversation.greeted
        connection.expect("taking of the answer", time_s() + limits.frame_s)
        connection.writer.write(reply)
        await connection.writer.drain()
        for counted in (connection.counters, totals):
            counted.received_bytes += FRAME_LENGTH.size + length
            counted.sent_bytes += len(reply)
        totals.answered += 1
        connection.working = False


def _tell_end(connection: Connection, house: House) -> None:
    name, peer, reason = connection.counters.name, connection.peer, connection.ended_because
    who = peer if name in ("", connection.host) else "{} at {}".format(name, peer)
    tell = house.journal.write if reason else house.journal.note
    words = "ended {}: {}".format(who, reason or "it hung up")
    tell("ended", words, client=name or connection.host, peer=peer, reason=reason)
