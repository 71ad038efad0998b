"""What batching across clients brings: throughput and latency of one server with 1, 8, 32 and 128 clients.

    together        bottlekit serve --max-batch 16: what comes in while the tail is busy is computed together
    one at a time   bottlekit serve --max-batch 1

Both servers run all the time, with the same engines and as many threads; clients ask one of them for a while, then
the other, in turns. A client asks again as soon as it has its answer. All clients are one process, and their
payloads are made beforehand, so that little is taken from the servers' cores. Every answer is checked: its number,
and that its logits are those of its own payload and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record import record
from split_overhead import untrained_bundle

from bottlekit.build.build import build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engines_for_bundle
from bottlekit.device.runners import runner_from_engine
from bottlekit.device.stats import summary
from bottlekit.device.wire import load_rpc
from bottlekit.device.wire.answers import logits_from_answer
from bottlekit.device.wire.framing import FRAME_LENGTH, compact_protocol, frame_from_message
from bottlekit.targets.loader import target_from_name

CLAIM = "with 32 clients, batching gives more answers a second than one at a time, and none is wrong or lost"
CASE = ("resnet18", 64, 10, "rb1", 2)
CLIENTS = (1, 8, 32, 128)
WAYS = {"together": 16, "one at a time": 1}
PAYLOADS = 64
WARM_UP_S = 0.5


class Question(NamedTuple):
    """A payload and the logits (classes,) that belong to it."""

    payload: bytes
    logits: np.ndarray


def questions_of(bundle: Bundle, engines_dir: Path, threads: int | None) -> tuple[list[Question], float]:
    """Payloads of random features, what the tail makes of each alone and here, and how far an answer may lie off.

    That is a quarter of the least distance between two of them.
    """
    random = np.random.default_rng(0)
    engine = engines_for_bundle(str(engines_dir), bundle, "cpu")["tail"]
    questions = []
    with runner_from_engine(engine, threads, spin=False) as tail:
        for _ in range(PAYLOADS):
            payload = bundle.codec.encode(random.normal(size=bundle.feature_shape).astype(np.float32))
            questions.append(
                Question(payload, tail.run({"feature": bundle.codec.decode(payload)[None]})["logits"][0])
            )
    logits = np.stack([question.logits for question in questions])
    apart = np.abs(logits[:, None] - logits[None]).max(axis=2)
    tolerance = float(apart[~np.eye(PAYLOADS, dtype=bool)].min()) / 4
    if tolerance < 10 * np.finfo(np.float32).eps * np.abs(logits).max():
        raise SystemExit(
            f"two payloads' logits are {4 * tolerance:g} apart: answers could not be told from each other"
        )
    return questions, tolerance


@contextlib.contextmanager
def serving(bundle: Bundle, engines: Path, threads: int | None, max_batch: int) -> Iterator[tuple[str, int]]:
    """A server process for the length of the `with` block; yields its address."""
    words = ["serve", bundle.path, "--port", "0", "--engines", str(engines), "--target", "cpu", "--json", "--quiet"]
    words += ["--max-batch", str(max_batch)] + (["--threads", str(threads)] if threads is not None else [])
    process = subprocess.Popen([sys.executable, "-m", "bottlekit", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server for {bundle.name} did not start")
        announced = json.loads(line)
        yield announced["host"], announced["port"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def message(method: str, number: int, *arguments: object) -> bytes:
    """The frame of a call."""
    from thrift.transport.TTransport import TMemoryBuffer

    buffer = TMemoryBuffer()
    client = load_rpc().service.Client(compact_protocol(buffer, 1 << 20, 16))
    client._seqid = number
    getattr(client, "send_" + method)(*arguments)
    return frame_from_message(buffer.getvalue())


def answer_from_frame(frame: bytes, number: int) -> Any:
    """The Answer in a frame; ends the run where it is none, or another request's."""
    from thrift.transport.TTransport import TMemoryBuffer

    protocol = compact_protocol(TMemoryBuffer(frame), len(frame), 16)
    _, _, answered = protocol.readMessageBegin()
    result = load_rpc().service.infer_result()
    result.read(protocol)
    if answered != number or result.success is None:
        raise SystemExit(f"request {number} was answered with number {answered}: {result.refused}")
    return result.success


async def ask(
    address: tuple[str, int],
    questions: list[Question],
    tolerance: float,
    first: int,
    until_s: float,
    taken: list[tuple[float, float, int]],
) -> None:
    """One client: asks until `until_s`; notes (when, latency in ms, batch) of each answer."""
    reader, writer = await asyncio.open_connection(*address)

    async def frame() -> bytes:
        (length,) = FRAME_LENGTH.unpack(await reader.readexactly(FRAME_LENGTH.size))
        return await reader.readexactly(length)

    writer.write(message("hello", 1, 1, "benchmark", None, None))
    await frame()
    turn = first
    while time.perf_counter() < until_s:
        question = questions[turn % len(questions)]
        number = turn % 100 + 1
        started = time.perf_counter()
        writer.write(message("infer", number, 0, question.payload, 0, None))
        answer = answer_from_frame(await frame(), number)
        now = time.perf_counter()
        logits = logits_from_answer(answer, question.logits.size)[1]
        if not np.allclose(logits, question.logits, rtol=0, atol=tolerance):
            raise SystemExit("a client got logits that are not those of its payload")
        taken.append((now, (now - started) * 1e3, answer.batch or 1))
        turn += 1
    writer.close()
    await writer.wait_closed()


async def load(
    address: tuple[str, int], questions: list[Question], tolerance: float, clients: int, seconds: float
) -> dict[str, Any]:
    """So many clients for so long: answers a second, latencies in ms, and how many shared a batch."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    taken: list[tuple[float, float, int]] = []
    await asyncio.gather(*(ask(address, questions, tolerance, 7 * client, end, taken) for client in range(clients)))
    counted = [one for one in taken if begin <= one[0] <= end]
    return {
        "answers": len(counted),
        "per_s": len(counted) / seconds,
        "mean_batch": float(np.mean([batch for _, _, batch in counted])),
        "latency_ms": [round(latency_ms, 3) for _, latency_ms, _ in counted],
    }


def measure(bundle: Bundle, folder: Path, rounds: int, seconds: float, threads: int | None) -> list[dict[str, Any]]:
    """For each number of clients, both ways in turns."""
    build_bundle(bundle, target_from_name("cpu"), folder, ["head", "tail"])
    questions, tolerance = questions_of(bundle, folder, threads)
    cases = []
    with contextlib.ExitStack() as stack:
        addresses = {way: stack.enter_context(serving(bundle, folder, threads, most)) for way, most in WAYS.items()}
        for clients in CLIENTS:
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    runs[way].append(asyncio.run(load(addresses[way], questions, tolerance, clients, seconds)))
            case: dict[str, Any] = {"clients": clients, **{way: _summed_up(taken) for way, taken in runs.items()}}
            case["ratio"] = case["together"]["per_s"] / case["one at a time"]["per_s"]
            cases.append(case)
            print(_line(case))
    return cases


def _summed_up(runs: list[dict[str, Any]]) -> dict[str, Any]:
    latency_ms = [value for run in runs for value in run["latency_ms"]]
    found = summary(latency_ms)
    return {
        "per_s": float(np.mean([run["per_s"] for run in runs])),
        "per_s_by_round": [run["per_s"] for run in runs],
        "mean_batch": float(np.mean([run["mean_batch"] for run in runs])),
        "answers": len(latency_ms),
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "latency_samples_ms": latency_ms,
    }


def _line(case: dict[str, Any]) -> str:
    ways = [
        f"{way} {found['per_s']:.0f}/s, p50 {found['p50_ms']:.2f} ms, "
        f"p99 {'-' if found['p99_ms'] is None else format(found['p99_ms'], '.2f')} ms, "
        f"{found['mean_batch']:.1f} a batch"
        for way, found in ((way, case[way]) for way in WAYS)
    ]
    return f"{case['clients']:4} clients: {'; '.join(ways)}; ratio {case['ratio']:.2f}"


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="a bundle; without one, an untrained ResNet-18 at 64 x 64"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often the two ways take turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each turn takes")
    parser.add_argument("--threads", type=int, default=None, help="threads for one tail; all cores without it")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = Bundle.load(str(options.bundle)) if options.bundle else untrained_bundle(CASE, folder)
        cases = measure(bundle, folder / "engines", options.rounds, options.seconds, options.threads)
        answers = sum(case[way]["answers"] for case in cases for way in WAYS)
        print(f"{answers} answers counted, every one checked")
        result = {"bundle": bundle.name, "input_size": bundle.input_shape[2], "cases": cases}
    print(f"recorded in {record(CLAIM, result, options.threads)}")


if __name__ == "__main__":
    main()
