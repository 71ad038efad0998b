"""Frames and their limits, for both ends.

A frame is four bytes of length, big endian, and one Thrift message in the compact protocol.
"""

import select
import socket
import struct
import time
from typing import Any, Optional

FRAME_LENGTH = struct.Struct("!i")

# Room for everything in a request but its one long field: header, method name, numbers, lengths.
REQUEST_OVERHEAD_BYTES = 64
# A hello carries a few short fields; nobody who has not said hello may send more than this.
HELLO_FRAME_BYTES = 256
# Message numbers go round below this: each is one byte, and a connection has one request under way.
MESSAGE_NUMBERS = 128
# No request holds a container, so this bounds what a hostile one makes the server build.
REQUEST_CONTAINER_LENGTH = 16
# The longest legal answer: a float32 for each of 65535 classes, or the bundles of a large fleet.
ANSWER_FRAME_BYTES = 1 << 20
ANSWER_CONTAINER_LENGTH = 4096
# What a client receives at once, at most.
_RECEIVE_BYTES = 1 << 16


def frame_from_message(message: bytes) -> bytes:
    """Put the four length bytes in front."""
    return FRAME_LENGTH.pack(len(message)) + message


def compact_protocol(transport: Any, string_bytes: int, container_length: int) -> Any:
    """The compact protocol over a Thrift transport, in C where Thrift was built with it, always with limits."""
    from thrift.protocol.TCompactProtocol import TCompactProtocolAccelerated

    return TCompactProtocolAccelerated(
        transport, string_length_limit=string_bytes, container_length_limit=container_length
    )


def numbered_protocol(transport: Any, string_bytes: int, container_length: int) -> Any:
    """The compact protocol, which keeps in `number` the number of the last message it read."""
    from thrift.protocol.TCompactProtocol import TCompactProtocolAccelerated

    class Numbered(TCompactProtocolAccelerated):  # type: ignore[misc]
        number = 0

        def readMessageBegin(self) -> Any:  # noqa: N802 - Thrift's name
            name, kind, self.number = super().readMessageBegin()
            return name, kind, self.number

    return Numbered(transport, string_length_limit=string_bytes, container_length_limit=container_length)


class Messages:
    """One end's messages in the compact protocol, one after the other, as bytes.

    For all of a connection's messages there is one protocol object for reading and one for writing: making one has
    Thrift look for its C code again, which takes longer than a short message. After a message that could not be
    read the object is of no more use.
    """

    def __init__(self, container_length: int) -> None:
        from thrift.transport.TTransport import TMemoryBuffer

        self._buffer = TMemoryBuffer
        self._reader = compact_protocol(TMemoryBuffer(), 0, container_length)
        self._writer = compact_protocol(TMemoryBuffer(), 0, container_length)

    def protocol_from_message(self, message: bytes) -> Any:
        """A protocol to read a message from; no string in it can be longer than the message."""
        self._reader.trans = self._buffer(message)
        self._reader.string_length_limit = len(message)
        return self._reader

    def message(self, method: str, kind: int, number: int, content: Any) -> bytes:
        """The message of a kind (TMessageType) about a method, with something that Thrift can write."""
        self._writer.trans = self._buffer()
        self._writer.writeMessageBegin(method, kind, number)
        content.write(self._writer)
        self._writer.writeMessageEnd()
        written: bytes = self._writer.trans.getvalue()
        return written


class MeteredSocket:
    """A client's Thrift transport over one connected socket: counts bytes, and ends every wait at a deadline.

    generated Client -> compact protocol -> TFramedTransport -> MeteredSocket -> TSocket -> network

    Thrift's own timeout is per read, so a peer that sends one byte a second would hold a client for ever;
    here a request as a whole has `timeout_s`.
    """

    def __init__(self, connected: socket.socket, timeout_s: float) -> None:
        from thrift.transport.TSocket import TSocket

        # A request is one small segment: waiting to fill a larger one costs 40 ms (Nagle's algorithm).
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = TSocket()
        self._socket.setHandle(connected)
        self._timeout_s = timeout_s
        self._deadline = 0.0
        self._unread = bytearray()
        self.sent_bytes = 0
        self.received_bytes = 0

    def begin_request(self, deadline: Optional[float] = None) -> None:
        """Start the counters of one request, which has `timeout_s`, or until `deadline` on the monotonic clock."""
        self._deadline = deadline if deadline is not None else time.monotonic() + self._timeout_s
        self.sent_bytes = 0
        self.received_bytes = 0

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises TTransportException when the connection or the time is over."""
        self._limit_wait()
        try:
            # TSocket.write would start the clock again for every piece that a slow peer takes.
            self._socket.handle.sendall(data)
        except OSError as error:
            from thrift.transport.TTransport import TTransportException

            if isinstance(error, socket.timeout):
                raise TTransportException(TTransportException.TIMED_OUT, "write timeout", inner=error)
            raise TTransportException(TTransportException.END_OF_FILE, str(error), inner=error)
        self.sent_bytes += len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def readAll(self, size: int) -> bytes:  # noqa: N802 - Thrift's name
        """Receive exactly `size` bytes. Raises TTransportException at the end of the stream or of the time."""
        # A frame's length and its message come in one segment: one call to the system takes both.
        while len(self._unread) < size:
            self._limit_wait()
            self._unread += self._socket.read(_RECEIVE_BYTES)
        received = bytes(self._unread[:size])
        del self._unread[:size]
        self.received_bytes += size
        return received

    def has_ended(self) -> bool:
        """Whether the peer has closed an idle connection: there is something to read, which is the end."""
        return bool(self._unread) or self.readable_within(0.0)

    def readable_within(self, seconds: float) -> bool:
        """Wait for so long: True as soon as there is something to receive, be it the end of the stream."""
        # A socket's own timeout is in whole milliseconds.
        return bool(select.select([self._socket.handle], [], [], seconds)[0])

    def close(self) -> None:
        """Close the socket; closing twice does no harm."""
        self._socket.close()

    def _limit_wait(self) -> None:
        remaining_s = self._deadline - time.monotonic()
        # A socket with timeout 0 does not wait at all but fails with another error: leave it a millisecond.
        self._socket.setTimeout(max(remaining_s * 1000.0, 1.0))
