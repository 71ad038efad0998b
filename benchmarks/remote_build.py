"""What `bottlekit build --host` adds to the build itself, over a real sshd on loopback, under Python 3.6.

    job folder --agent, started here-->            engine       the build itself
    job folder --ssh--> agent there --> ssh -->    engine       the same with everything around it

Both build ResNet-50 cut behind its first block at 224 x 224, in turns, with the same interpreter, and compare the
engine with the golden outputs. There is no Jetson here: the target tx2 is built with a double of TensorRT 8.2,
which remembers the graph rather than compiling it, so its own time is next to nothing and what is left is the
overhead. The target cpu is a real build, by ONNX Runtime. A loopback has no bandwidth to wait for: what a network
adds is bytes / bandwidth, and the bytes are in the result.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import record

from bottlekit.build.build import jobs_for
from bottlekit.build.job import Job
from bottlekit.build.job_folder import job_folder_from_job
from bottlekit.build.remote import RemoteMachine
from bottlekit.build.ssh import SshHost
from bottlekit.device.bundle import Bundle
from bottlekit.export.bundle_writer import bundle_from_checkpoint
from bottlekit.export.source import Untrained
from bottlekit.models.backbones import backbone_from_name
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.targets.loader import target_from_name

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "build"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "device"))
from cuda_double import compile_double
from python36 import python36_with_requirements
from sshd import Sshd
from tensorrt_double import install_tensorrt

CLAIM = "building on another machine costs a few seconds an engine more than the build itself"
TENSORRT = "8.2"
TENSORRT_VERSION = "8.2.1.8"


class Loopback:
    """This machine as another one: its own home folder, Python 3.6, doubles of TensorRT and CUDA."""

    def __init__(self, folder: Path) -> None:
        for name in ("home", "modules", "sshd"):
            (folder / name).mkdir()
        self.home = folder / "home"
        self.python = python36_with_requirements()
        compile_double(folder)
        install_tensorrt(folder / "modules", TENSORRT)
        self.environment = {
            "PYTHONPATH": str(folder / "modules"),
            "LD_LIBRARY_PATH": str(folder),
            "HOME": str(self.home),
        }
        exports = " ".join(f"{name}={value}" for name, value in self.environment.items())
        self.sshd = Sshd(folder / "sshd")
        self.sshd.profile = f"cd {self.home}; export {exports} PATH={self.python.parent}:$PATH; "
        self.sshd.start()


def build_itself_ms(job: Job, device: Loopback, folder: Path) -> float:
    """The agent on a job that is there already, started without ssh."""
    job_folder_from_job(job, folder, TENSORRT_VERSION if job.target.kind == "tensorrt" else None)
    package = Path(__file__).parents[1]
    paths = f"{package}:{device.environment['PYTHONPATH']}"
    environment = {**os.environ, **device.environment, "PYTHONPATH": paths}
    command = [str(device.python), "-m", "bottlekit.device.agent", "build", str(folder)]
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started) * 1e3


def build_there_ms(job: Job, machine: RemoteMachine, folder: Path) -> float:
    """The same through `build --host`, from the job to the engine here."""
    folder.mkdir()
    started = time.perf_counter()
    machine.compile_engine(job, folder / "engine")
    return (time.perf_counter() - started) * 1e3


def one_case(bundle: Bundle, part: str, target: str, device: Loopback, rounds: int, folder: Path) -> dict[str, Any]:
    """Both ways in turns; medians, their difference, all samples."""
    machine = RemoteMachine(SshHost(device.sshd.host, device.sshd.options), lambda line: None)
    machine.facts()
    itself, there = [], []
    for turn in range(rounds):
        out = folder / f"{target}-{part}-{turn}"
        out.mkdir()
        (job,) = jobs_for(bundle, target_from_name(target), out / "engines", [part], "fp32", None)
        itself.append(build_itself_ms(job, device, out / "job"))
        there.append(build_there_ms(job, machine, out / "there"))
    sent = sum(file.stat().st_size for file in (out / "job").iterdir() if file.is_file())
    back = sum(file.stat().st_size for file in (out / "job" / "out").iterdir())
    return {
        "target": target,
        "part": part,
        "tensorrt_is_a_double": target != "cpu",
        "itself_p50_ms": statistics.median(itself),
        "there_p50_ms": statistics.median(there),
        "overhead_ms": statistics.median(b - a for a, b in zip(itself, there, strict=True)),
        "ratio": statistics.median(there) / statistics.median(itself),
        "bytes_sent": sent,
        "bytes_back": back,
        "itself_ms": itself,
        "with_host_ms": there,
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="builds of each part, each way")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        torch.save(backbone_from_name("resnet50", 100).state_dict(), folder / "weights.pt")
        untrained = Untrained(BottleneckSpec("bottlenet", "rb1", 4), CodecSpec("jpeg"), "resnet50", 224)
        bundle = bundle_from_checkpoint(
            folder / "weights.pt", folder / "resnet50-rb1", untrained=untrained, command=__file__
        )
        (folder / "device").mkdir()
        device = Loopback(folder / "device")
        try:
            for target in ("tx2", "cpu"):
                for part in ("head", "tail"):
                    case = one_case(bundle, part, target, device, options.rounds, folder)
                    cases.append(case)
                    print(
                        f"{part} for {target}: {case['itself_p50_ms']:.0f} ms itself, "
                        f"{case['there_p50_ms']:.0f} ms with --host, {case['overhead_ms']:.0f} ms more, for "
                        f"{case['bytes_sent']:,} bytes sent and {case['bytes_back']:,} back"
                    )
        finally:
            device.sshd.stop()
    print(f"recorded in {record(CLAIM, {'cases': cases}, torch.get_num_threads())}")


if __name__ == "__main__":
    main()
