"""Engines are written whole with a sidecar that says everything, kept if nothing changed, rebuilt with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import bottlekit
from bottlekit.build import build as build_module
from bottlekit.build import cpu
from bottlekit.build.build import Step, build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine, engines_for_bundle, sidecar_path
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import EngineError, TargetError, UsageError
from bottlekit.targets.loader import target_from_name

Tiny = Callable[..., Bundle]
CPU = target_from_name("cpu")


def build_head(bundle: Bundle, out: Path, **changes: object) -> list[Step]:
    """Build the head for the CPU and give what happened."""
    steps: list[Step] = []
    arguments = {"parts": ["head"], "progress": steps.append, **changes}
    build_bundle(bundle, CPU, out, **arguments)  # type: ignore[arg-type]
    return steps


@pytest.fixture(name="compilations")
def _compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were really compiled, in order."""
    compiled: list[str] = []
    real = cpu.compile_engine

    def watched(job, path):
        compiled.append(job.part)
        return real(job, path)

    monkeypatch.setattr(cpu, "compile_engine", watched)
    return compiled


def test_a_sidecar_says_what_the_engine_is(tiny_bundle: Tiny, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    (engine,) = build_bundle(bundle, CPU, tmp_path / "out", ["head"], command="bottlekit build b --target cpu")
    sidecar = json.loads(Path(sidecar_path(engine.path)).read_text())
    assert engine.path == str(tmp_path / "out" / "tiny-rb1-head-cpu.onnx")
    assert sidecar == engine.sidecar == Engine.load(engine.path).sidecar
    assert sidecar["bundle"] == {"name": "tiny-rb1", "sha256": bundle.sha256}
    assert (sidecar["part"], sidecar["target"], sidecar["kind"]) == ("head", "cpu", "onnxruntime")
    assert sidecar["precision"] == "fp32"
    assert sidecar["engine_sha256"] == sha256_of_file(engine.path)
    assert sidecar["engine_bytes"] == os.path.getsize(engine.path)
    assert sidecar["command"] == "bottlekit build b --target cpu"
    assert sidecar["bottlekit"] == bottlekit.__version__
    key = sidecar["key"]
    assert key["onnx_sha256"] == sha256_of_file(bundle.onnx_path("head"))
    assert key["bundle_sha256"] == bundle.sha256
    assert {"compiler", "compiler_version", "graph_level", "cpu_arch", "precision", "target", "bottlekit"} < set(
        key
    )


def test_what_was_built_is_found_again(tiny_bundle: Tiny, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    built = build_bundle(bundle, CPU, tmp_path)
    found = engines_for_bundle(str(tmp_path), bundle, "cpu")
    assert {part: engine.sha256 for part, engine in found.items()} == {
        engine.part: engine.sha256 for engine in built
    }


def test_building_again_with_nothing_changed_compiles_nothing(
    tiny_bundle: Tiny, tmp_path: Path, compilations: list[str]
) -> None:
    first = build_head(tiny_bundle(), tmp_path)
    assert [step.state for step in first] == ["compiling", "built"]
    assert first[0].why is None
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (again,) = build_head(tiny_bundle(), tmp_path)
    assert again.state == "cached"
    assert again.engine is not None
    assert again.engine.sidecar == first[1].engine.sidecar  # type: ignore[union-attr]
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert compilations == ["head"]


def test_force_compiles_again(tiny_bundle: Tiny, tmp_path: Path, compilations: list[str]) -> None:
    build_head(tiny_bundle(), tmp_path)
    steps = build_head(tiny_bundle(), tmp_path, force=True)
    assert [(step.state, step.why) for step in steps] == [
        ("compiling", "rebuilding: --force was given"),
        ("built", None),
    ]
    assert compilations == ["head", "head"]


def test_a_changed_compiler_is_named(
    tiny_bundle: Tiny, tmp_path: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_head(tiny_bundle(), tmp_path)
    real = cpu.key_of
    monkeypatch.setattr(cpu, "key_of", lambda job: {**real(job), "compiler_version": "99.0"})
    steps = build_head(tiny_bundle(), tmp_path)
    assert steps[0].why is not None
    assert steps[0].why.startswith("rebuilding: compiler_version was 1.")
    assert steps[0].why.endswith(", is 99.0")
    assert steps[1].engine is not None
    assert steps[1].engine.sidecar["key"]["compiler_version"] == "99.0"
    assert compilations == ["head", "head"]


def test_another_export_of_the_same_name_is_named(
    tiny_bundle: Tiny, tmp_path: Path, compilations: list[str]
) -> None:
    build_head(tiny_bundle(), tmp_path / "out")

    def renamed_node(folder: Path) -> None:
        model = onnx.load(folder / "head.onnx")
        model.doc_string = "exported again"
        onnx.save(model, folder / "head.onnx")

    steps = build_head(tiny_bundle(renamed_node), tmp_path / "out")
    assert steps[0].why is not None
    assert steps[0].why.startswith("rebuilding: onnx_sha256 was ")
    assert "; bundle_sha256 was " in steps[0].why
    assert compilations == ["head", "head"]


def damage_engine(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")


def damage_sidecar(engine: Path) -> None:
    Path(sidecar_path(str(engine))).write_text('{"format": "bottlekit-en')


def remove_engine(engine: Path) -> None:
    engine.unlink()


def remove_sidecar(engine: Path) -> None:
    Path(sidecar_path(str(engine))).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_engine, "is damaged"),
        (damage_sidecar, "is no readable engine sidecar"),
        (remove_engine, "only its sidecar is there"),
        (remove_sidecar, "no engine sidecar at"),
    ],
)
def test_a_damaged_engine_is_noticed_and_rebuilt(
    tiny_bundle: Tiny, tmp_path: Path, compilations: list[str], damage: Callable[[Path], None], words: str
) -> None:
    build_head(tiny_bundle(), tmp_path / "out")
    engine = tmp_path / "out" / "tiny-rb1-head-cpu.onnx"
    damage(engine)
    steps = build_head(tiny_bundle(), tmp_path / "out")
    assert [step.state for step in steps] == ["compiling", "built"]
    assert steps[0].why is not None
    assert steps[0].why.startswith("rebuilding: ")
    assert words in steps[0].why
    assert Engine.load(str(engine)).golden_compared
    assert compilations == ["head", "head"]


@pytest.mark.parametrize(
    "error", [EngineError("refused"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_a_build_that_fails_leaves_the_old_engine_whole(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = tmp_path / "out"
    build_head(tiny_bundle(), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def half_written(job, path: Path):
        path.write_bytes(b"half of an eng")
        raise error

    monkeypatch.setattr(cpu, "compile_engine", half_written)
    expected = EngineError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        build_head(tiny_bundle(), out, force=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_one_line(tiny_bundle: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, where a folder is needed")
    with pytest.raises(UsageError, match=r"cannot write .*tiny-rb1-head-cpu\.onnx: "):
        build_head(tiny_bundle(), tmp_path / "out")


def test_a_crash_between_engine_and_sidecar_is_healed(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build_head(tiny_bundle(), out)
    Path(sidecar_path(str(out / "tiny-rb1-head-cpu.onnx"))).write_text(
        json.dumps({**build_head(tiny_bundle(), out)[0].engine.sidecar, "engine_sha256": "0" * 64})  # type: ignore
    )
    steps = build_head(tiny_bundle(), out)
    assert "is damaged" in (steps[0].why or "")
    assert build_head(tiny_bundle(), out)[0].state == "cached"


@pytest.mark.parametrize("name", ["tx2", "gtx1080ti", "orin", "thor", "l4", "h100"])
def test_a_target_that_cannot_be_built_here_writes_nothing(tiny_bundle: Tiny, tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetError, match=f"cannot build for {name} on this machine: it needs TensorRT"):
        build_bundle(tiny_bundle(), target_from_name(name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_kind_of_engine_that_can_be_built_has_a_compiler() -> None:
    for compiler in build_module.COMPILERS.values():
        assert callable(compiler.key_of)
        assert callable(compiler.compile_engine)
