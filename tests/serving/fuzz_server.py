"""Send to live servers what a coverage-guided fuzzer comes up with, over real sockets.

    python tests/serving/fuzz_server.py -max_total_time=60        (needs atheris; takes libFuzzer's options)

Whatever the bytes, and whether a client has said hello or a server wants TLS: the connection ends in bounded time,
an answer has its request's number, nothing fails inside, and another client gets its right answer all the while.
Anything else ends the run with a traceback, as does more than LARGEST_MIB of memory.
"""

from __future__ import annotations

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
    from bottlekit.device.limits import ServerLimits
    from bottlekit.device.pipeline import local_split_from_bundle
    from bottlekit.device.server import server_from_fleet
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
# The fuzzer's first byte: what its other bytes are.
PLAIN, FRAMED, GREETED, CHANGED, SECURE = range(5)


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
        limits = ServerLimits(image_bytes=4096, connects_per_s=0.0, handshake_s=LONGEST_S, hello_s=LONGEST_S)
        server = server_from_fleet(BUNDLES, port=0, limits=limits, access=access, note=self._note)
        server.__enter__()
        threading.Thread(target=server.run, daemon=True).start()
        return server.address

    def _note(self, fields: dict[str, Any]) -> None:
        if fields["event"] == "failed":
            self.failures.append(fields)


def changed(data: bytes) -> bytes:
    """A good request, the first byte says which, with changes at places that the others say."""
    if not data:
        return REQUESTS[0]
    request = bytearray(REQUESTS[data[0] % len(REQUESTS)])
    for place, value in zip(data[1::2], data[2::2], strict=False):
        request[place % len(request)] ^= value
    return bytes(request)


def talk(servers: Servers, data: bytes) -> None:
    """One connection with what the fuzzer made."""
    if not data:
        return
    kind, rest = data[0] % 5, data[1:]
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
        turns = 0

        def one_input(data: bytes) -> None:
            nonlocal turns
            talk(servers, data)
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
        (corpus / "plain").write_bytes(bytes([PLAIN]) + HELLO + frame("ping", b""))
        (corpus / "tls").write_bytes(bytes([SECURE]) + bytes.fromhex("16030100a5010000a10303") + b"\1" * 155)
        options = ["-rss_limit_mb=0", "-max_len=1024", str(corpus)]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:]], one_input)
        atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    main()
