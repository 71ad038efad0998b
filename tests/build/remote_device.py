"""Another machine for remote builds: a real sshd, a home folder of its own, and doubles of TensorRT and CUDA."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from bottlekit.build.build import Step, build_bundle
from bottlekit.build.remote import RemoteMachine
from bottlekit.build.ssh import SshHost
from bottlekit.device.bundle import Bundle
from bottlekit.targets.loader import target_from_name

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from cuda_double import compile_double
from sshd import Sshd
from tensorrt_double import install_tensorrt


class Device:
    """The other machine: its sshd, its home folder, and what it has."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.home = folder / "home"
        self.modules = folder / "modules"
        for made in (self.home, self.modules, folder / "bin", folder / "sshd"):
            made.mkdir()
        (folder / "bin" / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n')
        (folder / "bin" / "python3").chmod(0o755)
        compile_double(folder)
        self.sshd = Sshd(folder / "sshd")
        self.sshd.profile = (
            f"cd {self.home}; export HOME={self.home} TMPDIR={self.home} PYTHONPATH={self.modules} "
            f"LD_LIBRARY_PATH={folder} OMP_NUM_THREADS=1 PATH={folder / 'bin'}:$PATH; "
        )
        self.sshd.start()
        self.said: list[str] = []

    def has_tensorrt(self, version: str, hook: str = "") -> None:
        for old in self.modules.glob("*.py"):
            old.unlink()
        install_tensorrt(self.modules, version, hook=hook)

    def machine(self, **options: float) -> RemoteMachine:
        return RemoteMachine(SshHost(self.sshd.host, self.sshd.options), self.said.append, **options)  # type: ignore[arg-type]

    def files(self) -> list[str]:
        """Everything in the home folder, but for what ONNX Runtime and NVRTC leave in any."""
        names = sorted(str(file.relative_to(self.home)) for file in self.home.rglob("*") if file.is_file())
        own = (".cache/Microsoft/", ".ses", ".cache/bottlekit/kernels/")
        return [name for name in names if not name.startswith(own) and not name.endswith(".lock")]


def build(bundle: Bundle, device: Device, out: Path, **changes: object) -> list[Step]:
    steps: list[Step] = []
    arguments: dict[str, object] = {"parts": ["head"], "precision": "fp32", "machine": device.machine(), **changes}
    build_bundle(bundle, target_from_name("tx2"), out, progress=steps.append, **arguments)  # type: ignore[arg-type]
    return steps


def only_the_agent(device: Device) -> bool:
    """Whether nothing else stays there."""
    return [re.sub("[0-9a-f]{16}", "HASH", name) for name in device.files()] == [
        ".cache/bottlekit/agent-HASH/bottlekit-agent.pyz"
    ]
