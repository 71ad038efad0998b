"""Send to live servers what a coverage-guided fuzzer comes up with: most of it straight into a conversation, which
is quick, the rest over real sockets.

    python tests/serving/fuzz_server.py -max_total_time=60        (needs atheris; takes libFuzzer's options)

Whatever the bytes, and whether a client has said hello or a server wants TLS: the connection ends in bounded time,
an answer has its request's number, nothing fails inside, and another client gets its right answer all the while.
Anything else ends the run with a traceback, as does more than LARGEST_MIB of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import atheris
import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "device"))

with atheris.instrument_imports(include=["bottlekit.device"]):
    from raw_client import HELLO, frame, header, message

    from bottlekit.device.access import Access
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.client import SplitClient
    from bottlekit.device.handler import Conversation, House
    from bottlekit.device.journal import Journal
    from bottlekit.device.lanes import Lanes
    from bottlekit.device.limits import ServerLimits
    from bottlekit.device.pipeline import local_split_from_bundle
    from bottlekit.device.server import server_from_fleet
    from bottlekit.device.service import TailService, runner_from_onnx
    from bottlekit.device.statistics import ClientCounters, Statistics
    from bottlekit.device.wire.framing import FRAME_LENGTH, frame_from_message
    from bottlekit.serving import certs

LARGEST_MIB = 1024
LONGEST_S = 30.0
# How often the other client asks between two connections of the fuzzer.
EVERY = 50
BUNDLES = fleet_from_path(str(TESTS / "data" / "tiny_fleet"))
IMAGE = np.random.RandomState(5).normal(size=(1, 3, 8, 8)).astype(np.float32)
PAYLOADS = [bundle.codec.encode(np.ones(bundle.feature_shape, np.float32)) for bundle in BUNDLES]
REQUESTS = [
    message("hello", 1, "0.1.0", b"x" * 20, 500, number=7),
    message("infer", 0, PAYLOADS[0], 3, 1000, number=7),
    message("infer", 1, PAYLOADS[1], 0, None, number=127),
    message("infer_image", 0, b"\xff\xd8\xff" + b"x" * 40, 0, None, number=1),
    message("ping", b"x" * 30, number=7),
]
# The fuzzer's first byte: what its other bytes are. Those up to SECURE go over a socket.
KINDS = 40
PLAIN, FRAMED, GREETED, CHANGED, SECURE, ALONE = range(6)
LIMITS = ServerLimits(image_bytes=4096, connects_per_s=0.0, handshake_s=LONGEST_S, hello_s=LONGEST_S)


class Servers:
    """One server that anybody may use, one that wants TLS, and a client of the first."""

    def __init__(self, folder: str) -> None:
        pki = Path(folder) / "pki"
        certs.init_authority(pki)
        secure = certs.issue(pki, "server", "lab", ("localhost",))
        self.failures: list[dict[str, Any]] = []
        self.plain = self._started(Access())
        self.secure = self._started(Access(str(secure)))
        self.client = SplitClient(BUNDLES[0], *self.plain, timeout_s=LONGEST_S).__enter__()
        with local_split_from_bundle(BUNDLES[0]) as local:
            self._expected = local.infer(IMAGE).logits

    def check_the_other_client(self) -> None:
        """It gets what it asks for, on the connection that it has had from the start."""
        answer = self.client.infer_input(IMAGE)
        assert np.allclose(answer.logits, self._expected, atol=1e-5)
        assert self.failures == []

    def _started(self, access: Access) -> tuple[str, int]:
        server = server_from_fleet(BUNDLES, port=0, limits=LIMITS, access=access, note=self._note)
        server.__enter__()
        threading.Thread(target=server.run, daemon=True).start()
        return server.address

    def _note(self, fields: dict[str, Any]) -> None:
        if fields["event"] == "failed":
            self.failures.append(fields)


class Talks:
    """Conversations without a socket, in this thread."""

    def __init__(self, servers: Servers) -> None:
        self._loop = asyncio.new_event_loop()
        service = TailService(BUNDLES, runner_from_onnx(1), 4).__enter__()
        lanes = Lanes(service, LIMITS, Statistics(), self._loop)
        self._house = House(LIMITS, Access(), Journal(note=servers._note), self._loop, lanes)

    def answer(self, request: bytes, greeted: bool) -> None:
        """One message, of somebody who has said hello or not: an answer with its number, or the end of it."""
        talk = Conversation(self._house, ClientCounters("a:1", 0.0), "a:1", "a", None)
        started = time.monotonic()
        if greeted:
            self._reply(talk, HELLO[FRAME_LENGTH.size :])
        answered = b""
        with contextlib.suppress(Exception):  # whatever Thrift makes of it: the connection ends
            answered = self._reply(talk, request)
        assert not answered or header(answered)[2] == header(request)[2]
        assert time.monotonic() - started < LONGEST_S
        talk.end()
        assert self._house.statistics.queued == 0

    def _reply(self, talk: Conversation, request: bytes) -> bytes:
        return self._loop.run_until_complete(talk.reply(request, self._loop.time()))


def changed(data: bytes) -> bytes:
    """A good request, the first byte says which, with changes at places that the others say."""
    if not data:
        return REQUESTS[0]
    request = bytearray(REQUESTS[data[0] % len(REQUESTS)])
    for place, value in zip(data[1::2], data[2::2], strict=False):
        request[place % len(request)] ^= value
    return bytes(request)


def talk(servers: Servers, talks: Talks, data: bytes) -> None:
    """One connection, or one conversation without any, with what the fuzzer made."""
    if not data:
        return
    kind, rest = data[0] % KINDS, data[1:]
    if kind >= ALONE:
        talks.answer(changed(rest) if kind % 2 else rest, greeted=kind % 3 > 0)
        return
    sent: list[bytes] = []
    if kind in (PLAIN, SECURE):
        stream = rest
    else:
        sent = [changed(rest)] if kind == CHANGED else [rest]
        stream = frame_from_message(sent[0])
    if kind in (GREETED, CHANGED):
        sent = [HELLO[FRAME_LENGTH.size :], *sent]
        stream = HELLO + stream
    started = time.monotonic()
    answered = b""
    with socket.create_connection(servers.secure if kind == SECURE else servers.plain, LONGEST_S) as connection:
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            connection.sendall(stream)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(1 << 16):
                answered += more
    assert time.monotonic() - started < LONGEST_S
    if kind != SECURE:  # there it is TLS's own alert
        check_answers(answered, sent)


def check_answers(answered: bytes, sent: list[bytes]) -> None:
    """Whole frames, one for a request at most, each with the number of its request."""
    numbers = []
    while answered:
        (length,) = FRAME_LENGTH.unpack(answered[: FRAME_LENGTH.size])
        numbers.append(header(answered[FRAME_LENGTH.size :][:length])[2])
        assert len(answered) >= FRAME_LENGTH.size + length
        answered = answered[FRAME_LENGTH.size + length :]
    if sent:
        assert numbers == [header(one)[2] for one in sent[: len(numbers)]]


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(folder)
        talks = Talks(servers)
        turns = 0

        def one_input(data: bytes) -> None:
            nonlocal turns
            talk(servers, talks, data)
            turns += 1
            if turns % EVERY == 0:
                servers.check_the_other_client()
                assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < LARGEST_MIB << 10

        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, request in enumerate(REQUESTS):
            (corpus / f"framed{number}").write_bytes(bytes([FRAMED]) + request)
            (corpus / f"greeted{number}").write_bytes(bytes([GREETED]) + request)
            (corpus / f"changed{number}").write_bytes(bytes([CHANGED, number, 0, 0]))
            for kind in range(ALONE, ALONE + 6):
                (corpus / f"alone{number}-{kind}").write_bytes(
                    bytes([kind]) + (bytes([number, 0, 0]) if kind % 2 else request)
                )
        (corpus / "plain").write_bytes(bytes([PLAIN]) + HELLO + frame("ping", b""))
        (corpus / "tls").write_bytes(bytes([SECURE]) + bytes.fromhex("16030100a5010000a10303") + b"\1" * 155)
        options = ["-rss_limit_mb=0", "-max_len=1024", str(corpus)]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:]], one_input)
        atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    main()
