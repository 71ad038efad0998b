"""Heads and tails with the plugins' nodes: built, compared as codes, run, and refused without their library.

The double of TensorRT takes a node only where the double of the library was loaded into its process; builds run in
processes of their own, as ever.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bottlekit.build.build import Step, build_bundle, jobs_for
from bottlekit.build.check import check_jobs
from bottlekit.build.job import PluginRequest
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import TargetError, UsageError
from bottlekit.targets import availability
from bottlekit.targets.here import machine_here
from bottlekit.targets.loader import TargetSpec, all_targets, target_from_name

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from cuda_double import compile_double
from tensorrt_double import install_tensorrt, plugin_library

Tiny = Callable[..., Bundle]
HERE = str(Path(__file__).parent)
HOOK = f"sys.path.insert(0, {HERE!r}); from plugin_graph import PluginGraph; module.double.graph = PluginGraph"
TARGETS = {"tx2": "8.2", "gtx1080ti": "8.6", "orin": "10.16", "h100": "11.4"}
TENSORRT = [target.name for target in all_targets() if target.kind == "tensorrt"]


@pytest.fixture(scope="session", name="cudart")
def _cudart(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cudart")
    compile_double(folder)
    return str(folder)


@pytest.fixture(name="machine")
def _machine(cudart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that makes this machine one with a GPU and a double of a TensorRT that knows plugins."""

    def become(version: str) -> None:
        machine_here.cache_clear()
        install_tensorrt(tmp_path / "modules", version, hook=HOOK)
        for name, value in (
            ("PYTHONPATH", str(tmp_path / "modules")),
            ("LD_LIBRARY_PATH", cudart),
            ("OMP_NUM_THREADS", "1"),
            ("XDG_CACHE_HOME", str(tmp_path / "cache")),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(availability, "nvidia_gpu_is_here", lambda: True)

    yield become
    machine_here.cache_clear()


def here(name: str) -> TargetSpec:
    return dataclasses.replace(target_from_name(name), sm="6.2")


def build(bundle: Bundle, target: TargetSpec, out: Path, library: str | None, parts: list[str]) -> list[Step]:
    steps: list[Step] = []
    request = PluginRequest(library)
    build_bundle(bundle, target, out, parts, progress=steps.append, plugin=request)
    return steps


def major(name: str) -> int:
    return int(TARGETS[name].split(".")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_head_and_tail_are_built_with_codes_at_their_edge(
    tiny_bundle: Tiny, tmp_path: Path, machine: Callable[[str], None], name: str
) -> None:
    machine(TARGETS[name])
    library = plugin_library(tmp_path / "library", major(name))
    steps = build(tiny_bundle(), here(name), tmp_path / "out", library, ["head", "tail", "full"])
    head, tail, full = [step.engine for step in steps if step.engine is not None]
    for engine, node in ((head, "QuantizeTile 1"), (tail, "UntileDequantize 1")):
        assert engine.sidecar["key"]["plugin"] == {"node": node, "library_sha256": sha256_of_file(library)}
        assert (engine.has_plugin, engine.plugin_library) == (True, library)
        assert engine.golden_compared
    assert (full.has_plugin, full.plugin_library) == (False, None)
    golden = head.sidecar["golden"]
    if name == "h100":
        # FP16 is in the graph there, and ONNX Runtime obeys it.
        assert (golden["judged_as"], golden["codes_max_step"] <= 1) == ("fp16", True)
    else:
        assert (golden["codes_differing"], golden["codes_max_step"], golden["max_abs"]) == (0, 0, 0)
    assert tail.sidecar["golden"]["top1_agreement"] == 1
    again = build(tiny_bundle(), here(name), tmp_path / "out", library, ["head", "tail"])
    assert [step.state for step in again] == ["cached", "cached"]


@pytest.mark.slow
def test_another_library_or_none_builds_again(
    tiny_bundle: Tiny, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    machine("8.2")
    first = plugin_library(tmp_path / "one")
    build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out", first, ["head"])
    other = plugin_library(tmp_path / "other", more="int other;")
    steps = build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out", other, ["head"])
    assert steps[0].why is not None
    assert steps[0].why.startswith("rebuilding: plugin was {")
    plain: list[Step] = []
    build_bundle(tiny_bundle(), target_from_name("tx2"), tmp_path / "out", ["head"], progress=plain.append)
    assert plain[0].why is not None
    assert plain[0].why.endswith("is absent")
    assert plain[-1].engine is not None
    assert not plain[-1].engine.has_plugin


RUN = """
import sys
import numpy as np
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine
from bottlekit.device.errors import BottlekitError
from bottlekit.device.pipeline import LocalSplit
from bottlekit.device.runners import runner_from_engine
bundle = Bundle.load(sys.argv[1])
try:
    with runner_from_engine(Engine.load(sys.argv[2])) as head, runner_from_engine(Engine.load(sys.argv[3])) as tail:
        outcome = LocalSplit(head, bundle.codec, tail).infer(bundle.golden()["image"][:1])
        print("logits", *outcome.logits.tolist())
except BottlekitError as error:
    print(type(error).__name__, error)
"""


def run(bundle: Bundle, head: Engine, tail: Engine) -> str:
    command = [sys.executable, "-c", RUN, bundle.path, head.path, tail.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_an_engine_runs_with_its_library_and_names_it_without(
    tiny_bundle: Tiny, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    machine("8.2")
    library = Path(plugin_library(tmp_path / "library"))
    bundle = tiny_bundle()
    steps = build(bundle, target_from_name("tx2"), tmp_path / "out", str(library), ["head", "tail"])
    head, tail = [step.engine for step in steps if step.engine is not None]
    words = run(bundle, head, tail).split()
    assert words[0] == "logits"
    np.testing.assert_allclose(
        [float(word) for word in words[1:]], bundle.golden()["logits"][0], rtol=1e-4, atol=1e-5
    )
    content = library.read_bytes()
    # The same library at its usual place will do.
    usual = tmp_path / "cache" / "bottlekit" / "plugins" / library.name
    usual.parent.mkdir(parents=True)
    library.rename(usual)
    assert run(bundle, head, tail).startswith("logits")
    # Another one will not.
    usual.write_bytes(content + b"more")
    short = sha256_of_file(str(usual))[:8]
    said = run(bundle, head, tail)
    assert said.startswith(f"EngineError {head.path} needs the plugin library libbottlekit_plugins.so")
    assert f"{usual} is another one ({short})" in said
    assert "\n" not in said
    usual.unlink()
    assert "and there is none here; put that one into" in run(bundle, head, tail)


@pytest.mark.slow
def test_what_cannot_be_built_says_why(tiny_bundle: Tiny, tmp_path: Path, machine: Callable[[str], None]) -> None:
    machine("8.2")
    bundle, target, out = tiny_bundle(), target_from_name("tx2"), tmp_path / "out"
    with pytest.raises(TargetError, match=r"no plugin library at .*nothing\.so; build it: cmake -S plugins"):
        build(bundle, target, out, str(tmp_path / "nothing.so"), ["head"])
    newer = plugin_library(tmp_path / "newer", 10)
    with pytest.raises(
        TargetError, match=r"was built for TensorRT 10 \(IPluginV3\), and this machine has TensorRT 8"
    ):
        build(bundle, target, out, newer, ["head"])
    broken = Path(plugin_library(tmp_path / "broken"))
    broken.write_bytes(broken.read_bytes()[:100] + b"libnvinfer.so.8")
    with pytest.raises(TargetError, match=r"the plugin library .*broken.* cannot be loaded: "):
        build(bundle, target, out, str(broken), ["head"])
    assert not list(out.glob("*.plan"))


@pytest.mark.parametrize("name", TENSORRT)
def test_the_graphs_pass_the_lint_of_every_tensorrt_target(tiny_bundle: Tiny, name: str) -> None:
    bundle, target = tiny_bundle(), target_from_name(name)
    jobs = jobs_for(bundle, target, Path("out"), None, None, None, plugin=PluginRequest())
    assert [job.has_plugin for job in jobs] == [part in ("head", "tail") for part in bundle.parts]
    assert [one.findings for one in check_jobs(jobs)] == [()] * len(jobs)


@pytest.mark.parametrize(
    "target", [one for one in all_targets() if one.kind != "tensorrt"], ids=lambda one: one.name
)
def test_other_targets_have_no_plugins(tiny_bundle: Tiny, target: TargetSpec) -> None:
    with pytest.raises(UsageError, match=f"--plugin is not for {target.name}: ") as caught:
        jobs_for(tiny_bundle(), target, Path("out"), None, None, None, plugin=PluginRequest())
    assert "\n" not in str(caught.value)
