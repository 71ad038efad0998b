"""A relay that lets so many bits a second pass: a link for machines without root, or without tc's tbf.

    client --recv--> queue --one thread a direction: sleep until the last bit would have arrived--> server

All connections share the two directions, as they share a radio. It counts bytes of TCP, not headers.

    python benchmarks/links pacer --to 127.0.0.1:9090 --up-mbps 5.85 --down-mbps 13.76

prints the port it listens on. Lines on its standard input change the rates from then on: JSON objects with `up` and
`down`, steps [[s, Mbit/s], ...] on the monotonic clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import socket
import sys
import threading
import time

from links.shaping import Rate, SerialLine

# A piece is passed on when all of it has arrived: as much as a packet holds.
_PIECE_BYTES = 1448


class Pacer:
    """Listens, and passes bytes on to a server in both directions, each at its own rate.

    Times of the rates' steps are those of `time.monotonic()`. `address` is where clients connect. What it begins
    are daemon threads: it ends with its process.
    """

    def __init__(self, server: tuple[str, int], up: Rate, down: Rate, host: str = "127.0.0.1") -> None:
        self._server = server
        self._up, self._down = _Direction(up), _Direction(down)
        self._listening = socket.create_server((host, 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def change(self, up: Rate, down: Rate) -> None:
        """Other rates for what comes from now on."""
        self._up.line.rate, self._down.line.rate = up, down

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._server, timeout=10.0)
        except OSError:  # no server: the client finds its connection closed
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._up.read, args=(client, server), daemon=True).start()
        self._down.read(server, client)


class _Direction:
    """One queue for all connections."""

    def __init__(self, rate: Rate) -> None:
        self.line = SerialLine(rate)
        self._queue: queue.SimpleQueue[tuple[float, bytes, socket.socket]] = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()

    def read(self, source: socket.socket, sink: socket.socket) -> None:
        """Take in what comes, until the end, which travels behind it."""
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                self._queue.put((time.monotonic(), piece, sink))
        self._queue.put((time.monotonic(), b"", sink))

    def _send(self) -> None:
        while True:
            came_s, piece, sink = self._queue.get()
            # Sleeping too long does not make the link slower: the next piece is due from when this one should
            # have gone.
            due_s = self.line.due_s(came_s, len(piece))
            time.sleep(max(0.0, due_s - time.monotonic()))
            with contextlib.suppress(OSError):  # the other end has gone; its own side is told when it reads
                if piece:
                    sink.sendall(piece)
                else:
                    sink.shutdown(socket.SHUT_WR)


def main(words: list[str]) -> None:
    """Run until it is killed."""
    parser = argparse.ArgumentParser(prog="benchmarks/links pacer", description=__doc__)
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--up-mbps", type=float, required=True)
    parser.add_argument("--down-mbps", type=float, required=True)
    options = parser.parse_args(words)
    host, _, port = options.to.rpartition(":")
    pacer = Pacer((host, int(port)), Rate([(0.0, options.up_mbps)]), Rate([(0.0, options.down_mbps)]))
    print(json.dumps({"port": pacer.address[1]}), flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        pacer.change(Rate(told["up"]), Rate(told["down"]))
    threading.Event().wait()
