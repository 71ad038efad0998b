"""A fleet as a model repository: what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bottlekit.build.agent_pack import pack_agent
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.engine import Engine, sidecar_document, sidecar_path
from bottlekit.device.files import sha256_of_file, write_json
from bottlekit.errors import EngineError, UsageError
from bottlekit.serving.triton_repository import RepositoryOptions, ensemble_name, repository_from_fleet

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
Run = Callable[..., str]


def bundles() -> list[Bundle]:
    return fleet_from_path(str(FLEET))


def write(folder: Path, **options: Any) -> dict[str, Any]:
    engines = options.pop("engines", None)
    return repository_from_fleet(bundles(), folder / "r", pack_agent, RepositoryOptions(**options), engines)


def config(folder: Path, model: str) -> str:
    return (folder / "r" / model / "config.pbtxt").read_text()


def engine(bundle: Bundle, part: str, kind: str, folder: Path, **key: Any) -> Engine:
    """An engine of arbitrary bytes, as a build elsewhere would have written it."""
    path = str(folder / f"{bundle.name}-{part}-there{'.onnx' if kind == 'onnxruntime' else '.plan'}")
    Path(path).write_bytes(f"{kind} {part} of {bundle.name}".encode())
    about = {"name": bundle.name, "sha256": bundle.sha256}
    golden = {"compared": False, "why_not": "a test"}
    write_json(
        sidecar_path(path),
        sidecar_document(path, about, part, "there", kind, "fp16", key, 1.0, golden, [], "a test"),
    )
    return Engine.load(path)


def engines(folder: Path, kind: str, parts: tuple[str, ...], **key: Any) -> dict[str, dict[str, Engine]]:
    return {one.name: {part: engine(one, part, kind, folder, **key) for part in parts} for one in bundles()}


def test_every_bundle_is_an_ensemble_of_decoder_and_tail(tmp_path: Path) -> None:
    written = write(tmp_path, max_batch=4, whole=False, threads=3, queue_delay_us=50, decoders=5, tails=2)
    assert json.loads((tmp_path / "r/repository.json").read_text()) == written
    for bundle, entry in zip(bundles(), written["bundles"], strict=True):
        name = ensemble_name(bundle)
        assert entry == {
            "name": bundle.name,
            "split": bundle.split["name"],
            "sha256": bundle.sha256,
            "model": name,
        }
        c, h, w = bundle.feature_shape
        ensemble, decode, tail = (
            config(tmp_path, name),
            config(tmp_path, name + "-decode"),
            config(tmp_path, name + "-tail"),
        )
        assert re.findall(r'model_name: "(.+)"', ensemble) == [name + "-decode", name + "-tail"]
        for text in (ensemble, decode, tail):
            assert "max_batch_size: 4\n" in text
        assert 'name: "payload" data_type: TYPE_STRING dims: [ 1 ]' in decode
        feature = f'name: "feature" data_type: TYPE_FP32 dims: [ {c}, {h}, {w} ]'
        assert f"output [ {{ {feature} }} ]" in decode
        assert f"input [ {{ {feature} }} ]" in tail
        assert 'backend: "onnxruntime"' in tail
        assert 'key: "intra_op_thread_count" value { string_value: "3" }' in tail
        assert "count: 5 kind: KIND_CPU" in decode
        assert "count: 2 kind: KIND_AUTO" in tail
        assert "max_queue_delay_microseconds: 50" in tail
        model = tmp_path / "r" / (name + "-tail") / "1" / "model.onnx"
        assert sha256_of_file(str(model)) == bundle.onnx_sha256("tail")
        assert (tmp_path / "r" / name / "1").is_dir()
    assert written["models"] == sorted(one.name for one in (tmp_path / "r").iterdir() if one.is_dir())


def test_the_decoder_needs_nothing_of_this_machine(tmp_path: Path) -> None:
    name = ensemble_name(bundles()[0])
    write(tmp_path)
    folder = tmp_path / "r" / (name + "-decode") / "1"
    assert "bottlekit/device/triton_model.py" in zipfile.ZipFile(folder / "bottlekit-agent.pyz").namelist()
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import model; print(model.TritonPythonModel.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.strip() == "PayloadModel"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program.replace("model.TritonPythonModel.__name__", "sys.modules['bottlekit'].__file__"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert str(folder) in done.stdout


def test_bundles_share_what_they_have_in_common(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    for folder in ("rb1", "again"):
        shutil.copytree(FLEET / "rb1", fleet / folder)
    manifest = json.loads((fleet / "again/bundle.json").read_text())
    manifest["name"] = "tiny-again"
    (fleet / "again/bundle.json").write_text(json.dumps(manifest))
    written = repository_from_fleet(
        fleet_from_path(str(fleet)), tmp_path / "r", pack_agent, RepositoryOptions(backend="python")
    )
    assert sum(model.startswith("network-") for model in written["models"]) == 1
    assert sum(model.startswith("image-") for model in written["models"]) == 1
    assert len({bundle["whole"] for bundle in written["bundles"]}) == 2


def test_the_python_backend_runs_graphs_where_it_is_the_only_one(tmp_path: Path) -> None:
    write(tmp_path, backend="python", threads=2)
    for bundle in bundles():
        tail = ensemble_name(bundle) + "-tail"
        folder = tmp_path / "r" / tail / "1"
        assert 'backend: "python"' in config(tmp_path, tail)
        assert sha256_of_file(str(folder / "graph.onnx")) == bundle.onnx_sha256("tail")
        assert json.loads((folder / "step.json").read_text()) == {"threads": 2}
        assert "GraphModel" in (folder / "model.py").read_text()


def test_a_bundle_of_one_image_at_a_time_has_no_batches(tmp_path: Path) -> None:
    path = tmp_path / "one"
    shutil.copytree(FLEET / "rb1", path)
    manifest = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**manifest, "dynamic_batch": False}))
    fleet = fleet_from_path(str(path))
    repository_from_fleet(fleet, tmp_path / "r", pack_agent, RepositoryOptions())
    name = ensemble_name(fleet[0])
    tail = config(tmp_path, name + "-tail")
    assert "max_batch_size: 0\n" in tail
    assert "dynamic_batching" not in tail
    assert "dims: [ 1, 2, 4, 4 ]" in tail
    assert 'name: "payload" data_type: TYPE_STRING dims: [ 1 ]' in config(tmp_path, name)


def test_plans_of_tensorrt_take_the_batch_they_were_built_for(tmp_path: Path) -> None:
    profiles = {"feature": [[1, 2, 4, 4], [1, 2, 4, 4], [8, 2, 4, 4]]}
    built = engines(tmp_path, "tensorrt", ("tail",), profiles=profiles)
    write(tmp_path, engines=built, whole=False)
    for bundle in bundles():
        name = ensemble_name(bundle)
        tail = config(tmp_path, name + "-tail")
        assert 'backend: "tensorrt"' in tail
        assert "KIND_GPU" in tail
        assert "max_batch_size: 8\n" in tail
        assert "max_batch_size: 8\n" in config(tmp_path, name)
        plan = tmp_path / "r" / (name + "-tail") / "1" / "model.plan"
        assert plan.read_bytes() == f"tensorrt tail of {bundle.name}".encode()


def test_engines_for_onnx_runtime_run_like_the_bundles_own_files(tmp_path: Path) -> None:
    write(tmp_path, engines=engines(tmp_path, "onnxruntime", ("tail", "baseline", "full")))
    name = ensemble_name(bundles()[0])
    assert (tmp_path / "r" / (name + "-tail") / "1" / "model.onnx").read_bytes() == b"onnxruntime tail of tiny-rb1"


def test_engines_that_triton_cannot_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plan of TensorRT-RTX, which Triton has no backend for"):
        write(tmp_path, engines=engines(tmp_path, "tensorrt_rtx", ("tail",)))
    with pytest.raises(UsageError, match="built with --plugin and takes codes"):
        write(tmp_path, engines=engines(tmp_path, "tensorrt", ("tail",), plugin={"sha256": "0" * 64}))
    with pytest.raises(EngineError, match="no engine of tiny-rb1's tail for there; build it: bottlekit build"):
        write(tmp_path, engines=engines(tmp_path, "tensorrt", ("head",)))
    with pytest.raises(EngineError, match="baseline for there.* or leave whole networks out with --no-whole"):
        write(tmp_path, engines=engines(tmp_path, "onnxruntime", ("tail",)))
    assert not (tmp_path / "r").exists()
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".part")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "--max-batch must be 1 to 1024, not 0"),
        ({"queue_delay_us": -1}, "--queue-delay-us must be 0 to 1000000, not -1"),
        ({"decoders": 0}, "--decoders must be 1 to 256, not 0"),
        ({"tails": 65}, "--tails must be 1 to 64, not 65"),
        ({"threads": 0}, "--threads must be 1 to 1024, not 0"),
        ({"backend": "tensorflow"}, "--backend must be onnxruntime or python, not 'tensorflow'"),
    ],
)
def test_options_out_of_bounds_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_and_refuses(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "r"
    written = json.loads(run("export-triton", FLEET, "-o", out, "--json"))
    assert written["path"] == str(out)
    assert {key: value for key, value in written.items() if key != "path"} == json.loads(
        (out / "repository.json").read_text()
    )
    assert written["command"].startswith("bottlekit export-triton")
    assert "exists already; choose another name or pass --force" in run("export-triton", FLEET, "-o", out, code=2)
    assert "tiny-rb1" in run("export-triton", FLEET, "-o", out, "--force", "--no-whole")
    assert "whole" not in json.loads((out / "repository.json").read_text())["bundles"][0]
    assert "no bundle at" in run("export-triton", tmp_path / "nothing", "-o", tmp_path / "s", code=1)
    assert "--engines and --target go together" in run("export-triton", FLEET, "--target", "tx2", code=2)
    (tmp_path / "engines").mkdir()
    words = run(
        "export-triton", FLEET, "-o", tmp_path / "s", "--engines", tmp_path / "engines", "--target", "l4", code=1
    )
    assert "no engine of tiny-rb1 for l4" in words
    assert not (tmp_path / "s").exists()


def test_a_changed_graph_is_not_exported(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    shutil.copytree(FLEET / "rb1", fleet)
    found = fleet_from_path(str(fleet))
    with (fleet / "tail.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(Exception, match="tail.onnx was changed after export"):
        repository_from_fleet(found, tmp_path / "r", pack_agent, RepositoryOptions())
    assert not (tmp_path / "r").exists()


def test_every_key_of_the_description_is_documented(tmp_path: Path) -> None:
    page = (FLEET.parents[2] / "docs/reference/serving.md").read_text(encoding="utf-8")
    written = write(tmp_path)
    keys = {*written, *written["options"], *(key for bundle in written["bundles"] for key in bundle)}
    assert sorted(keys - set(re.findall(r"`([^`\n]+)`", page))) == []
