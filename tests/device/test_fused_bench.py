"""A head that quantises on the GPU, in what uses heads: the golden comparison, bench, both halves at once."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import bottlekit.device.fused as fused_module
import bottlekit.device.kernel_module as kernel_module
import bottlekit.device.trt_runner as trt_runner_module
from bottlekit.device.bench import Effort, bench_bundle
from bottlekit.device.build_answer import install_engine
from bottlekit.device.build_run import run_job
from bottlekit.device.bundle import Bundle
from bottlekit.device.codes import (
    STATUS,
    WORDS,
    Quantised,
    feeds_from_quantised,
    payload_from_outputs,
    quantised_from_outputs,
    quantised_tensors,
)
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.engine import Engine
from bottlekit.device.errors import EngineError, TargetError
from bottlekit.device.golden import TOLERANCES, compare_with_golden
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.phases import loaded_phase
from bottlekit.device.pipeline import LocalSplit
from bottlekit.device.quantizer import quantize
from bottlekit.device.runner import Runner, TensorInfo
from bottlekit.device.runners import runner_from_engine
from bottlekit.device.service import runner_from_engines

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import KERNEL_IMAGE, compile_double, compile_driver_double, enqueue_through
from jobs import RB1, make_job
from tensorrt_double import tensorrt_double

BUNDLE = Bundle.load(RB1)
SHORT = Effort(min_samples=5, max_seconds=0.1, warm_up_seconds=0.01)


@pytest.fixture(scope="session")
def paths(tmp_path_factory):
    cudart, cuda = compile_double(tmp_path_factory.mktemp("a")), compile_driver_double(tmp_path_factory.mktemp("b"))
    ctypes.CDLL(cuda).double_set_enqueue(ctypes.cast(ctypes.CDLL(cudart).double_enqueue, ctypes.c_void_p))
    return cudart, cuda


@pytest.fixture
def engine(paths, tmp_path, monkeypatch):
    """The head of the tiny bundle, built and installed on a machine that has a GPU and TensorRT 8.2."""
    cudart, cuda = paths
    trt = tensorrt_double("8.2")
    trt.double.enqueue = enqueue_through(ctypes.CDLL(cudart))
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(fused_module, "kernel_image", lambda kernel, sm: (KERNEL_IMAGE, True))
    monkeypatch.setattr(kernel_module, "_NAMES", (cuda,))
    provider = RuntimeProvider("ctypes", runtime_from_ctypes(cudart))
    monkeypatch.setattr(trt_runner_module, "provider_from_name", lambda name: provider)
    folder = make_job(tmp_path / "job")
    run_job(folder, lambda message: None, provider=provider)
    yield Engine.load(install_engine(folder, str(tmp_path / "engines")))
    provider.close()
    assert ctypes.CDLL(cudart).double_live() == 0, "something allocated was not given back"


def bench(engine, phases, **choices):
    return bench_bundle(BUNDLE, {"head": engine}, phases, SHORT, in_process=True, **choices)["phases"]


def test_bench_measures_the_head_with_the_quantiser_and_the_encoder_without(engine):
    phases = bench(engine, ["head", "encode", "decode"])
    assert phases["head"]["quantiser"] == phases["encode"]["quantiser"] == "kernel"
    assert "quantiser" not in phases["decode"]
    golden = phases["head"]["golden"]
    assert (golden["compared"], golden["codes_differing"], golden["codes_max_step"]) == (True, 0, 0)
    assert golden["max_abs"] == 0


def test_no_fused_measures_the_head_alone_and_all_of_the_encoder(engine):
    phases = bench(engine, ["head", "encode"], fused=False)
    assert "quantiser" not in phases["head"]
    assert "quantiser" not in phases["encode"]
    assert "why_not_fused" not in phases["head"]


def test_bench_says_why_a_head_on_a_gpu_is_not_fused(engine, monkeypatch):
    def none(kernel, sm):
        raise TargetError("no NVRTC for the kernels here")

    monkeypatch.setattr(fused_module, "kernel_image", none)
    phases = bench(engine, ["head", "encode"])
    assert phases["head"]["why_not_fused"] == "no NVRTC for the kernels here"
    assert "quantiser" not in phases["encode"]


def test_the_encoder_alone_is_measured_whole(engine):
    assert "quantiser" not in bench(engine, ["encode"])["encode"]


@pytest.mark.parametrize("quantiser", [None, "kernel"])
def test_the_codecs_phases_give_the_same_from_codes(quantiser):
    codec, golden = BUNDLE.codec, BUNDLE.golden()
    with loaded_phase(BUNDLE, "encode", quantiser=quantiser) as phase:
        payloads = [phase.run(i) for i in range(phase.samples)]
        assert phase.quantiser == quantiser
        phase.compare()
    assert payloads == [codec.encode(feature) for feature in golden["feature"]]
    with loaded_phase(BUNDLE, "decode", quantiser=quantiser) as phase:
        decoded = phase.run(0)
    if quantiser is None:
        np.testing.assert_array_equal(decoded, codec.decode(payloads[0]))
    else:
        for ours, theirs in zip(decoded, codec.decode_quantised(payloads[0])):
            np.testing.assert_array_equal(ours, theirs)


def test_a_split_gives_the_same_answer_fused_or_not(engine):
    image = BUNDLE.golden()["image"][:1]
    outcomes = []
    with OnnxRuntimeRunner(BUNDLE.onnx_path("tail"), threads=1) as tail:
        for codec in (BUNDLE.codec, None):
            with runner_from_engine(engine, codec=codec) as head:
                assert len(head.outputs) == (3 if codec is not None else 1)
                outcomes.append(LocalSplit(head, BUNDLE.codec, tail).infer(image))
    np.testing.assert_array_equal(outcomes[0].logits, outcomes[1].logits)
    assert outcomes[0].payload_bytes == outcomes[1].payload_bytes


@pytest.mark.parametrize("fused", [True, False])
def test_engines_of_a_folder_are_fused_when_that_is_asked_for(engine, fused):
    runner_for = runner_from_engines(os.path.dirname(engine.path), engine.target, fused=fused)
    with runner_for(BUNDLE, "head") as head:
        assert [info.name for info in head.outputs] == (["words", "range", "status"] if fused else ["feature"])


class Codes(Runner):
    """A head that gives the codes of given features."""

    def __init__(self, features, status=0):
        super().__init__("codes")
        codec = BUNDLE.codec
        self.quantised = [quantize(feature, codec.bits, codec.value_range) for feature in features]
        self.status = status
        self.next = 0

    def _activate(self):
        image = TensorInfo("image", (1,) + tuple(BUNDLE.input_shape[1:]), np.dtype(np.float32))
        return [image], quantised_tensors(BUNDLE.codec.shape)

    def _deactivate(self):
        pass

    def _infer(self, feeds):

        outputs = feeds_from_quantised([Quantised(*self.quantised[self.next])])
        outputs[STATUS] = np.array([self.status], np.int32)
        self.next += 1
        return outputs


def compared(features, judged_as="fp32", status=0):
    with Codes(features, status) as runner:
        return compare_with_golden(runner, BUNDLE, "head", TOLERANCES[judged_as])


def test_codes_are_compared_as_codes():
    feature = BUNDLE.golden()["feature"]
    report = compared(feature)
    assert (report["codes_differing"], report["codes_max_step"], report["max_abs"]) == (0, 0, 0)
    # Rounding in FP16 moves some codes by a step.
    half = compared(feature.astype(np.float16).astype(np.float32), "fp16")
    assert half["codes_max_step"] <= 1
    assert 0 < half["max_abs"] <= half["tolerance"]


def test_other_codes_are_refused():
    with pytest.raises(EngineError, match="does not give the bundle's"):
        compared(BUNDLE.golden()["feature"][::-1])
    # All codes right, and another range.
    with pytest.raises(EngineError, match="does not give the bundle's golden outputs"):
        compared(BUNDLE.golden()["feature"] * np.float32(1.5))
    with pytest.raises(EngineError, match="the head of tiny-rb1: the feature holds NaN or infinity"):
        compared(BUNDLE.golden()["feature"], status=1)


def test_words_hold_four_codes_each():
    codec = BUNDLE.codec
    features = BUNDLE.golden()["feature"][:2]

    quantised = [Quantised(*quantize(feature, codec.bits, codec.value_range)) for feature in features]
    outputs = feeds_from_quantised(quantised)
    assert outputs[WORDS].dtype == np.int32
    outputs[STATUS] = np.zeros(2, np.int32)
    for one, other in zip(quantised_from_outputs(outputs, codec.shape), quantised):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one[1:] == other[1:]
    assert payload_from_outputs(codec, outputs) == codec.encode(features[0])
