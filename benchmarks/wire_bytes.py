"""Counts what goes over a real connection: bytes and packets, both ways, whoever speaks on it. For serving.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import NamedTuple

# Of Linux's struct tcp_info: where tcpi_segs_out and tcpi_segs_in are (include/uapi/linux/tcp.h).
_SEGMENTS = struct.Struct("=II")
_SEGMENTS_AT = 136
_LENGTH = 192
# IPv4 and TCP without options 20 each, and TCP's timestamps, which Linux sends, 12.
PACKET_BYTES = 52


class Counted(NamedTuple):
    """Bytes and packets from the client (`up`) and to it (`down`), those that only acknowledge included."""

    up_bytes: int
    down_bytes: int
    up_packets: int
    down_packets: int

    def since(self, before: Counted) -> Counted:
        """What came after `before`."""
        return Counted(*(now - then for now, then in zip(self, before, strict=True)))


class Counter:
    """A relay for one connection at a time, and what went through it."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._bytes = [0, 0]
        self._near: socket.socket | None = None
        self.ended = asyncio.Event()
        self.address = ("", 0)

    def counted(self) -> Counted:
        """So far, on the connection that is open."""
        assert self._near is not None
        information = self._near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
        out, come_in = _SEGMENTS.unpack_from(information, _SEGMENTS_AT)
        return Counted(self._bytes[0], self._bytes[1], come_in, out)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._near = writer.get_extra_info("socket")
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        pumps = [self._pump(reader, far_writer, 0), self._pump(far_reader, writer, 1)]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*pumps)
        self.ended.set()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int) -> None:
        while data := await reader.read(1 << 16):
            self._bytes[way] += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def counting(host: str, port: int) -> AsyncIterator[Counter]:
    """A Counter in front of a server; connect to its `address`."""
    counter = Counter(host, port)
    server = await asyncio.start_server(counter._relay, "127.0.0.1", 0)
    counter.address = server.sockets[0].getsockname()
    try:
        yield counter
        await counter.ended.wait()
    finally:
        server.close()
