"""Build jobs on doubles of every TensorRT version: what is built, run, compared, written, refused."""

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import bottlekit.device.build_run as build_run
import bottlekit.device.machine as machine
from bottlekit.device.build_job import BuildJob
from bottlekit.device.build_run import run_job
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.errors import BottlekitError, BundleError, EngineError, TargetError
from bottlekit.device.files import sha256_of_file
from bottlekit.device.trt_runner import TensorRTRunner

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double, enqueue_through
from jobs import JOB_FILES, MAX_BATCH, RB1, WORKSPACE_BYTES, files_of, make_job
from tensorrt_double import FULL_VERSIONS, VERSIONS, tensorrt_double

FLAGGED = tuple(version for version in VERSIONS if version not in ("11.4", "rtx"))


@pytest.fixture(scope="session")
def double_path(tmp_path_factory):
    return compile_double(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def cuda(double_path):
    provider = RuntimeProvider("ctypes", runtime_from_ctypes(double_path))
    yield provider
    provider.close()
    assert ctypes.CDLL(double_path).double_live() == 0, "something allocated was not given back"


@pytest.fixture
def trt(version, double_path, monkeypatch):
    return install(monkeypatch, version, double_path)


def install(monkeypatch, version, double_path):
    module = tensorrt_double(version)
    module.double.enqueue = enqueue_through(ctypes.CDLL(double_path))
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else None)
    return module


def kind_of(version):
    return "tensorrt_rtx" if version == "rtx" else "tensorrt"


def job_for(version, folder, **changes):
    """A job as this version wants it: flags up to 10, the graph's own types after."""
    changes.setdefault("precision", "fp32" if version in FLAGGED else "typed")
    return make_job(folder, kind=kind_of(version), **changes)


def run(folder, cuda, **choices):
    said = []
    return run_job(folder, said.append, provider=cuda, **choices), said


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_a_job_gives_an_engine_that_was_compared(trt, version, cuda, tmp_path, part):
    folder = job_for(version, tmp_path / "job", part=part)
    answer, said = run(folder, cuda)
    assert answer["golden"]["compared"] is True
    assert answer["golden"]["max_abs"] == 0
    assert answer["golden"]["judged_as"] == "fp32"
    assert answer == json.loads((tmp_path / "job" / "out" / "answer.json").read_text())
    plan = tmp_path / "job" / "out" / "engine.plan"
    assert answer["engine"] == {
        "file": "engine.plan",
        "sha256": sha256_of_file(str(plan)),
        "bytes": plan.stat().st_size,
    }
    assert answer["job_sha256"] == sha256_of_file(os.path.join(folder, "job.json"))
    assert answer["details"]["layers"]["Layers"] == ["all of it"]
    assert answer["details"]["retried"] is False
    assert "INFO: Engine built" in answer["log"]
    assert "INFO: Engine built" in (tmp_path / "job" / "build.log").read_text().splitlines()
    cache = [] if version == "rtx" else ["out/timing.cache"]
    assert files_of(folder) == sorted(JOB_FILES + ["build.log", "out/answer.json", "out/engine.plan"] + cache)
    assert len(said) == 2
    assert FULL_VERSIONS[version] in said[0]
    assert "double of a GPU" in said[0]


def test_the_key_names_everything_that_makes_a_plan_unusable_elsewhere(trt, version, cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "l4t_release", lambda: "32.7.4")
    answer, _ = run(job_for(version, tmp_path / "job"), cuda)
    bundle = BuildJob.load(str(tmp_path / "job")).bundle
    assert answer["key"] == {
        "onnx_sha256": bundle.onnx_sha256("head"),
        "precision": "fp32" if version in FLAGGED else "typed",
        "workspace_bytes": WORKSPACE_BYTES,
        "profiles": {"image": [[1, 3, 8, 8], [1, 3, 8, 8], [MAX_BATCH, 3, 8, 8]]},
        "compiler": kind_of(version),
        "compiler_version": FULL_VERSIONS[version],
        "sm": "6.2",
        "gpu": "double of a GPU",
        "l4t": "32.7.4",
        "cuda_runtime": "10.2",
        "driver": 10020,
    }
    facts = answer["details"]["machine"]
    assert facts["jetpack"] == "JetPack 4.6.4"
    assert facts["gpu"]["provider"] == "ctypes"
    assert facts["environment"]["python"] == facts["python"]


def test_what_was_built_runs_with_its_key(trt, version, cuda, tmp_path):
    answer, _ = run(job_for(version, tmp_path / "job"), cuda)
    path = str(tmp_path / "job" / "out" / "engine.plan")
    bundle = BuildJob.load(str(tmp_path / "job")).bundle
    golden = bundle.golden()
    runner = TensorRTRunner(path, flavour=kind_of(version), provider=cuda, key=answer["key"])
    with runner:
        feature = runner.run({"image": golden["image"][:MAX_BATCH]})["feature"]
    np.testing.assert_allclose(feature, golden["feature"][:MAX_BATCH], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("compiler_version", "8.2.1.9", r"TensorRT was 8\.2\.1\.9, is "),
        ("sm", "8.7", r"SM was 8\.7, is 6\.2"),
        ("gpu", "Orin", "GPU was Orin, is double of a GPU"),
    ],
)
def test_a_plan_of_another_machine_is_refused_before_tensorrt_sees_it(
    trt, version, cuda, tmp_path, field, value, words
):
    answer, _ = run(job_for(version, tmp_path / "job"), cuda)
    path = str(tmp_path / "job" / "out" / "engine.plan")
    trt.Runtime = None  # nobody may ask it
    foreign = TensorRTRunner(
        path, flavour=kind_of(version), provider=cuda, key=dict(answer["key"], **{field: value})
    )
    with pytest.raises(EngineError, match="was not built for this machine: " + words):
        foreign.__enter__()


def test_the_timing_cache_goes_in_and_comes_out(trt, version, cuda, tmp_path):
    run(job_for(version, tmp_path / "one"), cuda)
    cache = tmp_path / "one" / "out" / "timing.cache"
    if version == "rtx":
        assert not cache.exists()
        return
    folder = job_for(version, tmp_path / "two", timing_cache=str(cache))
    assert "timing.cache" in files_of(folder)
    answer, _ = run(folder, cuda)
    assert trt.double.builds[-1]["timing_cache"] == cache.read_bytes()
    assert answer["timing_cache_sha256"] == sha256_of_file(str(tmp_path / "two" / "out" / "timing.cache"))


@pytest.mark.parametrize("version", FLAGGED)
def test_fp16_is_told_by_a_flag_and_judged_as_fp16(trt, version, cuda, tmp_path):
    answer, said = run(job_for(version, tmp_path / "job", precision="fp16"), cuda)
    assert "FP16" in trt.double.builds[-1]["flags"]
    assert answer["golden"]["judged_as"] == "fp16"
    assert len(said) == 2


@pytest.mark.parametrize("version", FLAGGED)
def test_slow_fp16_is_built_and_told(double_path, version, cuda, tmp_path, monkeypatch):
    install(monkeypatch, version, double_path).double.fast_fp16 = False
    _, said = run(job_for(version, tmp_path / "job", precision="fp16"), cuda)
    assert [line for line in said if line.startswith("note: ")] == [
        "note: this GPU has no fast FP16; use --precision fp32; an FP16 engine saves memory, not time"
    ]


@pytest.mark.parametrize("version", ["11.4", "rtx"])
def test_a_job_with_flags_is_refused_where_the_graph_has_the_types(trt, version, cuda, tmp_path):
    folder = make_job(tmp_path / "job", kind=kind_of(version), options=_flagged(tmp_path))
    with pytest.raises(TargetError, match="takes the precision from the graph"):
        run(folder, cuda)
    assert files_of(folder) == sorted(JOB_FILES + ["build.log"])


def _flagged(tmp_path):
    made = make_job(tmp_path / "flagged", precision="fp16")
    return BuildJob.load(made).options


def test_half_the_workspace_is_half_the_workspace(trt, version, cuda, tmp_path):
    answer, _ = run(job_for(version, tmp_path / "job"), cuda, halve=True)
    assert trt.double.builds[-1]["workspace_bytes"] == WORKSPACE_BYTES // 2
    assert answer["details"]["workspace_bytes"] == WORKSPACE_BYTES // 2
    assert answer["details"]["retried"] is True
    # What was asked for stays the key: the same command finds the engine again.
    assert answer["key"]["workspace_bytes"] == WORKSPACE_BYTES


def refused(folder, cuda, kind, words):
    """Run a job that must fail in one line, and leave nothing but its log."""
    before = files_of(folder)
    with pytest.raises(BottlekitError) as caught:
        run(folder, cuda)
    assert type(caught.value) is kind, caught.value
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [name for name in files_of(folder) if name != "build.log"] == before
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []


def test_a_build_that_fails_says_why_and_leaves_nothing(trt, version, cuda, tmp_path):
    trt.double.fail_build = "Error Code 9: Internal Error (something it cannot do)"
    folder = job_for(version, tmp_path / "job")
    refused(folder, cuda, EngineError, "something it cannot do")
    assert "ERROR: Error Code 9" in (tmp_path / "job" / "build.log").read_text()


def test_a_graph_that_the_parser_refuses_is_told(trt, version, cuda, tmp_path):
    trt.double.fail_parse = ["No importer registered for op: Foo"]
    refused(job_for(version, tmp_path / "job"), cuda, EngineError, "No importer registered for op: Foo")


def test_an_engine_that_fails_to_run_is_not_kept(trt, version, cuda, tmp_path):
    trt.double.fail_execute = True
    refused(job_for(version, tmp_path / "job"), cuda, EngineError, "failed to run")


def test_an_engine_that_computes_something_else_is_not_kept(trt, version, cuda, tmp_path):
    folder = job_for(version, tmp_path / "job", part="baseline", graph=Path(RB1) / "full.onnx")
    refused(folder, cuda, EngineError, "does not give the bundle's golden outputs")


def test_another_tensorrt_is_refused_with_both_versions(trt, version, cuda, tmp_path):
    folder = job_for(version, tmp_path / "job", target="tx2", expects_tensorrt="9.9")
    refused(
        folder, cuda, TargetError, "tx2 needs TensorRT 9.9, and this machine has {}".format(FULL_VERSIONS[version])
    )
    assert trt.double.builds == []


def test_another_gpu_is_refused_with_both(trt, version, cuda, tmp_path):
    folder = job_for(version, tmp_path / "job", target="gtx1080ti", expects_sm="6.1")
    refused(folder, cuda, TargetError, "gtx1080ti needs a GPU with SM 6.1, and this machine has double of a GPU")
    assert trt.double.builds == []


def test_the_machine_that_is_expected_builds(trt, version, cuda, tmp_path):
    for number, prefix in enumerate((FULL_VERSIONS[version], FULL_VERSIONS[version].split(".")[0], None)):
        folder = job_for(version, tmp_path / str(number), expects_tensorrt=prefix, expects_sm="6.2")
        assert run(folder, cuda)[0]["golden"]["compared"]


def test_another_jetpack_says_which_to_flash(double_path, cuda, tmp_path, monkeypatch):
    trt = install(monkeypatch, "8.2", double_path)
    trt.__version__ = "8.0.1.6"
    monkeypatch.setattr(machine, "l4t_release", lambda: "32.6.1")
    folder = make_job(tmp_path / "job", target="tx2", expects_tensorrt="8.2", expects_sm="6.2")
    refused(
        folder,
        cuda,
        TargetError,
        "tx2 needs TensorRT 8.2, and this machine has 8.0.1.6 (L4T 32.6.1, JetPack 4.6); "
        "flash JetPack 4.6.1 to JetPack 4.6.6",
    )


def test_a_full_disk_is_one_line(trt, version, cuda, tmp_path, monkeypatch):
    real = open

    def full(path, mode="r", *rest, **more):
        if str(path).endswith("engine.plan") and "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(build_run, "open", full, raising=False)
    refused(job_for(version, tmp_path / "job"), cuda, EngineError, "No space left on device; free some space")


def test_without_tensorrt_it_says_what_is_missing(cuda, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(machine, "trtexec_path", lambda: None)
    refused(make_job(tmp_path / "job"), cuda, TargetError, "apt install python3-libnvinfer")


def test_without_a_gpu_it_says_so(double_path, tmp_path, monkeypatch):
    install(monkeypatch, "8.6", double_path)
    # No CUDA on this machine.
    refused(make_job(tmp_path / "job"), "ctypes", TargetError, "this machine has no GPU that works: ")


def test_onnx_runtime_builds_too(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    answer, _ = run(folder, "auto")
    assert answer["key"]["compiler"] == "onnxruntime"
    assert "workspace_bytes" not in answer["key"]
    assert answer["golden"]["compared"]
    assert files_of(folder) == sorted(JOB_FILES + ["build.log", "out/answer.json", "out/engine.onnx"])


def test_a_truncated_graph_is_refused_by_its_hash(tmp_path):
    folder = make_job(tmp_path / "job", kind="onnxruntime")
    graph = tmp_path / "job" / "graph.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    refused(folder, "auto", BundleError, "graph.onnx was changed after the job was made")


def test_a_graph_that_is_none_is_refused_in_one_line(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"\x08\x07no graph")
    folder = make_job(tmp_path / "job", kind="onnxruntime", graph=tmp_path / "no.onnx")
    refused(folder, "auto", EngineError, "ONNX Runtime cannot load")
