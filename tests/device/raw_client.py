"""Frames as they are on the wire, made and read without the client: for tests that send what no client would."""

import contextlib
import socket

from servers import PATIENCE_S

from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.framing import FRAME_LENGTH, compact_protocol, frame_from_message

_ARGUMENTS = {"hello": 4, "infer": 4, "infer_image": 4, "ping": 1}


def message(method, *arguments, **named):
    """The Thrift message of a call, with the `number` that is given; arguments that are left out are not sent."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
    client._seqid = named.get("number", 0)
    getattr(client, "send_" + method)(*(arguments + (None,) * (_ARGUMENTS[method] - len(arguments))))
    return buffer.getvalue()


def frame(method, *arguments, **named):
    """The message with its length in front."""
    return frame_from_message(message(method, *arguments, **named))


HELLO = frame("hello", 1, "0.1.0")


def header(data):
    """(method, kind, number) of a message."""
    from thrift.transport.TTransport import TMemoryBuffer

    return compact_protocol(TMemoryBuffer(data), 1 << 20, 4096).readMessageBegin()


def receive_frame(connection):
    """The next message; AssertionError when the connection ends before it does."""
    (length,) = FRAME_LENGTH.unpack(_receive(connection, FRAME_LENGTH.size))
    return _receive(connection, length)


def _receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the server hung up after {} of {} bytes".format(len(data), size)
        data += more
    return data


def reply(connection, method):
    """The result of the next answer; raises what Thrift makes of it."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer(receive_frame(connection))
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 4096))
    return getattr(client, "recv_" + method)()


@contextlib.contextmanager
def raw_connection(server, hello=True):
    """A plain socket to the server, which has said hello unless told not to."""
    with socket.create_connection(server.address, timeout=PATIENCE_S) as connection:
        if hello:
            connection.sendall(HELLO)
            receive_frame(connection)
        yield connection


def wait_for_the_end(connection):
    """Read until the server has hung up, which it must."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
