"""What batching across clients brings, and what gRPC would: one tail, served in three ways to 1 to 128 clients.

    together        bottlekit serve --max-batch 16: what comes in while the tail is busy is computed together
    one at a time   bottlekit serve --max-batch 1
    grpc            the same payloads into the same tail behind grpc.aio, one at a time (grpc_tail.py)

All three servers run all the time, with the same engine and as many threads; clients ask one of them for a while,
then the next, in turns. A client is a connection of its own, and asks again as soon as it has its answer. All
clients are one process, and their payloads are made beforehand, so that little is taken from the servers' cores.
Every answer is checked: that its logits are those of its own payload and no other, and its number where the
protocol has one.

Then one client asks each server through a relay that counts: bytes and packets per request, on a connection that is
open already.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_tail import METHOD, SERVICE
from load import (
    Questions,
    WrongAnswerError,
    announced,
    answer_from_frame,
    frame_from,
    greeted,
    message,
    questions_of,
    serving,
)
from record import record
from split_overhead import untrained_bundle
from wire_bytes import PACKET_BYTES, counting

from bottlekit.build.build import build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engines_for_bundle
from bottlekit.device.runners import runner_from_engine
from bottlekit.device.stats import summary
from bottlekit.device.wire.answers import logits_from_answer
from bottlekit.targets.loader import target_from_name

CLAIM = (
    "with 32 clients, batching gives more answers a second than one at a time and than gRPC into the same tail, "
    "and none is wrong or lost"
)
CASE = ("resnet18", 64, 10, "rb1", 2)
CLIENTS = (1, 8, 32, 128)
MAX_BATCH = {"together": 16, "one at a time": 1}
GRPC = "grpc"
WAYS = (*MAX_BATCH, GRPC)
WARM_UP_S = 0.5
COUNTED_REQUESTS = 1000

Address = tuple[str, int]
# Asks the question of a number, in the turn of a number: its logits, and how many shared a batch.
Ask = Callable[[int, int], Awaitable[tuple[np.ndarray, int]]]


@contextlib.asynccontextmanager
async def thrift_client(address: Address, questions: Questions) -> AsyncIterator[Ask]:
    """A connection to `bottlekit serve`."""
    reader, writer, _ = await greeted(*address)

    async def ask(which: int, turn: int) -> tuple[np.ndarray, int]:
        number = turn % 100 + 1
        writer.write(message("infer", number, 0, questions.all[which].payload, 0, None))
        answer = answer_from_frame(await frame_from(reader), number)
        return logits_from_answer(answer, questions.all[which].logits.size)[1], answer.batch or 1

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def grpc_client(address: Address, questions: Questions) -> AsyncIterator[Ask]:
    """A channel to grpc_tail.py with a connection of its own, which channels of one process share otherwise."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel("{}:{}".format(*address), options=options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{METHOD}")

        async def ask(which: int, _turn: int) -> tuple[np.ndarray, int]:
            return np.frombuffer(await call(questions.all[which].payload), "<f4"), 1

        yield ask


def client_for(way: str) -> Callable[[Address, Questions], contextlib.AbstractAsyncContextManager[Ask]]:
    """What speaks to the server of this way."""
    return grpc_client if way == GRPC else thrift_client


async def checked(ask: Ask, questions: Questions, turn: int) -> int:
    """Ask; how many shared the batch. Ends the run with another's answer."""
    which = turn % len(questions.all)
    logits, batch = await ask(which, turn)
    if not questions.is_answer(which, logits):
        raise WrongAnswerError("a client got logits that are not those of its payload")
    return batch


async def load(way: str, address: Address, questions: Questions, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so long: answers a second, latencies in ms, and how many shared a batch."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    taken: list[tuple[float, float, int]] = []

    async def client(turn: int) -> None:
        async with client_for(way)(address, questions) as ask:
            while (started := time.perf_counter()) < end:
                batch = await checked(ask, questions, turn)
                now = time.perf_counter()
                taken.append((now, (now - started) * 1e3, batch))
                turn += 1

    await asyncio.gather(*(client(7 * number) for number in range(clients)))
    counted = [one for one in taken if begin <= one[0] <= end]
    return {
        "answers": len(counted),
        "per_s": len(counted) / seconds,
        "mean_batch": float(np.mean([batch for _, _, batch in counted])),
        "latency_ms": [round(latency_ms, 3) for _, latency_ms, _ in counted],
    }


async def wire_cost(way: str, address: Address, questions: Questions) -> dict[str, float]:
    """Bytes and packets per request of one client, both ways; the payload's bytes among them."""
    async with counting(*address) as counter, client_for(way)(counter.address, questions) as ask:
        for turn in range(COUNTED_REQUESTS // 10):
            await checked(ask, questions, turn)
        before = counter.counted()
        for turn in range(COUNTED_REQUESTS):
            await checked(ask, questions, turn)
        found = counter.counted().since(before)
    payloads = [len(questions.all[turn % len(questions.all)].payload) for turn in range(COUNTED_REQUESTS)]
    per_request = {f"{name}": value / COUNTED_REQUESTS for name, value in found._asdict().items()}
    return {
        "payload_bytes": float(np.mean(payloads)),
        **per_request,
        "up_on_the_wire_bytes": per_request["up_bytes"] + PACKET_BYTES * per_request["up_packets"],
        "down_on_the_wire_bytes": per_request["down_bytes"] + PACKET_BYTES * per_request["down_packets"],
    }


def measure(
    bundle: Bundle, engines: Path, rounds: int, seconds: float, threads: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """For each number of clients, all ways in turns; then what a request costs on the wire."""
    build_bundle(bundle, target_from_name("cpu"), engines, ["head", "tail"])
    engine = engines_for_bundle(str(engines), bundle, "cpu")["tail"]
    with runner_from_engine(engine, threads, spin=False) as tail:
        questions = questions_of(bundle, tail)
    some = () if threads is None else (threads,)
    cases = []
    with contextlib.ExitStack() as stack:
        addresses: dict[str, Address] = {}
        for way, most in MAX_BATCH.items():
            options = ["--engines", engines, "--target", "cpu", "--max-batch", most]
            options += ["--threads", *some] if some else []
            _, told = stack.enter_context(serving(bundle.path, *options))
            addresses[way] = (told["host"], told["port"])
        words = (Path(__file__).parent / "grpc_tail.py", bundle.path, engines, *some)
        _, told = stack.enter_context(announced(*words))
        addresses[GRPC] = (told["host"], told["port"])
        for clients in CLIENTS:
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    runs[way].append(asyncio.run(load(way, addresses[way], questions, clients, seconds)))
            case: dict[str, Any] = {"clients": clients, **{way: _summed_up(taken) for way, taken in runs.items()}}
            case["ratio"] = case["together"]["per_s"] / case["one at a time"]["per_s"]
            case["ratio_to_grpc"] = case["together"]["per_s"] / case[GRPC]["per_s"]
            cases.append(case)
            print(_line(case))
        wire = {way: asyncio.run(wire_cost(way, addresses[way], questions)) for way in ("one at a time", GRPC)}
    return cases, wire


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
    ratios = f"{case['ratio']:.2f} of one at a time, {case['ratio_to_grpc']:.2f} of grpc"
    return f"{case['clients']:4} clients: {'; '.join(ways)}; {ratios}"


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="a bundle; without one, an untrained ResNet-18 at 64 x 64"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each turn takes")
    parser.add_argument("--threads", type=int, default=None, help="threads for one tail; all cores without it")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = Bundle.load(str(options.bundle)) if options.bundle else untrained_bundle(CASE, folder)
        cases, wire = measure(bundle, folder / "engines", options.rounds, options.seconds, options.threads)
        answers = sum(case[way]["answers"] for case in cases for way in WAYS)
        print(f"{answers} answers counted, every one checked")
        for way, cost in wire.items():
            print(f"{way}: " + ", ".join(f"{name} {value:.1f}" for name, value in cost.items()))
        result = {"bundle": bundle.name, "input_size": bundle.input_shape[2], "cases": cases, "wire": wire}
    print(f"recorded in {record(CLAIM, result, options.threads)}")


if __name__ == "__main__":
    main()
