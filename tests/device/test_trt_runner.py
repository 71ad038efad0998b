"""Building and running plans on doubles of every TensorRT version, over a double of libcudart."""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bottlekit.device.trt_runner as trt_runner_module
from bottlekit.device.bundle import Bundle
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.errors import EngineError, TargetError, UnknownNameError
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.trt import PlanOptions, is_strongly_typed, plan_from_onnx
from bottlekit.device.trt_runner import TensorRTRunner

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double, enqueue_through
from tensorrt_double import VERSIONS, tensorrt_double

BUNDLE = Bundle.load(str(Path(__file__).parent.parent / "data" / "tiny_fleet" / "rb1"))
IMAGE = BUNDLE.golden()["image"]
SHAPE = tuple(BUNDLE.input_shape[1:])
MAX_BATCH = 4


@pytest.fixture(scope="session")
def double_path(tmp_path_factory):
    return compile_double(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def trt(version, double_path, monkeypatch):
    module = tensorrt_double(version, sm="SM89" if version == "rtx" else "6.2")
    module.double.enqueue = enqueue_through(ctypes.CDLL(double_path))
    monkeypatch.setattr(trt_runner_module, "import_tensorrt", lambda flavour: module)
    return module


@pytest.fixture
def cuda(double_path):
    provider = RuntimeProvider("ctypes", runtime_from_ctypes(double_path))
    yield provider
    provider.close()
    assert ctypes.CDLL(double_path).double_live() == 0, "something allocated was not given back"


def options(version, profile=True):
    shapes = ((1,) + SHAPE, (1,) + SHAPE, (MAX_BATCH,) + SHAPE)
    return PlanOptions(
        workspace_bytes=1 << 28,
        sm="8.9" if version == "rtx" else None,
        profiles={"image": shapes} if profile else None,
    )


def onnx():
    return Path(BUNDLE.onnx_path("head")).read_bytes()


@pytest.fixture
def plan_path(trt, version, tmp_path):
    path = tmp_path / "head.plan"
    path.write_bytes(plan_from_onnx(trt, onnx(), options(version), "head.onnx").content)
    return str(path)


def expected(images):
    with OnnxRuntimeRunner(BUNDLE.onnx_path("head"), threads=1) as runner:
        return runner.run({"image": images})["feature"]


def images(batch):
    return np.resize(IMAGE, (batch,) + SHAPE).astype(np.float32)


@pytest.mark.parametrize("graph", [False, True])
def test_a_plan_gives_what_the_onnx_gives_for_every_batch(trt, cuda, plan_path, graph):
    with TensorRTRunner(plan_path, provider=cuda, graph=graph) as runner:
        assert [info.name for info in runner.inputs] == ["image"]
        assert runner.inputs[0].shape == (None,) + SHAPE
        for batch in (1, 3, 1, MAX_BATCH):
            for turn in range(2):
                feed = images(batch) + np.float32(turn)
                np.testing.assert_array_equal(runner.run({"image": feed})["feature"], expected(feed))
                assert runner.device_ms >= 0.0


def test_a_runner_can_be_entered_again(trt, cuda, plan_path):
    runner = TensorRTRunner(plan_path, provider=cuda)
    for _ in range(2):
        with runner:
            np.testing.assert_array_equal(runner.run({"image": images(1)})["feature"], expected(images(1)))


def test_an_answer_is_not_overwritten_by_the_next(trt, cuda, plan_path):
    with TensorRTRunner(plan_path, provider=cuda) as runner:
        first = runner.run({"image": images(1)})["feature"]
        kept = first.copy()
        runner.run({"image": images(1) + 1})
        np.testing.assert_array_equal(first, kept)


def test_a_batch_outside_the_profile_is_refused_with_the_option_that_changes_it(trt, cuda, plan_path):
    with TensorRTRunner(plan_path, provider=cuda) as runner:
        with pytest.raises(EngineError, match="--max-batch"):
            runner.run({"image": images(MAX_BATCH + 1)})
        # and it still works afterwards
        np.testing.assert_array_equal(runner.run({"image": images(2)})["feature"], expected(images(2)))


def test_a_failed_execution_is_an_error_and_no_answer(trt, cuda, plan_path):
    with TensorRTRunner(plan_path, provider=cuda) as runner:
        trt.double.fail_execute = True
        with pytest.raises(EngineError, match="failed to run .*head.plan.*Cuda Runtime"):
            runner.run({"image": images(1)})


def test_the_workspace_and_the_profile_reach_the_builder(trt, version, plan_path):
    (build,) = trt.double.builds
    assert build["workspace_bytes"] == 1 << 28
    assert build["profiles"] == [{"image": options(version).profiles["image"]}]
    assert build["network_flags"] == (0 if version in ("11.4", "rtx") else 1 << int(_explicit_batch(trt)))


def _explicit_batch(trt):
    return trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH


def test_a_graph_with_free_dimensions_and_no_profile_says_what_to_pass(trt, version):
    with pytest.raises(EngineError, match="cannot build head.onnx: .*--max-batch"):
        plan_from_onnx(trt, onnx(), options(version, profile=False), "head.onnx")


def test_a_failed_build_says_what_tensorrt_said_and_what_to_do(trt, version):
    trt.double.fail_build = "Error Code 10: Internal Error (Could not find any implementation for node Conv_0.)"
    with pytest.raises(EngineError, match="memory.*--workspace-mb.*Conv_0"):
        plan_from_onnx(trt, onnx(), options(version), "head.onnx")


def test_all_errors_of_the_parser_are_told(trt, version):
    trt.double.fail_parse = ["No importer registered for op: Foo", "No importer registered for op: Bar"]
    with pytest.raises(EngineError, match="cannot parse head.onnx: .*Foo.*Bar"):
        plan_from_onnx(trt, onnx(), options(version), "head.onnx")


def test_what_is_no_onnx_is_refused(trt, version):
    with pytest.raises(EngineError, match="cannot parse x.onnx"):
        plan_from_onnx(trt, b"no graph", options(version), "x.onnx")


def broken_plans(plan):
    yield "truncated", plan[: len(plan) // 2], "cannot load"
    yield "prefix", b"{}" + plan, "something was written in front of it"
    yield "empty", b"", "no plan"
    yield "other version", plan.replace(plan.split(b'"')[3], b"7.1.3.0", 1), "built by another TensorRT"
    sm = b'"SM89"' if b'"SM89"' in plan else b'"6.2"'
    yield "other gpu", plan.replace(sm, b'"5.3"', 1), "built on another kind of GPU"


def test_plans_that_cannot_be_loaded_say_why_and_leave_nothing_behind(trt, cuda, plan_path):
    plan = Path(plan_path).read_bytes()
    for name, content, words in broken_plans(plan):
        Path(plan_path).write_bytes(content)
        with pytest.raises(EngineError, match=words) as caught:
            TensorRTRunner(plan_path, provider=cuda).__enter__()
        assert "\n" not in str(caught.value), name


def test_a_missing_plan_is_named(trt, cuda, tmp_path):
    with pytest.raises(EngineError, match="no engine at .*nothing.plan"):
        TensorRTRunner(str(tmp_path / "nothing.plan"), provider=cuda).__enter__()


def test_only_names_of_the_recorded_surface_are_used(trt, cuda, plan_path, version):
    """The double raises AttributeError for any other name; this asserts that it really does."""
    for owner, name in ((trt.BuilderFlag, "NOT_THERE"), (trt.ICudaEngine, "not_there")):
        assert not hasattr(owner, name)
    config = trt.Builder(None).create_builder_config()
    with pytest.raises(AttributeError):
        config.not_there = 1
    assert hasattr(trt.ICudaEngine, "num_bindings") == (version in ("8.2", "8.6"))
    assert hasattr(trt.ICudaEngine, "num_io_tensors") == (version != "8.2")


def built(trt, version, **choices):
    return plan_from_onnx(trt, onnx(), options(version)._replace(**choices), "head.onnx")


def test_precisions_become_flags_where_the_version_has_flags(trt, version):
    built(trt, version)
    assert trt.double.builds[-1]["flags"] == []
    if version in ("11.4", "rtx"):
        assert is_strongly_typed(trt)
        for precision in ("fp16", "fp32"):
            with pytest.raises(TargetError, match="takes the precision from the graph"):
                built(trt, version, precision=precision)
        return
    assert not is_strongly_typed(trt)
    built(trt, version, precision="fp16")
    assert trt.double.builds[-1]["flags"] == ["FP16", "TF32"]
    built(trt, version, precision="fp32")
    assert trt.double.builds[-1]["flags"] == []
    with pytest.raises(UnknownNameError, match="fp8"):
        built(trt, version, precision="fp8")


def test_layers_that_must_stay_fp32_are_bound_and_unknown_ones_named(trt, version):
    if is_strongly_typed(trt):
        pytest.skip("the graph itself says which layers are FP32")
    built(trt, version, precision="fp16", fp32_layers=("conv1", "fc"))
    assert trt.double.builds[-1]["fp32_layers"] == ["conv1", "fc"]
    assert "OBEY_PRECISION_CONSTRAINTS" in trt.double.builds[-1]["flags"]
    with pytest.raises(EngineError, match="no layers conv9"):
        built(trt, version, precision="fp16", fp32_layers=("conv9",))


def test_a_slow_precision_is_told_in_the_log(version, double_path):
    if version in ("11.4", "rtx"):
        pytest.skip("no precision flags in this version")
    module = tensorrt_double(version, fast_fp16=False)
    log = built(module, version, precision="fp16").log
    assert any("Half2 support requested" in line for line in log)


def test_the_timing_cache_comes_out_and_goes_in_again(trt, version):
    first = built(trt, version)
    assert trt.double.builds[-1]["timing_cache"] == b""
    if version == "rtx":
        assert first.timing_cache == b""
        return
    assert first.timing_cache
    built(trt, version, timing_cache=first.timing_cache)
    assert trt.double.builds[-1]["timing_cache"] == first.timing_cache


def test_the_inspector_describes_the_layers(trt, cuda, plan_path):
    with TensorRTRunner(plan_path, provider=cuda) as runner:
        assert json.loads(runner.layers())["Bindings"] == ["image", "feature"]
    with pytest.raises(EngineError, match="is not loaded"):
        runner.layers()
