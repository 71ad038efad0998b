"""TensorRT engines built here, through the agent in a process of its own, on doubles of TensorRT and CUDA.

The double of the GPU has SM 6.2, so this machine is a TX2 with a modern Python; targets of other GPUs are given
that SM as well.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from bottlekit.build.agent_talk import AgentTalk
from bottlekit.build.build import Step, build_bundle, jobs_for
from bottlekit.build.job_folder import job_folder_from_job, key_from_facts
from bottlekit.build.tensorrt import run_agent
from bottlekit.device.build_job import BuildJob
from bottlekit.device.bundle import Bundle
from bottlekit.device.children import child_environment
from bottlekit.device.engine import Engine
from bottlekit.device.files import read_json
from bottlekit.device.trt import full_version
from bottlekit.errors import BundleError, EngineError, TargetError
from bottlekit.targets import availability, here
from bottlekit.targets.here import machine_here, required_tensorrt
from bottlekit.targets.loader import TargetSpec, target_from_name

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from cuda_double import compile_double
from tensorrt_double import FULL_VERSIONS, install_tensorrt

Tiny = Callable[..., Bundle]
Machine = Callable[..., None]
# The TensorRT of each target, and what the double of its GPU can do.
TARGETS = {"tx2": "8.2", "gtx1080ti": "8.6", "orin": "10.16", "thor": "10.16", "h100": "11.4", "l4": "11.4"}


@pytest.fixture(scope="session", name="cudart")
def _cudart(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cudart")
    compile_double(folder)
    return str(folder)


@pytest.fixture(name="machine")
def _machine(cudart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A function that makes this machine one with a GPU and a double of a TensorRT version."""

    def become(version: str | None, hook: str = "") -> None:
        machine_here.cache_clear()
        modules = tmp_path / "modules"
        modules.mkdir(exist_ok=True)
        for old in modules.glob("*.py"):
            old.unlink()
        if version is not None:
            install_tensorrt(modules, version, hook=hook)
        monkeypatch.setenv("PYTHONPATH", str(modules))
        monkeypatch.setenv("LD_LIBRARY_PATH", cudart)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(availability, "nvidia_gpu_is_here", lambda: True)

    yield become
    machine_here.cache_clear()


def target_here(name: str) -> TargetSpec:
    """A target whose GPU is the one that the double is."""
    return dataclasses.replace(target_from_name(name), sm="6.2")


def build(bundle: Bundle, target: TargetSpec, out: Path, **changes: object) -> list[Step]:
    steps: list[Step] = []
    arguments = {"parts": ["head"], "progress": steps.append, "command": "bottlekit build", **changes}
    build_bundle(bundle, target, out, **arguments)  # type: ignore[arg-type]
    return steps


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_built_and_compared_on_its_own_machine(
    tiny_bundle: Tiny, tmp_path: Path, machine: Machine, name: str
) -> None:
    machine(TARGETS[name])
    bundle, target = tiny_bundle(), target_here(name)
    steps = build(bundle, target, tmp_path / "out", parts=None)
    engines = [step.engine for step in steps if step.state == "built"]
    assert [engine.part for engine in engines if engine] == list(bundle.parts)
    for engine in engines:
        assert engine is not None
        assert Engine.load(engine.path).sidecar == engine.sidecar
        assert engine.golden_compared
        assert engine.sidecar["golden"]["judged_as"] == engine.precision == target.precisions[0]
        assert engine.sidecar["command"] == "bottlekit build"
        assert engine.sidecar["key"]["compiler_version"] == FULL_VERSIONS[TARGETS[name]]
        assert engine.sidecar["key"]["gpu"] == "double of a GPU"
        assert engine.sidecar["details"]["layers"]["Layers"]
        assert (engine.sidecar.get("lowered") is not None) == (engine.precision == "fp16")
        # The raw log is kept beside every engine.
        assert "Engine built" in Path(engine.path + ".log").read_text()


def test_nothing_changed_builds_nothing(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    machine("8.2")
    first = build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    again = build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    assert [step.state for step in first] == ["compiling", "built"]
    assert [step.state for step in again] == ["cached"]


def test_another_tensorrt_is_named_and_builds_again(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    machine("8.2")
    build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    # JetPack 4.6.2 differs from 4.6.1 in the fourth part only.
    machine("8.2", hook="module.__version__ = '8.2.1.9'")
    steps = build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    assert steps[0].why == "rebuilding: compiler_version was 8.2.1.8, is 8.2.1.9"
    assert steps[1].state == "built"


def test_a_timing_cache_is_kept_and_given_to_the_next_build(
    tiny_bundle: Tiny, tmp_path: Path, machine: Machine
) -> None:
    machine("8.2")
    build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out", parts=["head", "tail"])
    (cache,) = (tmp_path / "out").glob("timing-*.cache")
    assert cache.name == "timing-tx2-8.2.1.8-double-of-a-GPU.cache"
    # Once for the head, once for the tail.
    assert cache.read_bytes().count(b"+conv") == 2


@pytest.mark.parametrize(
    ("version", "precision"), [("8.2", "fp16"), ("8.2", "fp32"), ("11.4", "fp16"), ("11.4", "fp32")]
)
def test_the_precision_is_said_as_the_version_wants_it(
    tiny_bundle: Tiny, tmp_path: Path, version: str, precision: str
) -> None:
    bundle, target = tiny_bundle(), target_from_name("h100" if version == "11.4" else "tx2")
    (job,) = jobs_for(bundle, target, tmp_path, ["head"], precision, None, None)
    job_folder_from_job(job, tmp_path / "job", FULL_VERSIONS[version])
    made = BuildJob.load(str(tmp_path / "job"))
    types = {tensor.data_type for tensor in onnx.load(made.graph_path).graph.initializer}
    if version == "11.4":
        assert made.options.precision == "typed"
        assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16")
    else:
        assert made.options.precision == precision
        assert Path(made.graph_path).read_bytes() == job.onnx_path.read_bytes()
    assert made.tolerance.name == precision
    assert (made.expects_tensorrt, made.expects_sm) == ("11" if version == "11.4" else "8.2", target.sm)


def test_a_job_for_no_machine_in_particular_is_for_the_usual_one(tiny_bundle: Tiny, tmp_path: Path) -> None:
    (job,) = jobs_for(tiny_bundle(), target_from_name("orin"), tmp_path, ["head"], None, None, None)
    job_folder_from_job(job, tmp_path / "usual")
    job_folder_from_job(job, tmp_path / "newer", "11.4.0.9")
    usual, newer = (BuildJob.load(str(tmp_path / name)) for name in ("usual", "newer"))
    assert (usual.expects_tensorrt, usual.options.precision) == ("10", "fp16")
    assert (newer.expects_tensorrt, newer.options.precision) == ("11", "typed")


def test_a_job_for_onnx_runtime_is_the_graph_as_it_is(tiny_bundle: Tiny, tmp_path: Path) -> None:
    (job,) = jobs_for(tiny_bundle(), target_from_name("cpu"), tmp_path, ["tail"], None, None, None)
    job_folder_from_job(job, tmp_path / "job", command="a test")
    made = BuildJob.load(str(tmp_path / "job"))
    assert (made.kind, made.tolerance.name, made.expects_tensorrt) == ("onnxruntime", "fp32", None)
    assert Path(made.graph_path).read_bytes() == job.onnx_path.read_bytes()
    assert read_json(str(tmp_path / "job" / "job.json"), "job")["sidecar"]["command"] == "a test"


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("tx2", "8.6", "tx2 needs TensorRT 8.2, and this machine has 8.6.1.6"),
        ("gtx1080ti", "10.0", "gtx1080ti needs a? ?.*TensorRT 8.6, and this machine has 10.0.1.6"),
        ("orin", "8.6", "orin needs TensorRT 10, and this machine has 8.6.1.6"),
        ("tx2", None, "'tensorrt' is needed here and cannot be imported"),
    ],
)
def test_another_machine_is_refused_with_what_to_type(
    tiny_bundle: Tiny, tmp_path: Path, machine: Machine, name: str, version: str | None, words: str
) -> None:
    machine(version)
    with pytest.raises(TargetError, match=words) as caught:
        build(tiny_bundle(), target_here(name), tmp_path / "out")
    assert f"bottlekit build BUNDLE --target {name} --host USER@DEVICE" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_gpu_is_refused_with_both(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    machine("8.6")
    words = "gtx1080ti needs a GPU with SM 6.1, and this machine has double of a GPU with SM 6.2"
    with pytest.raises(TargetError, match=words):
        build(tiny_bundle(), target_from_name("gtx1080ti"), tmp_path / "out")


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("module.double.fail_build = 'Error Code 9: it cannot'", "it cannot"),
        (
            "module.Builder.build_serialized_network = lambda *_: os.kill(os.getpid(), 11)",
            "signal 11.*TensorRT crashed",
        ),
        ("module.double.fail_execute = True", "failed to run"),
    ],
)
def test_a_build_that_fails_is_one_line_and_keeps_the_old_engine(
    tiny_bundle: Tiny, tmp_path: Path, machine: Machine, hook: str, words: str
) -> None:
    machine("8.2")
    build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    machine("8.2", hook)
    with pytest.raises(EngineError, match=words) as caught:
        build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out", force=True)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_too_little_memory_is_tried_again_and_told(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    machine("8.2", hook=f"module.double.fail_above_bytes = {128 << 20}")
    steps = build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")
    engine = steps[-1].engine
    assert engine is not None
    assert engine.sidecar["details"]["retried"] is True
    assert engine.sidecar["key"]["workspace_bytes"] == 256 << 20
    (note,) = engine.sidecar["details"]["notes"]
    assert "once more with half the workspace, 128 MiB" in note
    # What was asked for is the key, so nothing is built again.
    assert build(tiny_bundle(), target_from_name("tx2"), tmp_path / "out")[0].state == "cached"


def test_slow_fp16_is_told(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    machine("8.6", hook="module.double.fast_fp16 = False")
    steps = build(tiny_bundle(), target_here("gtx1080ti"), tmp_path / "out", precision="fp16")
    assert steps[-1].engine is not None
    (note,) = steps[-1].engine.sidecar["details"]["notes"]
    assert "no fast FP16; use --precision fp32" in note


def test_a_machine_that_cannot_be_looked_at_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_here.cache_clear()
    monkeypatch.setattr(
        here.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess([], 1, b'{"event": "error", "message": "no numpy"}\n'),
    )
    with pytest.raises(TargetError, match="cannot tell what this machine is: no numpy"):
        machine_here()
    monkeypatch.setattr(here.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -4, b""))
    with pytest.raises(TargetError, match="the process ended with code -4"):
        machine_here()


def test_the_accepted_version_is_found() -> None:
    assert required_tensorrt(("10", "11"), "11.4.0.9") == "11"
    assert required_tensorrt(("10", "11"), "8.6.1.6") == "10"
    assert required_tensorrt(("8.2",), "8.20.1.1") == "8.2"


def test_the_key_needs_a_machine_that_can(tiny_bundle: Tiny, tmp_path: Path) -> None:
    (job,) = jobs_for(tiny_bundle(), target_from_name("tx2"), tmp_path, ["head"], None, None, None)
    facts = {"gpu": None, "why_no_gpu": "the driver is missing", "tensorrt": {}, "trtexec": None, "l4t": None}
    with pytest.raises(TargetError, match="no GPU that works: the driver is missing"):
        key_from_facts(job, facts)


def test_the_agents_errors_are_raised_as_they_were() -> None:
    with pytest.raises(BundleError, match="no build job at nothing"):
        run_agent(["build", "nothing"])


def test_a_conversation_is_read_line_by_line() -> None:
    said: list[str] = []
    talk = AgentTalk(said.append)
    for line in (
        "",
        "noise",
        "[1]",
        '{"event": "progress", "message": "half"}',
        '{"event": "answer", "answer": {"a": 1}}',
    ):
        talk.take(line)
    assert said == talk.messages == ["half"]
    assert talk.answer("there", 0, "") == {"a": 1}


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (['{"event": "error", "kind": "TargetError", "message": "no GPU"}'], TargetError, "^no GPU$"),
        (['{"event": "error", "kind": "KeyError", "message": "odd"}'], EngineError, "^odd$"),
        ([], EngineError, "there: the agent ended with code 9 and no answer: last words$"),
        (['{"event": "answer", "answer": 3}'], EngineError, "no answer"),
        (['{"event": "answer", "answer": {}}', '{"event": "progress", "message": "?"}'], EngineError, "no answer"),
    ],
)
def test_a_conversation_without_an_answer_is_an_error(lines: list[str], error: type, words: str) -> None:
    talk = AgentTalk(lambda _: None)
    for line in lines:
        talk.take(line)
    with pytest.raises(error, match=words):
        talk.answer("there", 9, "first words\nlast words\n")


def test_a_real_library_tells_the_fourth_part_of_its_version() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    short = SimpleNamespace(__name__="tensorrt_rtx", __version__=rtx.__version__.rpartition(".")[0])
    assert short.__version__.count(".") == 2
    assert full_version(short) == rtx.__version__


def test_the_golden_outputs_decide_on_the_machine(tiny_bundle: Tiny, tmp_path: Path, machine: Machine) -> None:
    """A bundle whose golden outputs are of another network: TensorRT compiles it, and it is not kept."""
    machine("8.2")

    def other_logits(folder: Path) -> None:
        arrays = dict(np.load(folder / "golden.npz"))
        arrays["logits"] = arrays["logits"][:, ::-1].copy()
        np.savez(folder / "golden.npz", **arrays)

    with pytest.raises(EngineError, match="the tail of tiny-rb1 does not give the bundle's golden"):
        build(
            tiny_bundle(other_logits), target_from_name("tx2"), tmp_path / "out", parts=["tail"], precision="fp32"
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_children_find_the_package_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    first, second = child_environment()["PYTHONPATH"].split(":")
    assert (Path(first) / "bottlekit" / "device" / "children.py").is_file()
    assert second == "/elsewhere"
    assert json.loads(json.dumps(child_environment(A="1")))["A"] == "1"
