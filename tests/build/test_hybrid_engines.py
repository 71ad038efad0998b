"""Engines of a hybrid network's head: INT8 where the hardware has it, and the reason where it has not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bottlekit.build.build import build_bundle, jobs_for
from bottlekit.build.check import findings_of
from bottlekit.build.job_folder import job_folder_from_job
from bottlekit.build.lower import lower_onnx, lowering_key
from bottlekit.device.bundle import Bundle
from bottlekit.device.files import read_json
from bottlekit.device.golden import compare_with_golden
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.errors import EngineError, UsageError
from bottlekit.export.hybrid import bundle_from_hybrid
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.specs import BottleneckSpec
from bottlekit.targets.loader import target_from_name
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    """4-bit and binary, two exits each."""
    folder = tmp_path_factory.mktemp("hybrid")
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=3e-3, optimizer="adamw")
    source = folder / "net.safetensors"
    train_backbone(source, "cifar_resnet8", dataset_from_name("digits", input_size=16), recipe, quiet=True)
    made = {}
    for bits in (4, 1):
        path = folder / f"hybrid{bits}.safetensors"
        spec = HybridSpec("rb2", bits, ("rb1", "rb2"), bottleneck=BottleneckSpec("bottlenet", "rb2", 4))
        train_hybrid(path, source, spec, HybridPlan((0.2, 0.3), allowed_drop=0.1), recipe, quiet=True)
        made[bits] = bundle_from_hybrid(path, folder / f"bundle{bits}", images=30, exits=("rb1", "rb2"))
    return made


@pytest.mark.parametrize("bits", [4, 1])
def test_plans_for_rtx_are_compiled_and_say_what_computes_the_low_bits(
    bundles: dict[int, Bundle], tmp_path: Path, bits: int
) -> None:
    pytest.importorskip("tensorrt_rtx")
    target = target_from_name("rtx-ada")
    for precision in ("int8", "fp16", "fp32"):
        (engine,) = build_bundle(bundles[bits], target, tmp_path, ["head"], precision)
        assert Path(engine.path).stat().st_size > 0
        told = engine.sidecar.get("lowered")
        if told is None:
            # A binary network in FP32 is compiled as it is.
            assert (bits, precision) == (1, "fp32")
            continue
        why = None if precision == "int8" else f"--precision {precision} was built; int8 would keep them in INT8"
        assert told["low_bit"] == {"bits": bits, "computed_in": precision, "why": why}
        assert told["passed"]


def test_what_is_compiled_answers_as_the_bundle_does(bundles: dict[int, Bundle], tmp_path: Path) -> None:
    """INT8 is the bundle's own graph; spelled out it still gives the golden features, codes and exits."""
    for precision in ("int8", "fp32"):
        (job,) = jobs_for(bundles[4], target_from_name("rtx-ada"), tmp_path, ["head"], precision, None)
        path, told = lower_onnx(job, tmp_path)
        operators = {node.op_type for node in onnx.load(str(path)).graph.node}
        assert ("QuantizeLinear" in operators) == (precision == "int8")
        assert ("Round" in operators) == (precision == "fp32")
        assert told is not None
        assert set(told["exits"]) == {"exit_logits", "exit_logits_rb1"}
        with OnnxRuntimeRunner(str(path), spin=False) as runner:
            report = compare_with_golden(runner, bundles[4], "head")
            assert report["exits"]["exit_logits_rb1"]["top1_agreement"] == 1.0
            outputs = runner.run({"image": bundles[4].golden()["image"][:1]})
        assert np.allclose(outputs["exit_logits"], bundles[4].golden()["exit_logits"][:1], atol=1e-3)
        calibration = lowering_key(job)
        assert calibration["lowering"] in ("low-bit as exported 1", "low-bit spelled 1")


def test_binary_layers_are_exact_in_int8_and_the_others_stay_as_they_are(
    bundles: dict[int, Bundle], tmp_path: Path
) -> None:
    (job,) = jobs_for(bundles[1], target_from_name("rtx-ada"), tmp_path, ["head"], "int8", None)
    path, _ = lower_onnx(job, tmp_path)
    model = onnx.load(str(path))
    # Two blocks of two convolutions each, with a pair for the input and one for the weights.
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph.node) == 8
    with OnnxRuntimeRunner(str(path), spin=False) as runner:
        outputs = runner.run({"image": bundles[1].golden()["image"][:1]})
    assert np.allclose(outputs["exit_logits"], bundles[1].golden()["exit_logits"][:1], atol=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_tx2_gets_operators_that_it_has_and_the_reason(
    bundles: dict[int, Bundle], tmp_path: Path, precision: str
) -> None:
    target = target_from_name("tx2")
    (job,) = jobs_for(bundles[4], target, tmp_path, ["head"], precision, None)
    job_folder_from_job(job, tmp_path / "job")
    (graph,) = [path for path in (tmp_path / "job").rglob("*.onnx") if path.name != "bundle.onnx"]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in onnx.load(str(graph)).graph.node}
    told = read_json(str(tmp_path / "job" / "job.json"), "job")["sidecar"]["lowered"]
    assert told["low_bit"] == {
        "bits": 4,
        "computed_in": precision,
        "why": "the GPU of tx2 has no INT8 instructions (SM 6.2)",
    }
    with pytest.raises(UsageError, match="--precision int8 is not for tx2: its GPU has no INT8 instructions"):
        jobs_for(bundles[4], target, tmp_path, ["head"], "int8", None)


@pytest.mark.parametrize(
    ("target", "precision"), [("tx2", "fp16"), ("gtx1080ti", "int8"), ("orin", "int8"), ("rtx-ada", "int8")]
)
@pytest.mark.parametrize("bits", [4, 1])
def test_the_lint_finds_nothing(
    bundles: dict[int, Bundle], tmp_path: Path, target: str, precision: str, bits: int
) -> None:
    jobs = jobs_for(bundles[bits], target_from_name(target), tmp_path, ["head", "tail"], precision, None)
    assert [finding for job in jobs for finding in findings_of(job)] == []


def test_a_head_that_lost_an_exit_is_no_engine_of_the_bundle(bundles: dict[int, Bundle], tmp_path: Path) -> None:
    model = onnx.load(str(bundles[4].onnx_path("head")))
    kept = [output for output in model.graph.output if output.name != "exit_logits_rb1"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, str(tmp_path / "head.onnx"))
    words = r"\(exit_logits_rb1\) does not give the exit's logits of the bundle"
    with (
        OnnxRuntimeRunner(str(tmp_path / "head.onnx"), spin=False) as runner,
        pytest.raises(EngineError, match=words),
    ):
        compare_with_golden(runner, bundles[4], "head")
