"""The papers' comparison, measured: mobile-only, cloud-only and collaborative on 3G, 4G and Wi-Fi.

    photographs --bottlekit infer (device)==shaped link==bottlekit serve (server)--> measured latency
    each phase alone + bytes / rate --------------------------------------------> modelled latency

Two ways to make the link slow, in turns: the pacer, and the kernel's tbf between network namespaces. Both machines
are this one, so that "device" and "server" are equally fast, which the papers' are not: compare measured with
modelled, and be careful with ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from record import record
from split_overhead import half_of_the_cores

from bottlekit.device.bundle import Bundle
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.planning.energy import transfer_ms
from bottlekit.planning.links import LINKS
from bottlekit.specs import BottleneckSpec, CodecSpec
from links.namespaces import Namespaces, OneMachine, ended_by_signals, why_no_namespaces
from links.page import write_table
from links.shaping import tbf_for
from links.stage import LINK_NAMES, Machines, Network, fleet_in, pacing, photographs_in, profile_of, serving

CLAIM = "on each link the measured collaborative latency is within 10 % of bytes / rate + compute"
NETWORK = Network("resnet50", 224, 100)
BOTTLENECK = BottleneckSpec("bottlenet", "rb1", 1)
SETUPS = ("mobile-only", "cloud-only", "collaborative")
# Images at the beginning of each process that are not counted.
WARM_UP = 4


class Compute(NamedTuple):
    """What each setup computes, in ms, each step measured alone."""

    whole: float
    split: float
    decode_image: float

    def of(self, setup: str) -> float:
        """All of it; the papers leave the coding of cloud-only's image out, which is measured here."""
        return {
            "mobile-only": self.whole,
            "cloud-only": self.decode_image + self.whole,
            "collaborative": self.split,
        }[setup]


class Sample(NamedTuple):
    """One image: how long it took, the bytes there and back, and how long its computing took in this very run."""

    latency_ms: float
    up_bytes: int
    down_bytes: int
    computed_ms: float


Transfer = Callable[[int, int], float]


def summed_up(samples: Sequence[tuple[Sample, float]], transfer: Transfer) -> dict[str, Any]:
    """Medians of measured and modelled latencies of samples, each with what its computing takes alone, in ms.

    `over_model` is the median of their quotients, less 1; `over_parts` the same with the computing as it was
    reported in this very run, on a machine that others use at the same time.
    """
    sent_ms = [transfer(one.up_bytes, one.down_bytes) for one, _ in samples]
    modelled = [alone_ms + sent for (_, alone_ms), sent in zip(samples, sent_ms, strict=True)]
    parts = [one.computed_ms + sent for (one, _), sent in zip(samples, sent_ms, strict=True)]
    measured = [one.latency_ms for one, _ in samples]
    return {
        "images": len(samples),
        "measured_ms": statistics.median(measured),
        "modelled_ms": statistics.median(modelled),
        "transfer_ms": statistics.median(sent_ms),
        "over_model": _over(measured, modelled),
        "over_parts": _over(measured, parts),
        "up_bytes": statistics.mean(one.up_bytes for one, _ in samples),
        "down_bytes": statistics.mean(one.down_bytes for one, _ in samples),
        "latency_samples_ms": [round(value, 3) for value in measured],
        "computed_samples_ms": [round(one.computed_ms, 3) for one, _ in samples],
        "alone_ms": sorted({round(alone_ms, 3) for _, alone_ms in samples}),
    }


def _over(measured: Sequence[float], modelled: Sequence[float]) -> float:
    return statistics.median(one / model for one, model in zip(measured, modelled, strict=True)) - 1.0


def compute_of(profile: dict[str, Any], bundle: Bundle, photographs: Sequence[Path]) -> Compute:
    """Medians of the phases, and of decoding and scaling an image."""
    phases = profile["bundles"][0]["phases"]
    medians = {name: float(phases[name]["summary"]["p50_ms"]) for name in phases}
    taken_ms = []
    for path in photographs:
        started = time.perf_counter()
        input_from_image(image_from_file(str(path)), bundle.preprocessing)
        taken_ms.append((time.perf_counter() - started) * 1e3)
    split = sum(medians[name] for name in ("head", "encode", "decode", "tail"))
    return Compute(medians["baseline"], split, statistics.median(taken_ms))


def inferred(
    machines: Machines, folder: Path, photographs: Path, setup: str, address: tuple[str, int] | None, threads: int
) -> list[Sample]:
    """`bottlekit infer` on the device."""
    words = [
        sys.executable,
        "-m",
        "bottlekit",
        "infer",
        str(folder / "fleet"),
        str(photographs),
        "--json",
        "--quiet",
    ]
    words += ["--engines", str(folder / "engines"), "--target", "cpu", "--timeout", "60", "--threads", str(threads)]
    words += [] if setup == "collaborative" else [f"--{setup}"]
    words += [] if address is None else ["--server", "{}:{}".format(*address)]
    done = subprocess.run(machines.command("device", words), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bottlekit infer, {setup}, ended with {done.returncode}")
    return [sample_of(one) for one in json.loads(done.stdout)["images"][WARM_UP:]]


def sample_of(image: dict[str, Any]) -> Sample:
    """One image of `infer --json`: what this device computed, the round trip, and what the server computed."""
    times_ms = dict(image["times_ms"])
    times_ms.pop("queue", None)
    round_trip_ms = times_ms.pop("round_trip", None)
    computed_ms = sum(times_ms.values())
    latency_ms = computed_ms
    if round_trip_ms is not None:
        latency_ms = round_trip_ms + sum(times_ms.get(name, 0.0) for name in ("head", "encode"))
    return Sample(latency_ms, image.get("framed_bytes", 0), image.get("response_bytes", 0), computed_ms)


@contextlib.contextmanager
def linked(
    machines: Machines, how: str, link: str, server: tuple[str, int]
) -> Iterator[tuple[tuple[str, int], Transfer]]:
    """The address to ask over a link, and what bytes take on it by arithmetic."""
    spec = LINKS[link]
    if how == "tbf":
        assert isinstance(machines, Namespaces)
        up, down = tbf_for(spec.uplink_mbps), tbf_for(spec.downlink_mbps)
        # Both ends of a cable have packets of one size: the smaller.
        up, down = (one._replace(mtu_bytes=up.mtu_bytes, burst_bytes=up.burst_bytes) for one in (up, down))
        machines.shape("device", up)
        machines.shape("server", down)
        yield server, lambda there, back: up.transfer_ms(there) + down.transfer_ms(back)
        return
    with pacing(machines, server, spec.uplink_mbps, spec.downlink_mbps) as (address, _):
        yield (
            address,
            lambda there, back: transfer_ms(there, spec.uplink_mbps) + transfer_ms(back, spec.downlink_mbps),
        )


def one_round(
    machines: Machines,
    how: str,
    folder: Path,
    server: tuple[str, int],
    models: dict[tuple[str, str], Transfer],
    threads: int,
) -> Iterator[tuple[str, str, list[Sample]]]:
    """(link, setup, samples) of each setup once; fills in how long bytes take."""
    photographs = folder / "photographs"
    yield "", "mobile-only", inferred(machines, folder, photographs, "mobile-only", None, threads)
    for link in LINK_NAMES:
        with linked(machines, how, link, server) as (address, models[how, link]):
            for setup in SETUPS[1:]:
                yield link, setup, inferred(machines, folder, photographs, setup, address, threads)


def measure(
    machines: Machines, ways: Sequence[str], folder: Path, images: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Every setup on every link, in turns, and the phases alone before and after."""
    bundle = fleet_in(folder, NETWORK, [BOTTLENECK], CodecSpec("jpeg"))[0]
    photographs = photographs_in(folder / "photographs", images + WARM_UP, NETWORK.size)
    taken: dict[tuple[str, str, str], list[tuple[Sample, float]]] = {}
    models: dict[tuple[str, str], Transfer] = {}
    computes: list[Compute] = []
    # The pacer goes first: the kernel's shaping stays on the cable.
    for how in ways:
        with serving(machines, folder, threads) as (server, _):
            for _ in range(rounds):
                computes.append(compute_of(profile_of([bundle], folder, 32, threads), bundle, photographs))
                for link, setup, found in one_round(machines, how, folder, server, models, threads):
                    alone_ms = computes[-1].of(setup)
                    taken.setdefault((how, link, setup), []).extend((one, alone_ms) for one in found)
                    median_ms = statistics.median(one.latency_ms for one in found)
                    print(f"{how}, {link or 'no link'}, {setup}: {median_ms:.2f} ms", flush=True)
    cases = []
    for how in ways:
        for link in LINK_NAMES:
            rows = {
                setup: summed_up(taken[how, "" if setup == "mobile-only" else link, setup], models[how, link])
                for setup in SETUPS
            }
            ratio = rows["cloud-only"]["measured_ms"] / rows["collaborative"]["measured_ms"]
            cases.append({"link": link, "shaped_by": how, "cloud_over_collaborative": ratio, "setups": rows})
    return {
        "bundle": bundle.name,
        "trained": False,
        "compute_ms": [one._asdict() for one in computes],
        "cases": cases,
    }


def main(words: list[str]) -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks/links table", description=__doc__)
    parser.add_argument("--shaper", choices=("both", "pacer", "tbf"), default="both")
    parser.add_argument("--images", type=int, default=32, help="images of each setup in each round")
    parser.add_argument("--rounds", type=int, default=2, help="how often links and setups take turns")
    half = half_of_the_cores()
    # Two machines do not share their cores: each has half of this one's.
    parser.add_argument("--threads", type=int, default=half, help="threads for one operator; half of the cores")
    parser.add_argument("--work", type=Path, default=None, help="where to keep fleet and engines for another run")
    parser.add_argument("--page", type=Path, default=None, help="a page whose table to replace")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args(words)
    why_not = why_no_namespaces()
    ways = ("pacer", "tbf") if options.shaper == "both" else (options.shaper,)
    if why_not is not None:
        print(f"no namespaces: {why_not}; both ends are on the loopback, and the pacer is the link")
        ways = ("pacer",)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machines: Machines = OneMachine()
        if why_not is None:
            machines = stack.enter_context(Namespaces())
        result = {
            "namespaces": why_not is None,
            **measure(machines, ways, folder.resolve(), options.images, options.rounds, options.threads),
        }
    if options.page:
        write_table(options.page, result)
    for case in result["cases"]:
        one = case["setups"]["collaborative"]
        print(f"{case['link']} ({case['shaped_by']}): collaborative {one['measured_ms']:.2f} ms, "
              f"{one['over_model']:+.1%} over {one['modelled_ms']:.2f} ms "
              f"({one['over_parts']:+.1%} over its own parts); "
              f"cloud-only takes {case['cloud_over_collaborative']:.2f} x as long")  # fmt: skip
    if not options.dry:
        print(f"recorded in {record(CLAIM, result, options.threads)}")
