"""Sockets from addresses, and what to do when there is none to be had."""

import errno
import re
import socket
from typing import Tuple

from ..errors import AddressInUseError, ServerUnreachableError, UsageError, WireError

_MAX_PORT = 65535


class ConnectionLost(WireError):  # noqa: N818 - no error of its own: it is told as a WireError
    """A connection that broke, which another one may mend."""


def address_from_text(text: str, option: str = "--server", least_port: int = 1) -> Tuple[str, int]:
    """The host and the port of HOST:PORT or [IPV6]:PORT; UsageError, which names the option, for anything else."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not re.match(r"[0-9]+\Z", port) or not least_port <= int(port) <= _MAX_PORT:
        raise UsageError(
            "{} must be HOST:PORT with a port of {} to {}, like localhost:9090, not '{}'".format(
                option, least_port, _MAX_PORT, text
            )
        )
    return host, int(port)


def connected_socket(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect. Raises ServerUnreachableError, which names the address and the command to start a server."""
    # The C library takes a port modulo 65536 and would go somewhere else.
    if not 1 <= port <= _MAX_PORT:
        raise UsageError("{}:{} is no address: ports are 1 to {}".format(host, port, _MAX_PORT))
    try:
        return socket.create_connection((host, port), timeout=timeout_s)
    except (OSError, UnicodeError) as error:
        reason = "no reply in time" if isinstance(error, socket.timeout) else getattr(error, "strerror", None)
        raise ServerUnreachableError(
            "no server answers at {0}:{1} ({2}); start one with: bottlekit serve FLEET --host {0} "
            "--port {1}".format(host, port, reason or error)
        )


def listening_socket(host: str, port: int) -> socket.socket:
    """Listen on one address. Raises AddressInUseError, or UsageError for an address this machine has not."""
    where = "{}:{}".format(host, port)
    if not 0 <= port <= _MAX_PORT:
        raise UsageError("{} is no address: ports are 0 (any free one) to {}".format(where, _MAX_PORT))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError("{} is no address to listen on ({}); try --host 127.0.0.1".format(where, error))
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # At once: until somebody listens, Linux lets a second server bind the same address.
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUseError(
                "{} is in use: another program listens there; stop it or choose another --port (0 picks a free "
                "one)".format(where)
            )
        if error.errno in (errno.EACCES, errno.EADDRNOTAVAIL):
            raise UsageError(
                "this machine may not listen on {} ({}); choose one of its own addresses and a port above "
                "1023".format(where, error.strerror)
            )
        raise WireError("cannot listen on {}: {}".format(where, error.strerror or error))
    return listening
