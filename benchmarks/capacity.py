"""How many devices a GPU serves: measured tail times, a line through them, and a bound on waiting.

    python benchmarks/capacity.py measure    tails by batch size, decoding, the front end's own work; adds a line
    python benchmarks/capacity.py page       writes the tables of docs/capacity.md from the last line

A tail takes S(b) = fixed + each * b ms for a batch of b. tests/test_capacity.py tests the formulas.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from record import RESULTS, record

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "capacity.md"
CLAIM = "the latency that 99 of 100 requests keep is below the bound of docs/capacity.md in every simulated case"
BATCHES = (1, 2, 4, 8, 16)
LARGEST = 16
HEADROOM = 0.7
DEVICES = (1_000, 10_000, 100_000, 1_000_000)
RATES = (0.1, 1.0, 10.0)


class Tail(NamedTuple):
    """Milliseconds of a batch of b images: fixed_ms + each_ms * b."""

    fixed_ms: float
    each_ms: float

    def batch_ms(self, batch: int) -> float:
        """How long a batch takes."""
        return self.fixed_ms + self.each_ms * batch

    def per_s(self, batch: int) -> float:
        """Images a second of one server that always has full batches."""
        return batch / self.batch_ms(batch) * 1e3


def tail_from_times(median_ms: Mapping[int, float]) -> Tail:
    """The line through measured medians, by least squares of relative errors; neither part below zero."""
    batches = np.array(sorted(median_ms), float)
    times = np.array([median_ms[int(batch)] for batch in batches])
    rows = np.stack([1 / times, batches / times], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)
    if fixed < 0:
        fixed, each = 0.0, float(np.sum(batches / times) / np.sum((batches / times) ** 2))
    return Tail(float(fixed), float(each))


def erlang_c(servers: int, load: float) -> float:
    """How likely a request finds all servers busy in M/M/c, with `load` = arrivals x service time; 1 from c on."""
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B, by its recursion, which does not overflow
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def wait_ms(per_s: float, servers: int, service_ms: float, share: float) -> float:
    """What `share` of all requests wait at most in M/D/c: M/M/c's exponential tail, which falls twice as fast."""
    load = per_s * service_ms / 1e3
    if load >= servers:
        return math.inf
    busy = erlang_c(servers, load)
    return max(0.0, math.log(busy / (1 - share))) * service_ms / (2 * (servers - load))


def latency_bound_ms(per_s: float, servers: int, tail: Tail, batch: int, share: float = 0.99) -> float:
    """What `share` of all requests take at most at the tails: the batch before, the queue, and their own batch.

    The queue is that of M/D/c whose service is a full batch's share for one request.
    """
    full_ms = tail.batch_ms(batch)
    return full_ms + wait_ms(per_s, servers, full_ms / batch, share) + full_ms


def servers_for(per_s: float, tail: Tail, batch: int, headroom: float = HEADROOM) -> int:
    """How many servers keep below `headroom` of what they can, and one more that may fail."""
    return math.ceil(per_s / (headroom * tail.per_s(batch))) + 1


def simulated_ms(per_s: float, servers: int, tail: Tail, batch: int, requests: int, seed: int) -> list[float]:
    """Latencies of requests that come at random; an idle server takes what waits, up to `batch`, at once."""
    draw = random.Random(seed)
    now, arrivals = 0.0, []
    for _ in range(requests):
        now += draw.expovariate(per_s / 1e3)
        arrivals.append(now)
    free = [0.0] * servers
    latencies: list[float] = []
    first = 0
    while first < requests:
        start = max(heapq.heappop(free), arrivals[first])
        last = first
        while last < requests and last - first < batch and arrivals[last] <= start:
            last += 1
        end = start + tail.batch_ms(last - first)
        latencies += [end - arrival for arrival in arrivals[first:last]]
        heapq.heappush(free, end)
        first = last
    return latencies


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that `share` of them do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


# Measuring.


def measured_tails(rounds: int, threads: int, folder: Path) -> list[dict[str, Any]]:
    """Every batch size of the papers' network at both of their splits, in turns."""
    from split_overhead import CASES, untrained_bundle

    from bottlekit.device.ort_runner import OnnxRuntimeRunner

    found = []
    for case in CASES[:2]:
        bundle = untrained_bundle(case, folder)
        feature = bundle.golden()["decoded"][:1]
        payload = bundle.codec.encode(bundle.golden()["feature"][0])
        samples: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        decode: list[float] = []
        with OnnxRuntimeRunner(bundle.onnx_path("tail"), threads=threads) as runner:
            inputs = {batch: np.repeat(feature, batch, axis=0) for batch in BATCHES}
            expected = runner.run({"feature": feature})["logits"][0]
            for batch in BATCHES:  # and warm
                np.testing.assert_allclose(
                    runner.run({"feature": inputs[batch]})["logits"][-1], expected, rtol=1e-3, atol=1e-4
                )
            for _ in range(rounds):
                for batch in BATCHES:
                    started = time.perf_counter()
                    runner.run({"feature": inputs[batch]})
                    samples[batch].append(round((time.perf_counter() - started) * 1e3, 3))
                started = time.perf_counter()
                bundle.codec.decode(payload)
                decode.append(round((time.perf_counter() - started) * 1e3, 4))
        found.append(
            {
                "bundle": bundle.name,
                "payload_bytes": len(payload),
                "tail_samples_ms": {str(batch): values for batch, values in samples.items()},
                "decode_samples_ms": decode,
            }
        )
    return found


def front_cpu_ms(requests: int, clients: int) -> dict[str, Any]:
    """Processor time of a front end for one request, from its own clock: a double of Triton answers, elsewhere."""
    sys.path.insert(0, str(ROOT / "tests/serving"))
    from concurrent.futures import ThreadPoolExecutor

    from triton_double import triton_double

    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.client import SplitClient

    fleet = ROOT / "tests/data/tiny_fleet"
    bundles = fleet_from_path(str(fleet))
    feature = bundles[0].golden()["feature"][0]
    payload = bundles[0].codec.encode(feature)
    with triton_double(bundles) as (_, address, _):
        words = ["serve", str(fleet), "--port", "0", "--triton", f"grpc://{address}", "--json", "--quiet"]
        process = subprocess.Popen([sys.executable, "-m", "bottlekit", *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            announced = json.loads(process.stdout.readline())

            def ask(count: int) -> None:
                with SplitClient(bundles[0], announced["host"], announced["port"], timeout_s=60) as client:
                    for _ in range(count):
                        client._infer("infer", "tail", payload, 0, {})

            def cpu_ms() -> float:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e3

            with ThreadPoolExecutor(clients) as pool:
                list(pool.map(ask, [10] * clients))
                before = cpu_ms()
                list(pool.map(ask, [requests // clients] * clients))
                spent = cpu_ms() - before
        finally:
            process.terminate()
            process.wait()
    done = requests // clients * clients
    return {"requests": done, "clients": clients, "cpu_ms": spent / done}


def measure(rounds: int, threads: int) -> None:
    """Add a line of measurements to the results."""
    with tempfile.TemporaryDirectory() as folder:
        tails = measured_tails(rounds, threads, Path(folder))
    front = front_cpu_ms(2000, 8)
    path = record(CLAIM, {"tails": tails, "front": front}, threads)
    print(f"added a line to {path}")


# The page.


def last_line() -> dict[str, Any]:
    """The newest measurements."""
    line: dict[str, Any] = json.loads((RESULTS / "capacity.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return line


def tails_of(line: dict[str, Any]) -> dict[str, tuple[Tail, dict[int, float]]]:
    """By bundle: the line through its medians, and the medians."""
    found = {}
    for one in line["tails"]:
        medians = {int(batch): statistics.median(values) for batch, values in one["tail_samples_ms"].items()}
        found[one["bundle"]] = (tail_from_times(medians), medians)
    return found


# What the papers' server takes for an image, and nothing gained by batches: a stand-in for a GPU.
PAPERS_GPU = Tail(0.0, 1.0)


def table_of_tails(line: dict[str, Any]) -> str:
    """What was measured of each tail, and the line through it."""
    rows = [
        "| tail | batch of 1, 4, 16: measured ms | line: fixed + each | a second at batch 1 | at batch 16 |",
        "|---|---|---|---:|---:|",
    ]
    for name, (tail, medians) in tails_of(line).items():
        rows.append(
            f"| {name}, measured on this machine | {medians[1]:.1f}, {medians[4]:.1f}, {medians[16]:.1f} | "
            f"{tail.fixed_ms:.1f} + {tail.each_ms:.1f} ms | {1e3 / medians[1]:.0f} | {16e3 / medians[16]:.0f} |"
        )
    gpu = PAPERS_GPU
    load, cores = line["environment"]["load_average"][0], line["environment"]["usable_cores"]
    rows.append(
        f"| stand-in for a GPU | | {gpu.fixed_ms:.0f} + {gpu.each_ms:.0f} ms (assumed) | "
        f"{gpu.per_s(1):.0f} | {gpu.per_s(16):.0f} |"
    )
    rows += ["", f"Measured at a load average of {load:.0f} on {cores} cores."]
    return "\n".join(rows)


def table_of_fleets(line: dict[str, Any]) -> str:
    """How many of everything, for the first measured tail and for the stand-in."""
    name, (tail, _) = next(iter(tails_of(line).items()))
    bytes_up = line["tails"][0]["payload_bytes"] + 22  # framing of a request
    front_per_s = 1e3 / line["front"]["cpu_ms"] * HEADROOM
    rows = [
        f"| devices | requests a second each | in all | Mbit/s up | front ends | machines like this, {name} "
        "| GPUs of 1 ms | p99 there, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for devices in DEVICES:
        for rate in RATES:
            per_s = devices * rate
            gpus = servers_for(per_s, PAPERS_GPU, LARGEST)
            bound = latency_bound_ms(per_s, gpus - 1, PAPERS_GPU, LARGEST)
            cells = (
                f"{devices:,}",
                f"{rate:g}",
                f"{per_s:,.0f}",
                f"{per_s * bytes_up * 8 / 1e6:,.1f}",
                f"{math.ceil(per_s / front_per_s) + 1:,}",
                f"{servers_for(per_s, tail, LARGEST):,}",
                f"{gpus:,}",
                f"{bound:.0f}",
            )
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def simulated_cases(tail: Tail, requests: int) -> list[tuple[int, float, float, float, float]]:
    """(servers, load, simulated mean, simulated p99, bound on it)."""
    found = []
    for servers in (1, 4, 16):
        for load in (0.3, 0.5, 0.7, 0.9):
            per_s = load * servers * tail.per_s(LARGEST)
            samples = simulated_ms(per_s, servers, tail, LARGEST, requests, seed=servers)
            bound = latency_bound_ms(per_s, servers, tail, LARGEST)
            found.append((servers, load, statistics.fmean(samples), quantile(samples, 0.99), bound))
    return found


def table_of_simulations(line: dict[str, Any]) -> str:
    """The bound beside simulations, in units of a full batch's time, for the measured tail."""
    tail = next(iter(tails_of(line).values()))[0]
    full_ms = tail.batch_ms(LARGEST)
    rows = [
        "| servers | load | mean | p99 | bound on p99 |",
        "|---:|---:|---:|---:|---:|",
    ]
    for servers, load, mean, p99, bound in simulated_cases(tail, 100_000):
        rows.append(
            f"| {servers} | {load:.0%} | {mean / full_ms:.2f} | {p99 / full_ms:.2f} | {bound / full_ms:.2f} |"
        )
    return "\n".join(rows)


def page_with_tables(text: str, line: dict[str, Any]) -> str:
    """The page with its tables written anew, between their marks."""
    front = f"{line['front']['cpu_ms']:.2f} ms of one core a request (measured)"
    for name, table in (
        ("tails", table_of_tails(line)),
        ("front", front),
        ("fleets", table_of_fleets(line)),
        ("simulations", table_of_simulations(line)),
    ):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE} lacks {begin} ... {end}")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "page"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    if asked.what == "measure":
        measure(asked.rounds, asked.threads)
    else:
        PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8"), last_line()), encoding="utf-8")


if __name__ == "__main__":
    main()
