"""Plugins over ssh: the graphs are made here; the library, and what it decides of the key, are that machine's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bottlekit.build.job import PluginRequest
from bottlekit.device.bundle import Bundle
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import TargetError

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from remote_device import Device, build, only_the_agent
from tensorrt_double import plugin_library

Tiny = Callable[..., Bundle]


@pytest.fixture(name="device")
def _device(tmp_path: Path) -> Iterator[Device]:
    # This Python: the double that runs the plugins' nodes needs onnx.
    (tmp_path / "device").mkdir()
    device = Device(tmp_path / "device", Path(sys.executable))
    yield device
    device.sshd.stop()


@pytest.mark.slow
def test_plugins_are_built_there_with_that_machines_library(
    tiny_bundle: Tiny, tmp_path: Path, device: Device
) -> None:
    here = str(Path(__file__).parent)
    device.has_tensorrt(
        "8.2",
        f"sys.path.insert(0, {here!r}); from plugin_graph import PluginGraph; module.double.graph = PluginGraph",
    )
    bundle, out = tiny_bundle(), tmp_path / "engines"
    asked: dict[str, object] = {"parts": ["head", "tail"], "plugin": PluginRequest()}
    with pytest.raises(TargetError, match=r"no plugin library .*; build it: cmake -S plugins") as caught:
        build(bundle, device, out, **asked)
    assert "\n" not in str(caught.value)
    assert not list(out.glob("*.plan"))

    library = Path(plugin_library(device.home / ".cache/bottlekit/plugins"))
    (library.parent / "plugins.c").unlink()
    steps = build(bundle, device, out, **asked)
    head, tail = [step.engine for step in steps if step.engine is not None]
    for engine, node in ((head, "QuantizeTile 1"), (tail, "UntileDequantize 1")):
        assert engine.sidecar["key"]["plugin"] == {"node": node, "library_sha256": sha256_of_file(str(library))}
        assert engine.plugin_library == str(library)
        assert engine.golden_compared
    assert head.sidecar["golden"]["codes_differing"] == 0
    assert [step.state for step in build(bundle, device, out, **asked)] == ["cached", "cached"]
    elsewhere = plugin_library(tmp_path / "elsewhere", more="int other;")
    (again,) = build(bundle, device, out, parts=["tail"], plugin=PluginRequest(elsewhere))[-1:]
    assert again.engine is not None
    assert again.engine.plugin_library == elsewhere
    library.unlink()
    assert only_the_agent(device), device.files()
