"""What a schedule was predicted to take, and what it takes: two processes, a real socket, a paced link.

python benchmarks/schedules.py [--runs 15] [--mbps 40] [--network resnet18]

The network is profiled here, by groups; schedules of up to five switches are priced with that profile and the link,
and then run by a client in this process and a server in another, through a relay that lets so many bits a second
pass in each direction. The link's round trip is measured before: what a schedule that sends next to nothing, the
last layer's input, takes beyond its layers and its bytes. Each schedule is predicted with it (half of it a switch)
and, to show what it is worth, without. One line in results/schedules.jsonl, with every sample.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from links.pacer import Pacer
from links.shaping import Rate
from record import record

from bottlekit.build.layer_profile import layers_from_classifier
from bottlekit.build.onnx_segments import OnnxSegments
from bottlekit.device.segments.route import Route, Step
from bottlekit.device.segments.source import Span
from bottlekit.device.segments.traveller import Traveller
from bottlekit.models.backbones import backbone_from_name
from bottlekit.planning.layers import problem_from_layers
from bottlekit.planning.schedule import (
    Bounds,
    Schedule,
    groups_from_machines,
    schedule_from_groups,
    schedule_from_problem,
)
from bottlekit.planning.schedule.costs import MACHINES
from bottlekit.specs import LinkSpec

SIZE = 64


def exported(network: str, path: Path) -> None:
    """The network as ONNX, with random weights."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            backbone_from_name(network, 10).eval(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path),
            opset_version=13,
            dynamo=False,
        )


def placements(count: int) -> list[list[int]]:
    """0 the mobile, 1 the cloud: both alone, single cuts, and pieces of the cloud's in the middle."""
    found = [[0] * count, [1] * count]
    for cut in (count // 4, count // 2, 3 * count // 4):
        found.append([0] * cut + [1] * (count - cut))
    for pieces in (3, 4, 5, 6):
        found.append([(layer * pieces // count) % 2 for layer in range(count)])
    return found


def main() -> None:
    """Profile, predict, run, record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--mbps", type=float, default=40.0)
    parser.add_argument("--network", default="resnet18")
    options = parser.parse_args()
    link = LinkSpec("paced", options.mbps, options.mbps, 0.0, 0.0, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.onnx"
        exported(options.network, path)
        profile = layers_from_classifier(path, sample=False, samples=15, threads=1)
        problem, _ = problem_from_layers(profile, profile, link, "latency", Bounds(), device_power_mw=1000.0)
        words = ["serve-layers", str(path), "--port", "0", "--threads", "1", "--json", "-q"]
        server = subprocess.Popen([sys.executable, "-m", "bottlekit", *words], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        with server:
            rate = Rate([(0.0, options.mbps)])
            relay = Pacer(("127.0.0.1", json.loads(server.stdout.readline())["port"]), rate, rate)
            least = schedule_from_groups(problem, groups_of([0] * (problem.count - 1) + [1]))
            rtt_ms = beyond(least, executed(least, path, profile, relay.address, 4 * options.runs))
            timed = dataclasses.replace(problem, link=dataclasses.replace(link, rtt_ms=rtt_ms))
            chosen = [schedule_from_groups(timed, groups_of(machines)) for machines in placements(problem.count)]
            chosen.append(schedule_from_problem(timed))
            rows = [executed(schedule, path, profile, relay.address, options.runs) for schedule in chosen]
            for row, schedule in zip(rows, chosen, strict=True):
                groups = [(MACHINES.index(machine), first, last) for machine, first, last in schedule.runs]
                plain = schedule_from_groups(problem, groups).latency_ms
                row["error_without_rtt"] = plain / row["median_ms"] - 1.0
            server.terminate()
    for row in rows:
        print(
            f"{row['switches']} switches: predicted {row['predicted_ms']:7.2f} ms, "
            f"median {row['median_ms']:7.2f} ms, error {100 * row['error']:+.1f} %, "
            f"without the round trip {100 * row['error_without_rtt']:+.1f} %"
        )
    errors = [abs(row["error"]) for row in rows]
    result = {
        "network": options.network,
        "input_size": SIZE,
        "mbps": options.mbps,
        "rtt_ms": rtt_ms,
        "load_average": os.getloadavg(),
        "schedules": rows,
        "median_absolute_error": float(np.median(errors)),
        "largest_absolute_error": max(errors),
        "median_absolute_error_without_rtt": float(np.median([abs(row["error_without_rtt"]) for row in rows])),
    }
    print(f"wrote {record('a schedule takes what was predicted', result, threads=1)}")


def groups_of(machines: list[int]) -> list[tuple[int, int, int]]:
    """One group for each run of layers on one machine."""
    return list(groups_from_machines(machines))


def beyond(schedule: Schedule, row: dict[str, Any]) -> float:
    """What the server's one segment took beyond its layers and its bytes, in ms: a round trip."""
    segment, sent = schedule.segments[-1], sum(transfer.ms for transfer in schedule.transfers)
    return max(0.0, float(row["steps_ms"][-1]) - segment.ms - sent)


def executed(
    schedule: Schedule, path: Path, profile: dict[str, Any], address: tuple[str, int], runs: int
) -> dict[str, Any]:
    """Run a schedule some times, the first one not counted."""
    steps = [Step(machine, Span(first, last)) for machine, first, last in schedule.runs]
    route = Route(profile["model"]["sha256"], steps, None, schedule.latency_ms)
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    with OnnxSegments(path, threads=1) as segments, Traveller(route, segments, address) as traveller:
        traveller.run(image)
        journeys = [traveller.run(image) for _ in range(runs)]
    assert all(journey.lost is None for journey in journeys)
    samples = [journey.latency_ms for journey in journeys]
    median = float(np.median(samples))
    return {
        "switches": schedule.switches,
        "runs": [list(run) for run in schedule.runs],
        "predicted_ms": schedule.latency_ms,
        "terms_ms": schedule.terms_ms,
        "median_ms": median,
        "steps_ms": np.median([[step.ms for step in journey.steps] for journey in journeys], axis=0).tolist(),
        "error": schedule.latency_ms / median - 1.0,
        "bytes": [journeys[-1].sent_bytes, journeys[-1].received_bytes],
        "samples_ms": [round(value, 3) for value in samples],
    }


if __name__ == "__main__":
    main()
