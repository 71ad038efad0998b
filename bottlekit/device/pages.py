"""A few pages over HTTP beside the server, from the same event loop: health, status, and what is added."""

import asyncio
import contextlib
import json
from typing import Any, Callable, Dict, NamedTuple, Tuple

from .statistics import Statistics
from .wire.addresses import listening_socket

_MAX_REQUEST_BYTES = 1 << 13
_REQUEST_S = 2.0
_MAX_AT_ONCE = 32
_REASONS = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """What a page is now."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[], Answer]


class Pages:
    """`GET /health` (200, or 503 while the server stops), `GET /status` (the statistics as JSON), and others.

    They are answered by the event loop that serves the clients: an answer proves that it turns. A request has
    two seconds and 8 KiB, and 32 may come at once. `with` binds the address; `open` begins to answer.
    """

    def __init__(self, address: Tuple[str, int], statistics: Statistics, others: Dict[str, Page]) -> None:
        self._socket = listening_socket(*address)
        self._statistics = statistics
        self._pages: Dict[str, Page] = {"/health": self._health, "/status": self._status}
        self._pages.update(others)
        self._listener: Any = None
        self._at_once = 0

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    @property
    def address(self) -> Tuple[str, int]:
        """Where the pages are."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def open(self) -> None:
        """Begin to answer."""
        self._listener = await asyncio.start_server(self._connected, sock=self._socket, limit=_MAX_REQUEST_BYTES)

    async def close(self) -> None:
        """Answer nobody any more."""
        self._listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        try:
            if self._at_once <= _MAX_AT_ONCE:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._answer(reader, writer), _REQUEST_S)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks like this gets nothing
        finally:
            self._at_once -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        if len(words) != 3:
            return
        method, path = words[0], words[1].split("?")[0]
        page = self._pages.get(path)
        if method not in ("GET", "HEAD"):
            answer = _words(405, "only GET is answered here")
        elif page is None:
            answer = _words(404, "there are: " + ", ".join(sorted(self._pages)))
        else:
            answer = page()
        lines = (
            "HTTP/1.1 {} {}".format(answer.status, _REASONS[answer.status]),
            "Content-Type: " + answer.content_type,
            "Content-Length: {}".format(len(answer.body)),
            "Connection: close",
        )
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        if method != "HEAD":
            writer.write(answer.body)
        await writer.drain()

    def _health(self) -> Answer:
        return _words(503, "stopping") if self._statistics.stopping else _words(200, "ok")

    def _status(self) -> Answer:
        body = json.dumps(self._statistics.snapshot(), sort_keys=True).encode("utf-8")
        return Answer(200, "application/json", body)


def _words(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode("utf-8") + b"\n")
