"""What both experiments need: fleets, photographs, times of the phases alone, a server and a pacer as processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bottlekit
from bottlekit.build.build import build_bundle
from bottlekit.device.bench import Effort, bench_bundle, profile_from_entries
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import engines_for_bundle
from bottlekit.device.environment import environment
from bottlekit.device.images import jpeg_from_image
from bottlekit.planning.links import LINKS
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.targets.loader import target_from_name
from links.namespaces import Namespaces, OneMachine, process

PARTS = ("head", "tail", "baseline")
LINK_NAMES = tuple(LINKS)
HERE = Path(__file__).parent
_JPEG_QUALITY = 90

Machines = Namespaces | OneMachine


class Network(NamedTuple):
    """A network that nobody trained: random weights take as long as trained ones and send about as many bytes."""

    backbone: str
    size: int
    classes: int


def fleet_in(
    folder: Path, network: Network, bottlenecks: Sequence[BottleneckSpec], codec: CodecSpec
) -> list[Bundle]:
    """The network cut at each of these, with an untrained unit: bundles and engines. What is there is kept."""
    from bottlekit.export.bundle_writer import bundle_from_checkpoint
    from bottlekit.export.source import Untrained

    bundles = []
    for bottleneck in bottlenecks:
        path = folder / "fleet" / f"{network.backbone}-{bottleneck.split}"
        if path.is_dir():
            bundle = Bundle.load(str(path))
        else:
            unit = Untrained(bottleneck, codec, network.backbone, network.size)
            weights = _weights(folder, network)
            bundle = bundle_from_checkpoint(weights, path, untrained=unit, command="benchmarks/links")
        build_bundle(bundle, target_from_name("cpu"), folder / "engines", list(PARTS))
        bundles.append(bundle)
    return bundles


def _weights(folder: Path, network: Network) -> Path:
    import torch

    from bottlekit.models.backbones import backbone_from_name

    path = folder / f"{network.backbone}.pt"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        torch.save(backbone_from_name(network.backbone, network.classes).state_dict(), path)
    return path


def photographs_in(folder: Path, count: int, size: int) -> list[Path]:
    """JPEG files of size x size: pieces of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    photographs = load_sample_images().images
    paths = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (int(random.integers(0, extent - size)) for extent in photograph.shape[:2])
        piece = np.ascontiguousarray(photograph[top : top + size, left : left + size])
        paths.append(folder / f"{number:03}.jpg")
        paths[-1].write_bytes(jpeg_from_image(piece, _JPEG_QUALITY))
    return paths


def profile_of(bundles: Sequence[Bundle], folder: Path, samples: int, threads: int | None) -> dict[str, Any]:
    """Each phase alone in a process of its own, as `bottlekit bench` takes it."""
    effort = Effort(samples, 60.0, 1.0)
    known: dict[str, dict[str, Any]] = {}
    phases = ("head", "encode", "decode", "tail", "baseline")
    entries = [
        bench_bundle(
            bundle,
            engines_for_bundle(str(folder / "engines"), bundle, "cpu"),
            phases,
            effort,
            threads,
            measured_before=known,
        )
        for bundle in bundles
    ]
    return profile_from_entries(entries, "cpu", environment(threads), bottlekit.__version__, "benchmarks/links")


@contextlib.contextmanager
def serving(
    machines: Machines, folder: Path, threads: int | None
) -> Iterator[tuple[tuple[str, int], subprocess.Popen[str]]]:
    """`bottlekit serve` on the server: its address as the device sees it, and its process."""
    words = [sys.executable, "-m", "bottlekit", "serve", str(folder / "fleet"), "--insecure", "--json", "--quiet"]
    words += ["--host", machines.address("server"), "--port", "0"]
    words += ["--engines", str(folder / "engines"), "--target", "cpu"]
    words += [] if threads is None else ["--threads", str(threads)]
    with process(machines.command("server", words)) as server:
        announced = _first_line(server, "the server")
        yield (announced["host"], announced["port"]), server


@contextlib.contextmanager
def pacing(
    machines: Machines, server: tuple[str, int], up_mbps: float, down_mbps: float
) -> Iterator[tuple[tuple[str, int], subprocess.Popen[str]]]:
    """The pacer beside the device: the address to ask in the server's place, and its process."""
    words = [sys.executable, str(HERE), "pacer", "--to", "{}:{}".format(*server)]
    words += ["--up-mbps", repr(up_mbps), "--down-mbps", repr(down_mbps)]
    with process(machines.command("device", words), stdin=subprocess.PIPE) as relay:
        yield ("127.0.0.1", _first_line(relay, "the pacer")["port"]), relay


def _first_line(started: subprocess.Popen[str], what: str) -> dict[str, Any]:
    assert started.stdout is not None
    line = started.stdout.readline()
    if not line:
        raise SystemExit(f"{what} did not start")
    found: dict[str, Any] = json.loads(line)
    return found
