"""Frames of `layers.thrift`: the server takes a call out of one and puts its answer into another."""

import time
from typing import Any, NamedTuple, Optional

from ..errors import WireError
from ..wire.framing import FRAME_LENGTH, Messages, frame_from_message
from ..wire.layers import load_layers_rpc

# Tensors, wanted names and spans of one message.
CONTAINER_LENGTH = 4096
CALLS = ("hello", "run")


class Call(NamedTuple):
    """A request: its method, its number, its arguments (None: there is no such method)."""

    method: str
    number: int
    arguments: Any


def call_from_frame(frame: bytes) -> Call:
    """The call in a frame. Raises whatever Thrift makes of bytes that are none."""
    from thrift.Thrift import TType

    protocol = Messages(CONTAINER_LENGTH).protocol_from_message(frame)
    method, _, number = protocol.readMessageBegin()
    if method not in CALLS:
        protocol.skip(TType.STRUCT)
        return Call(str(method), number, None)
    arguments = getattr(load_layers_rpc().service, method + "_args")()
    arguments.read(protocol)
    protocol.readMessageEnd()
    return Call(method, number, arguments)


def frame_from_answer(call: Call, success: Any = None, refused: Any = None) -> bytes:
    """The answer to a call, with its number."""
    from thrift.Thrift import TMessageType

    result = getattr(load_layers_rpc().service, call.method + "_result")(success, refused)
    return _frame(call, TMessageType.REPLY, result)


def frame_from_unknown(call: Call) -> bytes:
    """The answer to a method that does not exist."""
    from thrift.Thrift import TApplicationException, TMessageType

    failure = TApplicationException(TApplicationException.UNKNOWN_METHOD, "there is no such method")
    return _frame(call, TMessageType.EXCEPTION, failure)


def _frame(call: Call, kind: int, content: Any) -> bytes:
    return frame_from_message(Messages(CONTAINER_LENGTH).message(call.method, kind, call.number, content))


def received_frame(connected: Any, most_bytes: int, begin_s: float, whole_s: float) -> Optional[bytes]:
    """The next frame of a socket, None at the end of the stream.

    It must begin within `begin_s` and be complete `whole_s` later. Raises WireError for one that is too long,
    OSError (socket.timeout) when the time is over. Memory grows with what has come, not with what is announced.
    """
    head = _received(connected, FRAME_LENGTH.size, time.monotonic() + begin_s)
    if head is None:
        return None
    (length,) = FRAME_LENGTH.unpack(head)
    if not 0 < length <= most_bytes:
        raise WireError("a frame of {} bytes; the limit is {} here".format(length, most_bytes))
    return _received(connected, length, time.monotonic() + whole_s)


def _received(connected: Any, size: int, deadline: float) -> Optional[bytes]:
    received = bytearray()
    while len(received) < size:
        connected.settimeout(max(deadline - time.monotonic(), 1e-3))
        piece = connected.recv(min(size - len(received), 1 << 20))
        if not piece:
            return None
        received += piece
    return bytes(received)
