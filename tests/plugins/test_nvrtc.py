"""The kernels compiled for the GPUs of real machines, by NVRTC, without any of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bottlekit.build.agent_pack import pack_agent
from bottlekit.device import kernels as room
from bottlekit.device.errors import EngineError, TargetError
from bottlekit.device.kernels import KERNELS, SOURCES, compile_kernel, kernel_image, kernel_sources
from bottlekit.device.nvrtc import Nvrtc

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins"))
from measure_registers import SMS, usage

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "plugins" / "registers.json"
EM_CUDA = 190

if os.environ.get("CI") != "true" and importlib.util.find_spec("nvidia.cuda_nvrtc") is None:
    pytest.skip("no NVRTC 12.9 here; type: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'", allow_module_level=True)


@pytest.fixture(scope="module", name="nvrtc")
def _nvrtc() -> Nvrtc:
    found = Nvrtc(sm="6.2")
    assert found.version == (12, 9)
    return found


def test_five_gpus_and_what_the_kernels_use_of_them(nvrtc: Nvrtc) -> None:
    """The report in plugins/registers.json is what the compiler says now."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for kernel in KERNELS:
        for sm in SMS:
            compiled = compile_kernel(kernel, sm, nvrtc)
            assert compiled.kind == "cubin"
            assert compiled.image[:4] == b"\x7fELF"
            assert int.from_bytes(compiled.image[18:20], "little") == EM_CUDA
            assert f"bottlekit_{kernel}".encode() in compiled.image
            found.setdefault(kernel, {})[sm] = usage(compiled.log)
    assert all(one["spill_bytes"] == 0 for each in found.values() for one in each.values())
    assert json.loads(REPORT.read_text())["usage"] == found


def test_a_kernel_is_compiled_once(nvrtc: Nvrtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, kept_first = kernel_image("quantize_tile", "6.2", str(tmp_path))
    again, kept_again = kernel_image("quantize_tile", "6.2", str(tmp_path))
    assert (kept_first, kept_again) == (False, True)
    assert first == again
    kernel_image("quantize_tile", "6.1", str(tmp_path))
    changed = {name: text + "\n// another\n" for name, text in kernel_sources().items()}
    monkeypatch.setattr(room, "kernel_sources", lambda: changed)
    assert kernel_image("quantize_tile", "6.2", str(tmp_path))[1] is False
    assert len(list(tmp_path.iterdir())) == 3


def test_a_source_that_does_not_compile_is_one_line(nvrtc: Nvrtc) -> None:
    with pytest.raises(EngineError, match=r"NVRTC cannot compile bad.cu for SM 6.2: .*error") as caught:
        nvrtc.compile_cuda("nonsense;", {}, "6.2", name="bad.cu")
    assert "\n" not in str(caught.value)


def test_a_gpu_that_it_does_not_know(nvrtc: Nvrtc) -> None:
    with pytest.raises(EngineError, match=r"for SM 3.0"):
        compile_kernel("quantize_tile", "3.0", nvrtc)
    with pytest.raises(TargetError, match=r"does not know SM 3.0.*pip install 'nvidia-cuda-nvrtc-cu12"):
        Nvrtc(nvrtc.path, sm="3.0")


def test_what_is_no_nvrtc_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libnvrtc.so").write_bytes(b"text")
    with pytest.raises(TargetError, match="no NVRTC for the kernels here"):
        Nvrtc(str(tmp_path / "libnvrtc.so"))


def test_the_sources_travel_with_the_agent(tmp_path: Path) -> None:
    pack_agent(tmp_path / "agent.pyz")
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        held = {name for name in archive.namelist() if "kernel_sources" in name}
    assert held == {f"bottlekit/device/kernel_sources/{name}" for name in SOURCES}
    program = "from bottlekit.device.kernels import kernel_sources; print(sum(map(len, kernel_sources().values())))"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, 'agent.pyz'); {program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(map(len, kernel_sources().values()))


def test_a_missing_source_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "nothing/kernel.cuh", "nothing/kernel.cuh")
    with pytest.raises(EngineError, match="the kernel source nothing/kernel.cuh is missing"):
        kernel_sources()


def test_the_wheel_holds_every_source() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for name, place in SOURCES.items():
        assert f'"plugins/{place}" = "bottlekit/device/kernel_sources/{name}"' in text
