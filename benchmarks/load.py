"""What the benchmarks of serving share: servers as processes, and clients whose answers are all checked.

A question is a payload of which the logits are known: computed here, alone, by the same graph. Answers that were
computed in a batch differ from them in rounding; how far they may, and still be nobody else's, is measured first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bottlekit.device.bundle import Bundle
from bottlekit.device.runners import Runner
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.framing import FRAME_LENGTH, compact_protocol, frame_from_message

PAYLOADS = 64


class Question(NamedTuple):
    """A payload and the logits (classes,) that belong to it."""

    payload: bytes
    logits: np.ndarray


class Questions(NamedTuple):
    """Payloads of one bundle, and how far an answer may lie off: a quarter of the least distance between two."""

    all: list[Question]
    tolerance: float

    def is_answer(self, number: int, logits: np.ndarray) -> bool:
        """Whether these are the logits of question `number`, and so of no other."""
        return bool(np.allclose(logits, self.all[number].logits, rtol=0, atol=self.tolerance))


class WrongAnswerError(Exception):
    """An answer that is another request's, or none."""


def questions_of(bundle: Bundle, tail: Runner) -> Questions:
    """Payloads of random features, and what `tail`, open, makes of each alone."""
    random = np.random.default_rng(0)
    questions = []
    for _ in range(PAYLOADS):
        payload = bundle.codec.encode(random.normal(size=bundle.feature_shape).astype(np.float32))
        questions.append(Question(payload, tail.run({"feature": bundle.codec.decode(payload)[None]})["logits"][0]))
    logits = np.stack([question.logits for question in questions])
    apart = np.abs(logits[:, None] - logits[None]).max(axis=2)
    tolerance = float(apart[~np.eye(PAYLOADS, dtype=bool)].min()) / 4
    if tolerance < 10 * np.finfo(np.float32).eps * np.abs(logits).max():
        raise SystemExit(
            f"two payloads' logits are {4 * tolerance:g} apart: answers could not be told from each other"
        )
    return Questions(questions, tolerance)


@contextlib.contextmanager
def announced(*words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A Python process for the length of the `with` block, and the line of JSON that it prints when it is ready."""
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"did not start: python {' '.join(map(str, words))}")
        yield process, json.loads(line)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def serving(fleet: Path | str, *options: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`bottlekit serve`: the process, and what it announced."""
    words = ("-m", "bottlekit", "serve", fleet, "--port", 0, "--json", "--quiet", *options)
    with announced(*words) as found:
        yield found


def message(method: str, number: int, *arguments: object) -> bytes:
    """The frame of a call."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
    client._seqid = number
    getattr(client, "send_" + method)(*arguments)
    return frame_from_message(buffer.getvalue())


def answer_from_frame(frame: bytes, number: int) -> Any:
    """The Answer in a frame. Raises WrongAnswerError where it is none, or another request's."""
    from thrift.transport.TTransport import TMemoryBuffer

    protocol = compact_protocol(TMemoryBuffer(frame), len(frame), 16)
    _, _, answered = protocol.readMessageBegin()
    result = load_rpc().service.infer_result()
    result.read(protocol)
    if answered != number or result.success is None:
        raise WrongAnswerError(f"request {number} was answered with number {answered}: {result.refused}")
    return result.success


async def frame_from(reader: asyncio.StreamReader) -> bytes:
    """The next message of the server."""
    (length,) = FRAME_LENGTH.unpack(await reader.readexactly(FRAME_LENGTH.size))
    return await reader.readexactly(length)


async def greeted(
    host: str, port: int, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, list[Any]]:
    """A connection that has said hello, over TLS with a context, and the bundles that the server then offered."""
    from thrift.transport.TTransport import TMemoryBuffer

    name = None if context is None else "localhost"
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    writer.write(message("hello", 1, 1, "benchmark", None, None))
    frame = await frame_from(reader)
    protocol = compact_protocol(TMemoryBuffer(frame), len(frame), 4096)
    protocol.readMessageBegin()
    result = load_rpc().service.hello_result()
    result.read(protocol)
    return reader, writer, result.success.bundles
