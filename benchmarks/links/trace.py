"""`infer --adaptive` while the link changes, breaks, and the server stalls: what it chose, and what that cost.

    the same trace for all: adaptive, every split alone, mobile-only --> latencies, splits chosen, a picture

A real server, a real client and a paced link between them, in real time. The device is slow by waiting
(`--slower` times the phases measured here), so that where to cut matters; network and server are what they are.
The oracle knows the trace: in each stretch of it, it takes whatever had the least median latency there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from record import record

from bottlekit.device.files import write_json
from bottlekit.specs import BottleneckSpec, CodecSpec
from links.namespaces import Namespaces, OneMachine, ended_by_signals, process, why_no_namespaces
from links.picture import draw
from links.stage import HERE, Machines, Network, fleet_in, pacing, profile_of, serving
from links.verdict import MOBILE_ONLY, Break, oracle_ms, through_breaks, total_ms

CLAIM = (
    "adaptive is within 10 % of an oracle on a measured trace, never 2 % above the best fixed split, and comes back"
)
NETWORK = Network("resnet18", 64, 10)
# Bytes halve from one to the next, as in Butterfly's table.
CHANNELS = {"rb1": 16, "rb3": 32, "rb5": 64, "rb7": 128}
# The papers' downlinks are two to three times as fast as their uplinks.
DOWN_OVER_UP = 2.5
# From when everybody is told of it to its beginning.
_LEAD_S = 1.0


class Trace(NamedTuple):
    """Rates up in Mbit/s from when on, and breaks; `seconds` long."""

    rates: list[tuple[float, float]]
    breaks: list[Break]
    seconds: float

    @property
    def begins_s(self) -> list[float]:
        """Where something changes."""
        edges = {begin_s for begin_s, _ in self.rates}
        for one in self.breaks:
            edges |= {one.begin_s, one.end_s}
        return sorted(edge for edge in edges if edge < self.seconds)


def trace_from_seed(seed: int, seconds: float, kinds: Sequence[str]) -> Trace:
    """Stretches of 4 to 8 s of 0.2 to 20 Mbit/s; evenly spread among them breaks of these kinds, 4 s each."""
    rng = random.Random(seed)
    rates = [(0.0, 5.0)]
    breaks: list[Break] = []
    now_s = rng.uniform(4.0, 8.0)
    while now_s + 4.0 < seconds:
        if len(breaks) < len(kinds) and now_s > seconds * (len(breaks) + 0.6) / (len(kinds) + 1):
            kind = kinds[len(breaks)]
            breaks.append(Break(kind, now_s, now_s + 4.0))
            if kind == "outage":
                rates.append((now_s, 0.0))
            now_s += 4.0
        rates.append((now_s, 10.0 ** rng.uniform(-0.7, 1.3)))
        now_s += rng.uniform(4.0, 8.0)
    return Trace(rates, breaks, seconds)


def slowed(profile: dict[str, Any], slower: float) -> dict[str, Any]:
    """The profile of a device on which networks take so many times longer."""
    device = json.loads(json.dumps(profile))  # bundles share what was measured once
    for entry in device["bundles"]:
        for phase in ("head", "baseline"):
            entry["phases"][phase]["summary"]["p50_ms"] *= slower
    return dict(device)


def run(
    machines: Machines, folder: Path, trace: Trace, names: Sequence[str], period_s: float
) -> tuple[dict[str, list[dict[str, Any]]], list[Break]]:
    """A client for each of `names` along the trace, all at the same time; their answers, and the breaks as made.

    Each has a server and a link of its own. All of them wait most of the time, so that they share the processor
    without getting into each other's way, and whatever else the machine does falls on all.
    """
    with contextlib.ExitStack() as stack:
        serves, pacers, devices = [], [], {}
        for name in names:
            server, serve = stack.enter_context(serving(machines, folder, 1))
            # Before the trace the link is fast, so that everybody gets ready.
            address, pacer = stack.enter_context(pacing(machines, server, 20.0, 20.0))
            words = machines.command("device", [sys.executable, str(HERE), "device"])
            device = stack.enter_context(process(words, stdin=subprocess.PIPE))
            job = {
                "fleet": str(folder / "fleet"),
                "engines": str(folder / "engines"),
                "profile": str(folder / "device.json"),
                "server_profile": str(folder / "server.json"),
                "address": address,
                "pin": None if name == "adaptive" else name,
                "seconds": trace.seconds,
                "period_s": period_s,
            }
            _tell(device, job)
            serves.append(serve)
            pacers.append(pacer)
            devices[name] = device
        outputs = {name: device.stdout for name, device in devices.items() if device.stdout is not None}
        for name, output in outputs.items():
            if not output.readline():
                raise SystemExit(f"the device that was to use {name} did not start")
        begin_s = time.monotonic() + _LEAD_S
        up = [(begin_s + at_s, mbps) for at_s, mbps in trace.rates]
        for pacer in pacers:
            _tell(pacer, {"up": up, "down": [(at_s, mbps * DOWN_OVER_UP) for at_s, mbps in up]})
        for device in devices.values():
            _tell(device, {"begin_s": begin_s})
        over = threading.Event()
        # One thread for each device's answers, and one that breaks things.
        pool = stack.enter_context(ThreadPoolExecutor(len(names) + 1))
        stack.callback(over.set)
        for device in devices.values():
            stack.callback(device.terminate)
        breaking = pool.submit(_break, machines, serves, trace.breaks, begin_s, over)
        answers = {name: pool.submit(list, output) for name, output in outputs.items()}
        found = {name: [json.loads(line) for line in lines.result()] for name, lines in answers.items()}
        return found, breaking.result()


def _tell(started: subprocess.Popen[str], what: dict[str, Any]) -> None:
    assert started.stdin is not None
    print(json.dumps(what), file=started.stdin, flush=True)


def _break(
    machines: Machines,
    servers: Sequence[subprocess.Popen[str]],
    breaks: Sequence[Break],
    begin_s: float,
    over: threading.Event,
) -> list[Break]:
    """Stop the servers and cut the cable when the trace says so, and undo it; outages are the pacer's.

    Returns the breaks with the times when they were made and undone, which may be a little later.
    """
    made: list[Break] = []
    for one in breaks:
        if over.wait(max(0.0, begin_s + one.begin_s - time.monotonic())):
            return made
        made.append(one)
        if one.kind == "outage":
            continue
        try:
            _set_broken(machines, servers, one.kind, True)
            broken_s = time.monotonic() - begin_s
            over.wait(max(0.0, begin_s + one.end_s - time.monotonic()))
        finally:
            _set_broken(machines, servers, one.kind, False)
        made[-1] = Break(one.kind, broken_s, time.monotonic() - begin_s)
    return made


def _set_broken(machines: Machines, servers: Sequence[subprocess.Popen[str]], kind: str, is_broken: bool) -> None:
    if kind == "stall":
        for server in servers:
            server.send_signal(signal.SIGSTOP if is_broken else signal.SIGCONT)
    elif isinstance(machines, Namespaces):
        machines.cut(is_broken)


def measure(machines: Machines, folder: Path, trace: Trace, slower: float, period_s: float) -> dict[str, Any]:
    """Everybody along the same trace."""
    bottlenecks = [BottleneckSpec("butterfly", split, channels, spatial=1) for split, channels in CHANNELS.items()]
    bundles = fleet_in(folder, NETWORK, bottlenecks, CodecSpec("raw"))
    profile = profile_of(bundles, folder, 64, 1)
    write_json(str(folder / "server.json"), profile)
    write_json(str(folder / "device.json"), slowed(profile, slower))
    runs, breaks = run(machines, folder, trace, ["adaptive", *CHANNELS, MOBILE_ONLY], period_s)
    for name, answers in runs.items():
        print(f"{name}: {len(answers)} images, {total_ms(answers) / len(answers):.1f} ms each", flush=True)
    adaptive = runs["adaptive"]
    fixed = {name: answers for name, answers in runs.items() if name != "adaptive"}
    best_ms, choices = oracle_ms(adaptive, fixed, trace.begins_s)
    totals = {name: total_ms(answers) for name, answers in fixed.items()}
    best_fixed = min(totals, key=lambda name: totals[name])
    return {
        "namespaces": isinstance(machines, Namespaces),
        "slower": slower,
        "period_s": period_s,
        "images": len(adaptive),
        "adaptive_ms": total_ms(adaptive),
        "oracle_ms": best_ms,
        "over_oracle": total_ms(adaptive) / best_ms - 1.0,
        "fixed_ms": totals,
        "best_fixed": best_fixed,
        "over_best_fixed": total_ms(adaptive) / totals[best_fixed] - 1.0,
        "breaks": through_breaks(adaptive, breaks),
        "rates": trace.rates,
        "seconds": trace.seconds,
        "stretches": [list(one) for one in zip(trace.begins_s, choices, strict=True)],
        "answers": {
            name: [[one["at_s"], one["latency_ms"], one["split"], one["lost"] is not None] for one in answers]
            for name, answers in runs.items()
        },
    }


def main(words: list[str]) -> None:
    """Measure, draw, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks/links trace", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="which trace")
    parser.add_argument("--seconds", type=float, default=90.0, help="how long it is")
    parser.add_argument(
        "--slower", type=float, default=40.0, help="by what factor the device's networks are slower"
    )
    parser.add_argument("--period-s", type=float, default=0.15, help="from one image to the next")
    parser.add_argument("--no-breaks", action="store_true", help="only the rate changes")
    parser.add_argument("--work", type=Path, default=None, help="where to keep fleet and engines for another run")
    parser.add_argument("--svg", type=Path, default=None, help="where to draw it")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    options = parser.parse_args(words)
    why_not = why_no_namespaces()
    if why_not is not None:
        print(f"no namespaces: {why_not}; both ends are on the loopback, and no cable is cut")
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machines: Machines = OneMachine() if why_not is not None else stack.enter_context(Namespaces())
        kinds = () if options.no_breaks else ("outage", "stall", "cut") if why_not is None else ("outage", "stall")
        trace = trace_from_seed(options.seed, options.seconds, kinds)
        result = {
            "seed": options.seed,
            **measure(machines, folder.resolve(), trace, options.slower, options.period_s),
        }
    for one in result["breaks"]:
        print(f"{one['kind']} at {one['begin_s']:.1f} s: {one['images']} images, {one['lost']} lost and answered "
              f"here then, {one['not_answered_here']} not answered here, back after {one['back_s']} s")  # fmt: skip
    print(f"adaptive {result['over_oracle']:+.1%} over the oracle, {result['over_best_fixed']:+.1%} over "
          f"{result['best_fixed']}")  # fmt: skip
    if options.svg:
        options.svg.write_text(draw(result).svg + "\n", encoding="utf-8")
    if not options.dry:
        print(f"recorded in {record(CLAIM, result)}")
    if any(one["not_answered_here"] or one["back_s"] is None for one in result["breaks"]):
        raise SystemExit("it did not fall back to mobile-only, or did not come back")
