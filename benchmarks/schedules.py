"""What a schedule was predicted to take, and what it takes: two processes, a real socket, a paced link.

python benchmarks/schedules.py [--runs 15] [--mbps 40] [--network resnet18]

The network is profiled here, by groups; schedules of up to five switches are priced with that profile and the link,
and then run by a client in this process and a server in another, through a relay that lets so many bits a second
pass in each direction. One line in results/schedules.jsonl, with every sample.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from bottlekit.build.layer_profile import layers_from_classifier
from bottlekit.build.onnx_segments import OnnxSegments
from bottlekit.device.segments.route import Route, Step
from bottlekit.device.segments.source import Span
from bottlekit.device.segments.traveller import Traveller
from bottlekit.models.backbones import backbone_from_name
from bottlekit.planning.layers import problem_from_layers
from bottlekit.planning.schedule import Bounds, groups_from_machines, schedule_from_groups, schedule_from_problem
from bottlekit.specs import LinkSpec

SIZE = 64


class PacedRelay:
    """Passes bytes on to a server, so many a second in each direction."""

    def __init__(self, port: int, mbps: float) -> None:
        self._port = port
        self._bytes_per_s = mbps * 1e6 / 8
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, sink in ((client, server), (server, client)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        """Stamp pieces as they come in, and let another thread pass each on when the link has had time for it."""
        arrived: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._send, args=(arrived, sink), daemon=True).start()
        with contextlib.suppress(OSError):
            while piece := source.recv(4096):
                arrived.put((time.perf_counter(), piece))

    def _send(self, arrived: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        free_at = 0.0
        while True:
            came, piece = arrived.get()
            # The link is busy with a piece for as long as its bits take; it arrives at the end of that. Sleeping
            # too long does not make the link slower: the next piece is due from when this one should have gone.
            free_at = max(free_at, came) + len(piece) / self._bytes_per_s
            time.sleep(max(0.0, free_at - time.perf_counter()))
            with contextlib.suppress(OSError):
                sink.sendall(piece)


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
        profile = layers_from_classifier(path, sample=False, samples=5, threads=1)
        problem, _ = problem_from_layers(profile, profile, link, "latency", Bounds(), device_power_mw=1000.0)
        words = ["serve-layers", str(path), "--port", "0", "--threads", "1", "--json", "-q"]
        server = subprocess.Popen([sys.executable, "-m", "bottlekit", *words], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        with server:
            relay = PacedRelay(json.loads(server.stdout.readline())["port"], options.mbps)
            chosen = [schedule_from_groups(problem, groups_of(machines)) for machines in placements(problem.count)]
            chosen.append(schedule_from_problem(problem))
            rows = [executed(schedule, path, profile, relay.address, options.runs) for schedule in chosen]
            server.terminate()
    for row in rows:
        print(
            f"{row['switches']} switches: predicted {row['predicted_ms']:7.2f} ms, "
            f"median {row['median_ms']:7.2f} ms, error {100 * row['error']:+.1f} %"
        )
    errors = [abs(row["error"]) for row in rows]
    result = {
        "network": options.network,
        "input_size": SIZE,
        "mbps": options.mbps,
        "load_average": os.getloadavg(),
        "schedules": rows,
        "median_absolute_error": float(np.median(errors)),
        "largest_absolute_error": max(errors),
    }
    print(f"wrote {record('a schedule takes what was predicted', result, threads=1)}")


def groups_of(machines: list[int]) -> list[tuple[int, int, int]]:
    """One group for each run of layers on one machine."""
    return list(groups_from_machines(machines))


def executed(
    schedule: Any, path: Path, profile: dict[str, Any], address: tuple[str, int], runs: int
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
        "error": schedule.latency_ms / median - 1.0,
        "bytes": [journeys[-1].sent_bytes, journeys[-1].received_bytes],
        "samples_ms": [round(value, 3) for value in samples],
    }


if __name__ == "__main__":
    main()
