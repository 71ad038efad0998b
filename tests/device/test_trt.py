"""What is asked of the live TensorRT module, on doubles of every version: logs, flags, types, compiling."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.bundle import Bundle
from bottlekit.device.errors import EngineError, TargetError, UnknownNameError
from bottlekit.device.runner import TensorInfo
from bottlekit.device.trt import (
    PlanOptions,
    compute_capabilities,
    flavour_of,
    full_version,
    import_tensorrt,
    numpy_dtype,
    plan_from_onnx,
    tensors_of_engine,
)
from bottlekit.device.trt_log import RecordedLog

sys.path.insert(0, str(Path(__file__).parent))
from tensorrt_double import FULL_VERSIONS, VERSIONS, tensorrt_double

BUNDLE = Bundle.load(str(Path(__file__).parent.parent / "data" / "tiny_fleet" / "rb1"))
PROFILES = {"image": ((1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))}


@pytest.fixture(name="trt", params=VERSIONS)
def _trt(request):
    return tensorrt_double(request.param)


def head():
    return Path(BUNDLE.onnx_path("head")).read_bytes()


def options(trt, **changes):
    sm = "8.9" if trt.__name__ == "tensorrt_rtx" else None
    return PlanOptions(workspace_bytes=1 << 28, sm=sm, profiles=PROFILES)._replace(**changes)


def test_a_plan_is_compiled_as_each_version_wants_it(trt):
    plan = plan_from_onnx(trt, head(), options(trt), "head.onnx")
    assert plan.content
    assert plan.build_ms > 0
    assert plan.log == ["INFO: Engine built"]
    (build,) = trt.double.builds
    assert build["workspace_bytes"] == 1 << 28
    assert build["profiles"] == [PROFILES]
    assert build["network_flags"] == (1 if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") else 0)


def test_the_target_gpu_is_told_where_it_can_be():
    trt = tensorrt_double("rtx")
    assert compute_capabilities(trt) == ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
    assert b'"sm": "SM120"' in plan_from_onnx(trt, head(), options(trt, sm="12.0"), "head.onnx").content


@pytest.mark.parametrize(("version", "known"), [("rtx", "7.5, 8.0"), ("11.4", "none"), ("8.2", "none")])
def test_a_gpu_that_cannot_be_compiled_for_from_elsewhere_is_refused(version, known):
    trt = tensorrt_double(version)
    with pytest.raises(TargetError, match=r"cannot compile for SM 6\.2 on another machine; it can for: " + known):
        plan_from_onnx(trt, head(), options(trt, sm="6.2"), "head.onnx")
    assert trt.double.builds == []


def test_all_parser_errors_are_told_in_one_line(trt):
    trt.double.fail_parse = ["first\nthing", "second thing"]
    with pytest.raises(EngineError, match=r"cannot parse head\.onnx: .*first thing; .*second thing") as caught:
        plan_from_onnx(trt, head(), options(trt), "head.onnx")
    assert "\n" not in str(caught.value)
    assert trt.__version__ in str(caught.value)


def test_a_failed_build_tells_what_the_log_says(trt):
    trt.double.fail_build = "Error Code 9: some\nreason"
    with pytest.raises(EngineError, match=r"cannot build head\.onnx: .*some reason"):
        plan_from_onnx(trt, head(), options(trt), "head.onnx")
    trt.double.fail_build = None
    with pytest.raises(EngineError, match="no profile"):
        plan_from_onnx(trt, head(), options(trt, profiles=None), "head.onnx")


def test_a_log_holds_what_was_said_while_it_lived(trt):
    severity = trt.ILogger.Severity
    first = RecordedLog()
    logger = first.logger(trt)
    logger.log(severity.ERROR, "one")
    second = RecordedLog()
    assert second.logger(trt) is logger, "TensorRT keeps the first logger of a process"
    logger.log(severity.VERBOSE, "two")
    assert [tuple(line) for line in first.lines] == [("ERROR", "one"), ("VERBOSE", "two")]
    assert [tuple(line) for line in second.lines] == [("VERBOSE", "two")]
    assert first.errors() == ["one"]
    assert first.texts("VERBOSE") == ["VERBOSE: two"]
    assert second.errors() == []
    del first
    gc.collect()
    logger.log(severity.INTERNAL_ERROR, "three")
    assert second.errors() == ["three"]


def test_modules_do_not_share_logs():
    one, other = tensorrt_double("8.2"), tensorrt_double("11.4")
    log = RecordedLog()
    log.logger(one)
    RecordedLog().logger(other).log(other.ILogger.Severity.ERROR, "elsewhere")
    assert log.lines == []


def test_an_engine_lists_its_tensors_in_every_version(trt):
    class Engine:
        """The two surfaces: bindings by number up to 8.4, tensors by name after."""

        rows = [
            ("image", (-1, 3, 8, 8), trt.DataType.FLOAT, True),
            ("feature", (-1, 2, 4, 4), trt.DataType.HALF, False),
        ]

    named = hasattr(trt, "TensorIOMode")
    prefix = "get_tensor_" if named else "get_binding_"

    def row(key):
        return next(r for i, r in enumerate(Engine.rows) if key in (i, r[0]))

    setattr(Engine, "num_io_tensors" if named else "num_bindings", 2)
    setattr(Engine, prefix + "name", lambda self, index: Engine.rows[index][0])
    setattr(Engine, prefix + "shape", lambda self, key: row(key)[1])
    setattr(Engine, prefix + "dtype", lambda self, key: row(key)[2])
    if named:
        mode = trt.TensorIOMode
        Engine.get_tensor_mode = lambda self, key: mode.INPUT if row(key)[3] else mode.OUTPUT
    else:
        Engine.binding_is_input = lambda self, key: row(key)[3]
    inputs, outputs = tensors_of_engine(trt, Engine())
    assert inputs == [TensorInfo("image", (None, 3, 8, 8), np.dtype(np.float32))]
    assert outputs == [TensorInfo("feature", (None, 2, 4, 4), np.dtype(np.float16))]


def test_types_are_numpy_types_or_refused():
    trt = tensorrt_double("11.4")
    assert numpy_dtype(trt.DataType.INT32) == np.int32
    assert numpy_dtype(trt.DataType.BOOL) == np.bool_
    with pytest.raises(EngineError, match="numpy has no type for TensorRT's BF16"):
        numpy_dtype(trt.DataType.BF16)


def test_a_module_that_is_not_there_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(TargetError, match=r"'tensorrt_rtx' is needed .*pip install 'bottlekit\[rtx\]'"):
        import_tensorrt("tensorrt_rtx")
    with pytest.raises(UnknownNameError, match="tensorrt, tensorrt_rtx"):
        import_tensorrt("openvino")


def test_a_module_whose_libraries_are_missing_says_so_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.8: cannot open\\nshared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(TargetError, match=r"libnvinfer\.so\.8: cannot open shared object file"):
        import_tensorrt("tensorrt")


def test_each_line_is_handed_on_as_it_comes_and_a_failing_listener_does_no_harm(trt):
    heard = []

    def listen(line):
        heard.append(line.text)
        raise OSError(28, "No space left on device")

    log = RecordedLog(listen)
    for text in ("one", "two"):
        log.logger(trt).log(trt.ILogger.Severity.INFO, text)
    assert heard == ["one"]
    assert log.texts("INFO") == ["INFO: one", "INFO: two"]


def test_a_log_that_is_given_gets_what_the_compiler_says(trt):
    heard = []
    log = RecordedLog(lambda line: heard.append(line.text))
    plan_from_onnx(trt, head(), options(trt), "head.onnx", log)
    assert "Engine built" in heard


@pytest.mark.parametrize(
    ("precision", "flags"), [("typed", []), ("fp32", []), ("fp16", ["FP16", "TF32"]), ("int8", ["INT8"])]
)
def test_a_precision_is_flags_and_fp32_is_never_tf32(trt, precision, flags):
    if precision != "typed" and not hasattr(trt.BuilderFlag, "FP16"):
        with pytest.raises(TargetError, match="lower the graph to {} first".format(precision)):
            plan_from_onnx(trt, head(), options(trt, precision=precision), "head.onnx")
        return
    plan_from_onnx(trt, head(), options(trt, precision=precision), "head.onnx")
    assert trt.double.builds[-1]["flags"] == flags


@pytest.mark.parametrize("kind", ["damaged", "of another GPU", "of another version"])
def test_a_timing_cache_that_does_not_fit_is_left_out(trt, kind):
    if flavour_of(trt) == "tensorrt_rtx":
        pytest.skip("TensorRT-RTX has no timing cache")
    good = plan_from_onnx(trt, head(), options(trt), "head.onnx").timing_cache
    other = tensorrt_double("8.2" if trt.double.version != "8.2" else "8.6")
    foreign = {
        "damaged": good[3:],
        "of another GPU": good.replace(b"6.2", b"8.7"),
        "of another version": plan_from_onnx(other, head(), options(other), "head.onnx").timing_cache,
    }[kind]
    assert plan_from_onnx(trt, head(), options(trt, timing_cache=foreign), "head.onnx").timing_cache == good
    assert good not in (foreign, b"")


def test_the_version_has_four_parts(trt):
    assert full_version(trt) == FULL_VERSIONS[trt.double.version]


def test_a_version_of_three_parts_stays_where_the_library_cannot_be_asked():
    trt = tensorrt_double("10.0")
    trt.__version__ = "10.0.1"
    assert full_version(trt) == "10.0.1"
