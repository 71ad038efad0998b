"""What splitting costs beyond computing: client-measured time over a loopback socket / the phases measured alone.

    alone     head, encode, decode, tail: each in a process of its own (bottlekit.device.bench), medians added up
    loopback  head and encode here, decode and tail in a real `bottlekit serve` process, on the client's clock

Both run the same engine files on the same golden inputs with the same number of threads, in turns: alone, loopback,
alone, loopback ... A remote answer that differs from the golden one ends the run.

Device and server are two machines, which do not share their cores: without --threads each gets half of this one's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from bottlekit.build.build import build_bundle
from bottlekit.device.bench import Effort, bench_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.engine import Engine, engines_for_bundle
from bottlekit.device.runners import runner_from_engine
from bottlekit.device.stats import MINIMUM_COUNTS, summary
from bottlekit.targets.loader import target_from_name

CLAIM = "a split over loopback takes at most 1.10 times head + encode + decode + tail measured alone"
PHASES = ("head", "encode", "decode", "tail")
# Backbone, input size, classes, split, channels: the papers' network at both of their splits, and the digits' one.
CASES = (
    ("resnet50", 224, 100, "rb1", 1),
    ("resnet50", 224, 100, "rb8", 5),
    ("resnet18", 64, 10, "rb1", 2),
)
WARM_UP = 20


def half_of_the_cores() -> int:
    """What each of two machines has that are one: at least one core."""
    return max((os.cpu_count() or 1) // 2, 1)


def untrained_bundle(case: tuple[str, int, int, str, int], folder: Path) -> Bundle:
    """A bundle with random weights: what it computes takes as long as if it were trained."""
    import torch

    from bottlekit.export.bundle_writer import bundle_from_checkpoint
    from bottlekit.export.source import Untrained
    from bottlekit.models.backbones import backbone_from_name
    from bottlekit.specs import BottleneckSpec, CodecSpec

    backbone, input_size, classes, split, channels = case
    weights = folder / f"{backbone}.pt"
    torch.manual_seed(0)
    torch.save(backbone_from_name(backbone, classes).state_dict(), weights)
    unit = Untrained(BottleneckSpec("bottlenet", split, channels), CodecSpec("jpeg"), backbone, input_size)
    return bundle_from_checkpoint(weights, folder / f"{backbone}-{split}", untrained=unit, command=__file__)


@contextlib.contextmanager
def serving(bundle: Bundle, engines: Path, threads: int) -> Iterator[tuple[str, int]]:
    """A server process for the length of the `with` block; yields its address."""
    words = ["serve", bundle.path, "--port", "0", "--engines", str(engines), "--target", "cpu", "--json", "--quiet"]
    words += ["--threads", str(threads)]
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


def loopback(
    bundle: Bundle, head: Engine, address: tuple[str, int], samples: int, threads: int
) -> list[dict[str, float]]:
    """Times in ms of `samples` inferences, golden inputs in turns: "total" on this clock, and its parts."""
    golden = bundle.golden()
    taken = []
    with runner_from_engine(head, threads, spin=False) as runner, SplitClient(bundle, *address, runner) as client:
        for number in range(WARM_UP + samples):
            index = number % len(golden["image"])
            image = golden["image"][index : index + 1]
            started = time.perf_counter()
            answer = client.infer_input(image)
            total_ms = (time.perf_counter() - started) * 1e3
            if not np.allclose(answer.logits, golden["logits"][index], rtol=1e-3, atol=1e-3):
                raise SystemExit(f"{bundle.name}: the remote answer for golden input {index} is not the golden one")
            if number >= WARM_UP:
                taken.append({"total": total_ms, **answer.times_ms})
    return taken


def measure(bundle: Bundle, engines_dir: Path, rounds: int, samples: int, threads: int) -> dict[str, Any]:
    """Alone and loopback in turns; the ratio of each round and of all of them."""
    build_bundle(bundle, target_from_name("cpu"), engines_dir, ["head", "tail"])
    engines = engines_for_bundle(str(engines_dir), bundle, "cpu")
    alone_ms: dict[str, list[float]] = {phase: [] for phase in PHASES}
    loopback_ms: list[dict[str, float]] = []
    ratios = []
    with serving(bundle, engines_dir, threads) as address:
        for _ in range(rounds):
            entry = bench_bundle(bundle, engines, PHASES, Effort(samples, 120.0, 1.0), threads)
            taken = loopback(bundle, engines["head"], address, samples, threads)
            ratios.append(
                statistics.median(one["total"] for one in taken)
                / sum(entry["phases"][phase]["summary"]["p50_ms"] for phase in PHASES)
            )
            for phase in PHASES:
                alone_ms[phase] += entry["phases"][phase]["samples_ms"]
            loopback_ms += taken
    alone_p50 = {phase: statistics.median(values) for phase, values in alone_ms.items()}
    loopback_p50 = {name: statistics.median(one[name] for one in loopback_ms) for name in loopback_ms[0]}
    return {
        "bundle": bundle.name,
        "input_size": bundle.input_shape[2],
        "payload_bytes": bundle.manifest["payload_bytes"]["mean"],
        "ratio": loopback_p50["total"] / sum(alone_p50.values()),
        "ratio_by_round": ratios,
        "overhead_ms": loopback_p50["total"] - sum(alone_p50.values()),
        "alone_p50_ms": alone_p50,
        "loopback_p50_ms": loopback_p50,
        "loopback_summary": summary([one["total"] for one in loopback_ms]),
        "alone_samples_ms": alone_ms,
        "loopback_samples_ms": loopback_ms,
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", type=Path, help="bundles; without any, three untrained ones are made")
    parser.add_argument("--rounds", type=int, default=3, help="how often alone and loopback take turns")
    parser.add_argument("--samples", type=int, default=MINIMUM_COUNTS[90], help="samples of each in each round")
    half = half_of_the_cores()
    parser.add_argument("--threads", type=int, default=half, help="threads for one operator; half of the cores")
    options = parser.parse_args()

    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in options.bundles or CASES:
            bundle = Bundle.load(str(case)) if isinstance(case, Path) else untrained_bundle(case, folder)
            result = measure(bundle, folder / "engines", options.rounds, options.samples, options.threads)
            results.append(result)
            print(
                f"{bundle.name} at {result['input_size']}: loopback {result['loopback_p50_ms']['total']:.2f} ms, "
                f"alone {sum(result['alone_p50_ms'].values()):.2f} ms, ratio {result['ratio']:.3f} "
                f"(rounds {', '.join(f'{ratio:.3f}' for ratio in result['ratio_by_round'])})"
            )
    print(f"recorded in {record(CLAIM, {'cases': results}, options.threads)}")


if __name__ == "__main__":
    main()
