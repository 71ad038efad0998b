"""Lowered graphs: written as the target wants them, compared, and named in the key by what decides them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from bottlekit.build.build import jobs_for
from bottlekit.build.job import CalibrationSource, Job, calibration_for
from bottlekit.build.lower import lower_fp16, lower_onnx, lowering_key
from bottlekit.device.bundle import Bundle
from bottlekit.errors import DataError, EngineError, UsageError
from bottlekit.targets.loader import target_from_name

Tiny = Callable[..., Bundle]


def job_for(bundle: Bundle, part: str, precision: str, target: str = "rtx-ada", **source: Path | None) -> Job:
    calibration = CalibrationSource(**source) if source else None
    arguments: Any = (bundle, target_from_name(target), Path("out"), [part], precision, None, None, calibration)
    (job,) = jobs_for(*arguments)
    return job


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture(name="photographs")
def _photographs(tmp_path: Path) -> Path:
    """Images as small as the tiny bundle's input."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def trained(bundle: Bundle) -> Bundle:
    """The same bundle, as if somebody had trained it on digits."""
    accuracy = {"data": "digits", "images": 360, "baseline": 0.1, "split": 0.1}
    return Bundle(bundle.path, {**bundle.manifest, "accuracy": accuracy}, bundle.sha256)


def test_fp32_is_the_bundles_own_graph(tiny_bundle: Tiny, tmp_path: Path) -> None:
    job = job_for(tiny_bundle(), "tail", "fp32")
    assert lower_onnx(job, tmp_path) == (job.onnx_path, None)
    assert lowering_key(job) == {"lowering": None}


def test_fp16_is_typed_and_told(tiny_bundle: Tiny, tmp_path: Path) -> None:
    job = job_for(tiny_bundle(), "head", "fp16")
    path, told = lower_onnx(job, tmp_path)
    assert path.parent == tmp_path
    assert "Cast" in operators(path)
    assert told == lower_fp16(job).to_dict()
    assert (told["fp32_layers"], told["passed"]) == ([], True)
    assert told["codes_differing"] < 0.25, "a head is judged by its codes too"
    assert lowering_key(job) == {"lowering": "fp16 1"}


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_int8_is_calibrated_on_the_bundles_own_data(small_bundle: Bundle, tmp_path: Path, part: str) -> None:
    job = job_for(trained(small_bundle), part, "int8")
    path, told = lower_onnx(job, tmp_path)
    assert "QuantizeLinear" in operators(path)
    assert told is not None
    assert (told["judged_as"], told["passed"]) == ("int8", True)
    assert told["calibration"]["source"] == "digits, training images"
    assert told["calibration"] == lowering_key(job)["calibration"]
    assert told["accuracy"]["images"] == 360
    # Random weights are right as often as chance is; what counts is that INT8 hardly changes it.
    assert abs(told["accuracy"]["int8"] - told["accuracy"]["fp32"]) < 0.05


def test_int8_calibrated_on_a_folder_measures_no_accuracy_where_there_is_no_data(
    tiny_bundle: Tiny, tmp_path: Path, photographs: Path
) -> None:
    job = job_for(tiny_bundle(), "full", "int8", folder=photographs)
    _, told = lower_onnx(job, tmp_path)
    assert told is not None
    assert (told["calibration"]["source"], told["calibration"]["images"]) == ("folder photographs", 12)
    assert told["accuracy"] == {"measured": False, "why_not": "tiny-rb1 was exported without a data set"}


def test_an_untrained_bundle_has_no_accuracy(small_bundle: Bundle, tmp_path: Path) -> None:
    _, told = lower_onnx(job_for(small_bundle, "head", "int8"), tmp_path)
    assert told is not None
    assert told["accuracy"] == {"measured": False, "why_not": "nobody trained the bottleneck"}


def test_other_images_are_another_key(tiny_bundle: Tiny, tmp_path: Path, photographs: Path) -> None:
    bundle = tiny_bundle()
    first = lowering_key(job_for(bundle, "head", "int8", folder=photographs))
    assert first == lowering_key(job_for(bundle, "tail", "int8", folder=photographs))
    assert first["lowering"].startswith("int8 1, onnxruntime 1.")
    Image.new("RGB", (8, 8)).save(photographs / "another.png")
    second = lowering_key(job_for(tiny_bundle(), "head", "int8", folder=photographs))
    assert second["calibration"]["sha256"] != first["calibration"]["sha256"]


def test_nothing_to_calibrate_with_says_what_to_pass(tiny_bundle: Tiny) -> None:
    with pytest.raises(
        UsageError, match="tiny-rb1 was exported without a data set; INT8 needs images to calibrate with: --calib"
    ):
        lowering_key(job_for(tiny_bundle(), "head", "int8"))


def test_a_wrong_place_of_the_data_is_an_error(small_bundle: Bundle, tmp_path: Path) -> None:
    bundle = Bundle(
        small_bundle.path,
        {**small_bundle.manifest, "payload_bytes": {**small_bundle.manifest["payload_bytes"], "data": "folder"}},
        small_bundle.sha256,
    )
    with pytest.raises(DataError, match="nowhere does not exist"):
        lowering_key(job_for(bundle, "head", "int8", data_root=tmp_path / "nowhere"))


def test_images_that_are_nothing_like_the_data_are_refused(tiny_bundle: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "gray"
    folder.mkdir()
    # The mean of the preprocessing: nearly nothing is left of them.
    Image.new("RGB", (8, 8), (124, 116, 104)).save(folder / "gray.png")
    with pytest.raises(
        EngineError, match="INT8, calibrated on folder gray, changes too much: .*--calibration FOLD"
    ):
        lower_onnx(job_for(tiny_bundle(), "full", "int8", folder=folder), tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_where_matrix_products_are_not_compiled_there_are_none(
    tiny_bundle: Tiny, tmp_path: Path, photographs: Path, precision: str
) -> None:
    source = {"folder": photographs} if precision == "int8" else {}
    job = job_for(tiny_bundle(), "tail", precision, "rtx-turing", **source)
    path, told = lower_onnx(job, tmp_path)
    assert {"Conv", "Gemm"} & operators(path) == {"Conv"}
    assert told is not None
    assert told["passed"] is True
    assert lowering_key(job)["lowering"].startswith("convolutions 1")


def test_a_lowered_graph_is_checked_too(tiny_bundle: Tiny, tmp_path: Path) -> None:
    # An FP16 typed graph is nothing for TensorRT 8.2, which gets the FP32 graph and a flag.
    with pytest.raises(EngineError, match="tx2 cannot take the head of tiny-rb1: fp16-initialiser"):
        lower_onnx(job_for(tiny_bundle(), "head", "fp16", "tx2"), tmp_path)


@pytest.mark.parametrize("target", ["gtx1080ti", "orin", "thor", "l4", "h100", "rtx-ada"])
def test_the_same_int8_graph_serves_every_compiler(
    tiny_bundle: Tiny, tmp_path: Path, photographs: Path, target: str
) -> None:
    job = job_for(tiny_bundle(), "full", "int8", target, folder=photographs)
    path, _ = lower_onnx(job, tmp_path)
    reference, _ = lower_onnx(job_for(tiny_bundle(), "full", "int8", folder=photographs), tmp_path / "..")
    assert path.read_bytes() == reference.read_bytes()


def test_layers_that_stay_fp32_are_those_of_the_flag_too(tiny_bundle: Tiny) -> None:
    def enlarge(folder: Path) -> None:
        model = onnx.load(folder / "tail.onnx")
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor) * np.float32(1e6)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, folder / "tail.onnx")

    assert lower_fp16(job_for(tiny_bundle(enlarge), "tail", "fp16", "tx2")).fp32_layers == ("node_of_logits",)


def test_calibration_is_for_int8() -> None:
    source = CalibrationSource(Path("x"))
    assert calibration_for("int8", None) == CalibrationSource()
    assert calibration_for("int8", source) == source
    assert calibration_for("fp16", None) is None
    assert calibration_for("fp16", CalibrationSource()) is None
    with pytest.raises(UsageError, match="--calibration is for --precision int8, and this builds fp16"):
        calibration_for("fp16", source)
    with pytest.raises(UsageError, match="--data-root is for --precision int8, and this builds fp32"):
        calibration_for("fp32", CalibrationSource(data_root=Path("x")))
