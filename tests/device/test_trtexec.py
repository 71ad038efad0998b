"""Building and comparing with trtexec where the Python bindings are missing, on doubles of six versions."""

import json
import sys
from pathlib import Path

import pytest

import bottlekit.device.machine as machine
from bottlekit.device.build_run import run_job
from bottlekit.device.build_supervisor import build
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.errors import EngineError, TargetError, UnknownNameError
from bottlekit.device.fit import require_fits
from bottlekit.device.trt import PlanOptions
from bottlekit.device.trtexec import build_flags, trtexec_version

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double
from jobs import JOB_FILES, files_of, make_job
from trtexec_double import FLAGS, FULL_VERSIONS, VERSIONS, calls_of, install_trtexec

SHAPES = {"image": ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))}


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


@pytest.fixture
def trtexec(version, tmp_path, monkeypatch):
    """A machine that has trtexec and no bindings."""
    path = install_trtexec(tmp_path / "bin", version)
    monkeypatch.setattr(machine, "trtexec_path", lambda: path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    return path


def options(**changes):
    return PlanOptions(workspace_bytes=256 << 20, profiles=SHAPES, precision="fp32")._replace(**changes)


def precision_of(version):
    return "typed" if version == "11.1" else "fp32"


def job_for(version, folder, **changes):
    changes.setdefault("precision", precision_of(version))
    return make_job(folder, **changes)


def test_the_version_is_read_from_the_banner(version, trtexec):
    assert trtexec_version(trtexec) == FULL_VERSIONS[version]


def test_what_is_no_trtexec_has_no_version(tmp_path):
    assert trtexec_version(str(tmp_path / "none")) is None
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    assert trtexec_version(str(other)) is None


@pytest.mark.parametrize("precision", ["typed", "fp32", "fp16", "int8"])
@pytest.mark.parametrize("fp32_layers", [(), ("conv1", "/layer1/conv")])
def test_every_flag_is_one_that_the_version_has(version, precision, fp32_layers):
    known = set(json.loads(FLAGS.read_text())[version])
    try:
        flags = build_flags(FULL_VERSIONS[version], options(precision=precision, fp32_layers=fp32_layers))
    except TargetError:
        assert (version == "11.1" and precision != "typed") or (version == "8.2" and precision == "fp16")
        return
    assert {flag[2:].partition("=")[0] for flag in flags} <= known


def test_the_flags_of_the_tx2():
    assert build_flags("8.2.1", options(precision="fp16")) == [
        "--workspace=256",
        "--buildOnly",
        "--fp16",
        "--minShapes=image:1x3x8x8",
        "--optShapes=image:1x3x8x8",
        "--maxShapes=image:4x3x8x8",
    ]
    assert build_flags("8.2.1", options(profiles=None)) == ["--workspace=256", "--buildOnly", "--noTF32"]


def test_the_flags_of_the_1080_ti_and_later():
    assert build_flags("8.6.1", options(profiles=None, precision="fp16", fp32_layers=("a", "b"))) == [
        "--memPoolSize=workspace:256",
        "--skipInference",
        "--fp16",
        "--precisionConstraints=obey",
        "--layerPrecisions=a:fp32,b:fp32",
        "--layerOutputTypes=a:fp32,b:fp32",
    ]
    assert build_flags("10.3.0.26", options(profiles=None, precision="typed"))[2:] == [
        "--noTF32",
        "--stronglyTyped",
    ]
    assert build_flags("8.6.1", options(profiles=None, precision="int8"))[2:] == ["--noTF32", "--int8"]
    assert build_flags("11.4.0.9", options(profiles=None, precision="typed"))[2:] == ["--noTF32"]


def test_what_a_version_cannot_be_told_is_refused():
    with pytest.raises(TargetError, match=r"trtexec 8\.2\.1 cannot keep single layers in FP32; install .*bindings"):
        build_flags("8.2.1", options(precision="fp16", fp32_layers=("a",)))
    with pytest.raises(TargetError, match=r"trtexec 11\.1\.0 takes the precision from the graph"):
        build_flags("11.1.0", options(precision="fp16"))
    with pytest.raises(UnknownNameError, match="fp8"):
        build_flags("8.6.1", options(precision="fp8"))


@pytest.mark.parametrize("part", ["head", "tail"])
def test_a_job_is_built_and_compared_with_trtexec(version, trtexec, cuda, tmp_path, part):
    folder = job_for(version, tmp_path / "job", part=part)
    answer = run_job(folder, print, provider=cuda)
    assert answer["golden"]["compared"] is True
    assert 0 <= answer["golden"]["max_abs"] < answer["golden"]["tolerance"]
    assert answer["key"]["compiler"] == "trtexec"
    assert answer["key"]["compiler_version"] == FULL_VERSIONS[version]
    assert answer["key"]["sm"] == "6.2"
    assert answer["build_ms"] == 1500
    assert answer["timing_cache_sha256"] is not None
    assert "INFO: Engine built in 1.5 sec." in answer["log"]
    log = (tmp_path / "job" / "build.log").read_text()
    assert "&&&& RUNNING TensorRT.trtexec" in log
    assert files_of(folder) == sorted(
        JOB_FILES + ["build.log", "out/answer.json", "out/engine.plan", "out/timing.cache"]
    )
    build_call, run_call = calls_of(trtexec)
    assert "--onnx=" + folder + "/graph.onnx" in build_call
    name = "feature" if part == "tail" else "image"
    # All three golden samples at once, as the profile takes four.
    assert [flag for flag in run_call if flag.startswith("--shapes=" + name + ":3x")]


def test_a_fixed_batch_is_run_one_by_one_without_shapes(version, trtexec, cuda, tmp_path):
    bundle_options = PlanOptions(workspace_bytes=64 << 20, profiles=None, precision=precision_of(version))
    folder = job_for(version, tmp_path / "job", options=bundle_options)
    assert run_job(folder, print, provider=cuda)["golden"]["samples"] == 3
    assert len(calls_of(trtexec)) == 1 + 3
    assert not [flag for call in calls_of(trtexec) for flag in call if "hapes" in flag]


def test_a_timing_cache_is_handed_over(trtexec, version, cuda, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"before")
    folder = job_for(version, tmp_path / "job", timing_cache=str(cache))
    run_job(folder, print, provider=cuda)
    assert (tmp_path / "job" / "out" / "timing.cache").read_bytes() == b"before+"
    assert (tmp_path / "job" / "timing.cache").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            "kill",
            "trtexec cannot build .*: the system killed the build because memory ran out; lower --workspace-mb",
        ),
        ("fail", "trtexec cannot build .*: .*no optimization profile"),
        ("memory:1", "the GPU or the machine ran out of memory; lower --workspace-mb"),
        ("nothing", "wrote no plan"),
        ("wrong", "does not give the bundle's"),
        ("nan", "NaN or infinity"),
        ("no outputs", "gave outputs of .* that cannot be read"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(trtexec, version, cuda, tmp_path, monkeypatch, how, words):
    monkeypatch.setenv("TRTEXEC_DOUBLE", how)
    folder = job_for(version, tmp_path / "job")
    with pytest.raises(EngineError, match=words) as caught:
        run_job(folder, print, provider=cuda)
    assert "\n" not in str(caught.value)
    assert files_of(folder) == sorted(JOB_FILES + ["build.log"])


def test_running_out_of_memory_is_tried_again_with_half(trtexec, version, cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("TRTEXEC_DOUBLE", "memory:128")
    folder = job_for(version, tmp_path / "job")
    said = []

    def attempt(folder, halve, say, deadline):
        run_job(folder, say, provider=cuda, halve=halve)

    answer = build(folder, said.append, 60.0, attempt)
    assert answer["details"]["retried"] is True
    assert [line for line in said if "half the workspace, 128 MiB" in line]
    flags = [flag for call in calls_of(trtexec)[:2] for flag in call if "orkspace" in flag]
    assert [flag[-3:] for flag in flags] == ["256", "128"]


def test_layers_in_fp32_need_bindings_on_8_2(cuda, tmp_path, monkeypatch):
    path = install_trtexec(tmp_path / "bin", "8.2")
    monkeypatch.setattr(machine, "trtexec_path", lambda: path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = make_job(tmp_path / "job", options=options(precision="fp16", fp32_layers=("conv",)), precision="fp16")
    with pytest.raises(TargetError, match="cannot keep single layers in FP32"):
        run_job(folder, print, provider=cuda)
    assert files_of(folder) == sorted(JOB_FILES + ["build.log"])


def test_a_trtexec_of_another_version_is_refused(trtexec, version, cuda, tmp_path):
    folder = job_for(version, tmp_path / "job", target="tx2", expects_tensorrt="7.1")
    with pytest.raises(TargetError, match="tx2 needs TensorRT 7.1, and this machine has " + FULL_VERSIONS[version]):
        run_job(folder, print, provider=cuda)


def test_a_plan_of_trtexec_fits_the_same_version_with_its_fourth_part():
    gpu = {"sm": "6.2", "name": "TX2"}
    key = {"compiler": "trtexec", "compiler_version": "8.2.1", "sm": "6.2", "gpu": "TX2"}
    require_fits("a.plan", key, "8.2.1.8", gpu)
    with pytest.raises(EngineError, match=r"TensorRT was 8\.2\.1, is 8\.2\.10\.1"):
        require_fits("a.plan", key, "8.2.10.1", gpu)
