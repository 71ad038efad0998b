"""What batching across clients brings, and what others would: one tail, served in five ways to 1 to 128 clients.

    together        bottlekit serve --max-batch 16: what comes in while the tail is busy is computed together
    one at a time   bottlekit serve --max-batch 1
    grpc            the same payloads into the same tail behind grpc.aio, one at a time (grpc_tail.py)
    triton          the same in a real tritonserver, batches up to 16, asked over KServe's gRPC (triton_tail.py)
    front           bottlekit serve --triton before that tritonserver

All servers run all the time, with the same engine and as many threads; clients ask one of them for a while,
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
import functools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
from serving_picture import main as write_page
from split_overhead import untrained_bundle
from triton_tail import Ask, kserve_client, tail_runs, triton_with
from wire_bytes import PACKET_BYTES, counting

from bottlekit.build.build import build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine, engines_for_bundle
from bottlekit.device.runners import runner_from_engine
from bottlekit.device.stats import summary
from bottlekit.device.wire.answers import logits_from_answer
from bottlekit.targets.loader import target_from_name

CLAIM = (
    "with 32 clients, batching gives more answers a second than one at a time and than gRPC into the same tail, "
    "and no fewer than Triton with it; none is wrong or lost"
)
CASE = ("resnet18", 64, 10, "rb1", 2)
CLIENTS = (1, 8, 32, 128)
MAX_BATCH = {"together": 16, "one at a time": 1}
GRPC, TRITON, FRONT = "grpc", "triton", "front"
WAYS = (*MAX_BATCH, GRPC, TRITON, FRONT)
WARM_UP_S = 0.5
COUNTED_REQUESTS = 1000

Address = tuple[str, int]
Client = Callable[[Address, Questions], contextlib.AbstractAsyncContextManager[Ask]]


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


def client_for(way: str, bundle: Bundle) -> Client:
    """What speaks to the server of this way."""
    if way == TRITON:
        return functools.partial(kserve_client, bundle=bundle)
    return grpc_client if way == GRPC else thrift_client


async def checked(ask: Ask, questions: Questions, turn: int) -> int:
    """Ask; how many shared the batch. Ends the run with another's answer."""
    which = turn % len(questions.all)
    logits, batch = await ask(which, turn)
    if not questions.is_answer(which, logits):
        raise WrongAnswerError("a client got logits that are not those of its payload")
    return batch


async def load(
    connect: Client, address: Address, questions: Questions, clients: int, seconds: float
) -> dict[str, Any]:
    """So many clients for so long: answers a second, latencies in ms, and how many shared a batch."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    taken: list[tuple[float, float, int]] = []

    async def client(turn: int) -> None:
        async with connect(address, questions) as ask:
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


async def wire_cost(connect: Client, address: Address, questions: Questions) -> dict[str, float]:
    """Bytes and packets per request of one client, both ways; the payload's bytes among them."""
    async with counting(*address) as counter, connect(counter.address, questions) as ask:
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


@contextlib.contextmanager
def all_servers(
    bundle: Bundle, engine: Engine, engines: Path, folder: Path, threads: int | None, ways: Sequence[str]
) -> Iterator[tuple[dict[str, Address], Any]]:
    """(where each way is asked, the Triton or None)."""
    some = () if threads is None else (threads,)
    triton = None
    with contextlib.ExitStack() as stack:
        addresses: dict[str, Address] = {}

        def add(way: str, told: dict[str, Any]) -> None:
            addresses[way] = (told["host"], told["port"])

        for way, most in MAX_BATCH.items():
            options = ["--engines", engines, "--target", "cpu", "--max-batch", most]
            options += ["--threads", *some] if some else []
            add(way, stack.enter_context(serving(bundle.path, *options))[1])
        words = (Path(__file__).parent / "grpc_tail.py", bundle.path, engines, *some)
        add(GRPC, stack.enter_context(announced(*words))[1])
        if TRITON in ways or FRONT in ways:
            triton = stack.enter_context(triton_with(bundle, engine, folder, MAX_BATCH["together"], threads))
            addresses[TRITON] = ("127.0.0.1", triton.port)
            add(FRONT, stack.enter_context(serving(bundle.path, "--triton", f"grpc://{triton.grpc}"))[1])
        yield addresses, triton


def measure(
    bundle: Bundle, folder: Path, rounds: int, seconds: float, threads: int | None, numbers: Sequence[int],
    ways: Sequence[str],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
    """For each number of clients, all ways in turns; then what a request costs on the wire."""
    engines = folder / "engines"
    build_bundle(bundle, target_from_name("cpu"), engines, ["head", "tail"])
    engine = engines_for_bundle(str(engines), bundle, "cpu")["tail"]
    with runner_from_engine(engine, threads, spin=False) as tail:
        questions = questions_of(bundle, tail)
    connect = {way: client_for(way, bundle) for way in ways}
    cases = []
    with all_servers(bundle, engine, engines, folder, threads, ways) as (addresses, triton):

        def turn(way: str, clients: int) -> dict[str, Any]:
            of_triton = triton if way in (TRITON, FRONT) else None
            before = (0, 0) if of_triton is None else tail_runs(triton.http_port, bundle)
            taken = asyncio.run(load(connect[way], addresses[way], questions, clients, seconds))
            if of_triton is not None:  # its answers do not say how many shared a batch
                after = tail_runs(triton.http_port, bundle)
                taken["mean_batch"] = (after[0] - before[0]) / max(1, after[1] - before[1])
            return taken

        for clients in numbers:
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    runs[way].append(turn(way, clients))
            case: dict[str, Any] = {"clients": clients, **{way: _summed_up(taken) for way, taken in runs.items()}}
            case["ratio"] = {way: case["together"]["per_s"] / case[way]["per_s"] for way in ways}
            cases.append(case)
            print(_line(case, ways), flush=True)
        wire = {
            way: asyncio.run(wire_cost(connect[way], addresses[way], questions))
            for way in ways
            if way not in ("together", FRONT)  # these send what one at a time sends
        }
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


def _line(case: dict[str, Any], ways: Sequence[str]) -> str:
    words = [
        f"{way} {found['per_s']:.0f}/s, p50 {found['p50_ms']:.2f} ms, "
        f"p99 {'-' if found['p99_ms'] is None else format(found['p99_ms'], '.2f')} ms, "
        f"{found['mean_batch']:.1f} a batch, together is {case['ratio'][way]:.2f} of it"
        for way, found in ((way, case[way]) for way in ways)
    ]
    return f"{case['clients']:4} clients: {'; '.join(words)}"


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="a bundle; without one, an untrained ResNet-18 at 64 x 64"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--seconds", type=float, default=3.5, help="how long each turn takes")
    parser.add_argument("--threads", type=int, default=None, help="threads for one tail; all cores without it")
    parser.add_argument("--clients", type=int, action="append", help="how many; again for more, not all four")
    parser.add_argument("--without", choices=WAYS[1:], action="append", default=[], help="a way to leave out")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    numbers = options.clients or CLIENTS
    ways = [way for way in WAYS if way not in options.without]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = Bundle.load(str(options.bundle)) if options.bundle else untrained_bundle(CASE, folder)
        cases, wire = measure(bundle, folder, options.rounds, options.seconds, options.threads, numbers, ways)
        answers = sum(case[way]["answers"] for case in cases for way in ways)
        print(f"{answers} answers counted, every one checked")
        for way, cost in wire.items():
            print(f"{way}: " + ", ".join(f"{name} {value:.1f}" for name, value in cost.items()))
        result = {"bundle": bundle.name, "input_size": bundle.input_shape[2], "cases": cases, "wire": wire}
    if options.dry:
        return
    print(f"recorded in {record(CLAIM, result, options.threads)}")
    if set(numbers) == set(CLIENTS) and len(ways) == len(WAYS):
        write_page()


if __name__ == "__main__":
    main()
