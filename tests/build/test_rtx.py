"""Real TensorRT-RTX plans, compiled with no GPU: FP16 by default, for two GPUs, refused with the parser's words."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bottlekit.build import rtx
from bottlekit.build.build import Step, build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.engine import Engine
from bottlekit.device.runners import runner_from_engine
from bottlekit.errors import EngineError, TargetError
from bottlekit.targets.loader import target_from_name

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)
Tiny = Callable[..., Bundle]
ADA = target_from_name("rtx-ada")


@pytest.mark.parametrize("name", ["rtx-turing", "rtx-blackwell"])
def test_a_real_bundle_compiles_for_two_gpus(
    small_bundle: Bundle, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = target_from_name(name)
    engines = build_bundle(small_bundle, target, tmp_path, ["head", "tail"])
    for engine in engines:
        sidecar = engine.sidecar
        assert (engine.kind, engine.precision) == ("tensorrt_rtx", "fp16")
        assert Path(engine.path).suffix == ".plan"
        # FP16 weights: about two bytes for each FP32 weight's four.
        assert sidecar["engine_bytes"] < 0.6 * Path(small_bundle.onnx_path(engine.part)).stat().st_size + 400_000
        assert sidecar["key"]["sm"] == target.sm
        assert sidecar["key"]["compiler_version"].count(".") == 3
        assert sidecar["key"]["profiles"][("feature" if engine.part == "tail" else "image")][2][0] == 8
        assert sidecar["lowered"]["passed"] is True
        assert sidecar["lowered"]["mean_abs"] <= sidecar["lowered"]["tolerance"]
        assert sidecar["lowered"]["fp32_layers"] == []
        assert any("Engine generation completed" in line for line in sidecar["log"])
        assert Engine.load(engine.path).sha256 == engine.sha256
    assert engines[1].sidecar["lowered"]["top1_agreement"] == 1
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", ""), "compiling says nothing that nobody asked for"


def test_a_plan_was_not_compared_and_does_not_run_here(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "nvidia_gpu_is_here", lambda: False)
    (engine,) = build_bundle(tiny_bundle(), ADA, tmp_path, ["head"])
    assert not engine.golden_compared
    assert engine.why_not_compared == "no GPU on this machine: compiled ahead of time, not run"
    with pytest.raises(TargetError, match="cannot run on this machine"):
        runner_from_engine(engine).__enter__()


@pytest.mark.parametrize("name", ["rtx-turing", "rtx-ampere", "rtx-ada", "rtx-blackwell"])
def test_int8_compiles_for_every_gpu(small_bundle: Bundle, tmp_path: Path, name: str) -> None:
    for engine in build_bundle(small_bundle, target_from_name(name), tmp_path, ["head", "tail"], "int8"):
        assert engine.precision == "int8"
        # A byte for each weight; the head is so small that its kernels weigh more.
        if engine.part == "tail":
            assert engine.sidecar["engine_bytes"] < 0.36 * Path(small_bundle.onnx_path("tail")).stat().st_size
        assert engine.sidecar["lowered"]["calibration"] == engine.sidecar["key"]["calibration"]
        assert any("Engine generation completed" in line for line in engine.sidecar["log"])


def test_fp32_compiles_where_matrix_products_do_not(small_bundle: Bundle, tmp_path: Path) -> None:
    (engine,) = build_bundle(small_bundle, target_from_name("rtx-turing"), tmp_path, ["tail"], "fp32")
    assert engine.sidecar["key"]["lowering"] == "convolutions 1"
    assert engine.sidecar["lowered"]["top1_agreement"] == 1


def test_each_gpu_gets_its_own_plan(tiny_bundle: Tiny, tmp_path: Path) -> None:
    bundle = tiny_bundle()
    plans = [
        build_bundle(bundle, target_from_name(name), tmp_path, ["full"])[0] for name in ("rtx-turing", "rtx-ada")
    ]
    assert plans[0].path != plans[1].path
    assert plans[0].sha256 != plans[1].sha256


def test_fp32_is_compiled_as_it_is(tiny_bundle: Tiny, tmp_path: Path) -> None:
    (engine,) = build_bundle(tiny_bundle(), ADA, tmp_path, ["full"], precision="fp32")
    assert engine.precision == "fp32"
    assert engine.sidecar["key"]["lowering"] is None
    assert "lowered" not in engine.sidecar


def test_a_changed_precision_or_batch_is_named_and_rebuilt(tiny_bundle: Tiny, tmp_path: Path) -> None:
    def build(**asked: object) -> Step:
        steps: list[Step] = []
        build_bundle(tiny_bundle(), ADA, tmp_path / "out", ["head"], progress=steps.append, **asked)  # type: ignore
        return steps[0]

    assert build().state == "compiling"
    assert build().state == "cached"
    assert (build(precision="fp32").why or "").startswith("rebuilding: precision was fp16, is fp32; lowering was ")
    assert build(precision="fp32").state == "cached"
    why = build(precision="fp32", max_batch=2).why or ""
    assert why.startswith('rebuilding: profiles was {"image": [[1, 3, 8, 8], [1, 3, 8, 8], [8, 3, 8, 8]]}, is ')


def test_the_workspace_is_the_targets_unless_told(tiny_bundle: Tiny, tmp_path: Path) -> None:
    steps: list[Step] = []
    for workspace_mib in (None, 1024, 64):
        build_bundle(tiny_bundle(), ADA, tmp_path, ["head"], progress=steps.append, workspace_mib=workspace_mib)
    assert [step.state for step in steps] == ["compiling", "built", "cached", "compiling", "built"]
    assert steps[3].why == "rebuilding: workspace_bytes was 1073741824, is 67108864"


def test_a_fixed_batch_needs_no_profile(tiny_bundle: Tiny, tmp_path: Path) -> None:
    def fix_batch(folder: Path) -> None:
        for part in ("head", "tail", "full", "baseline"):
            model = onnx.load(folder / f"{part}.onnx")
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = 1
            onnx.save(model, folder / f"{part}.onnx")

    engines = build_bundle(tiny_bundle(fix_batch, dynamic_batch=False), ADA, tmp_path / "out")
    assert [engine.sidecar["key"]["profiles"] for engine in engines] == [{}] * 4


def unsupported_operator(folder: Path) -> None:
    model = onnx.load(folder / "tail.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    node.op_type, node.name = "Frobnicate", "the_odd_one"
    onnx.save(model, folder / "tail.onnx")


def test_an_unsupported_operator_is_refused_in_the_parsers_words(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # The lint would find it first.
    monkeypatch.setattr("bottlekit.build.build.require_clean", lambda job: None)
    with pytest.raises(
        EngineError,
        match=r"TensorRT-RTX 1\.\S+ cannot parse .*tail\.onnx: node 'the_odd_one' \(Frobnicate\): .*Plugin not",
    ) as caught:
        build_bundle(tiny_bundle(unsupported_operator), ADA, out, ["tail"], precision="fp32")
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def scaled(folder: Path, factor: float) -> None:
    model = onnx.load(folder / "tail.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, folder / "tail.onnx")


@pytest.mark.parametrize("factor", [1e6, 1e-9], ids=["too large", "too small"])
def test_a_layer_that_does_not_survive_fp16_stays_fp32(tiny_bundle: Tiny, tmp_path: Path, factor: float) -> None:
    bundle = tiny_bundle(lambda folder: scaled(folder, factor))
    (engine,) = build_bundle(bundle, ADA, tmp_path / "out", ["tail"])
    assert engine.precision == "fp16"
    lowered = engine.sidecar["lowered"]
    # The nodes of this bundle have no names; TensorRT's parser calls them this.
    assert lowered["fp32_layers"] == ["node_of_logits"]
    assert lowered["layers"] == 2
    assert (lowered["passed"], lowered["top1_agreement"]) == (True, 1)


def test_a_real_network_is_compiled_with_layers_of_both_kinds(small_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(small_bundle.path, tmp_path / "bundle")
    model = onnx.load(tmp_path / "bundle" / "head.onnx")
    out_of_range = {"/reduce/channel/conv/Conv": 1e5, "/reduce/spatial/conv/Conv": 1e-5}
    factors = {node.input[1]: out_of_range[node.name] for node in model.graph.node if node.name in out_of_range}
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            values = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "bundle" / "head.onnx")
    bundle = Bundle.load(str(tmp_path / "bundle"), verify=False)
    (engine,) = build_bundle(bundle, ADA, tmp_path / "out", ["head"])
    lowered = engine.sidecar["lowered"]
    assert lowered["fp32_layers"] == [
        "/reduce/channel/conv/Conv",
        "/reduce/channel/relu/Relu",
        "/reduce/spatial/conv/Conv",
    ]
    assert lowered["layers"] == len(model.graph.node)
    assert any("Engine generation completed" in line for line in engine.sidecar["log"])


def test_a_build_that_dies_leaves_nothing(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(rtx, "plan_from_onnx", dies)
    out = tmp_path / "out"
    with pytest.raises(MemoryError):
        build_bundle(tiny_bundle(), ADA, out, ["head"])
    assert list(out.iterdir()) == []
