"""`bottlekit build`: engines, words and JSON, exit codes; and what it refuses in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from bottlekit.cli import common
from bottlekit.cli.build import _calibrated
from bottlekit.cli.main import app
from bottlekit.device.engine import Engine
from bottlekit.device.files import sha256_of_file

FLEET = Path(__file__).parents[1] / "data" / "tiny_fleet"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX has no package for this platform"
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="build")
def _build(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """A function that types `bottlekit build ...` in an empty folder: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bottlekit", "build", *map(str, arguments)])
        monkeypatch.setattr(common, "_quiet", False)
        code = common.run(app)
        return (code, *capfd.readouterr())

    return run


def test_a_fleet_is_built_for_the_cpu_and_says_so(build: Run, tmp_path: Path) -> None:
    code, out, err = build(FLEET, "--target", "cpu")
    assert code == 0
    assert "engines/tiny-rb1-baseline-cpu.onnx" in out
    assert "tiny-rb2 tail for cpu: built in" in err
    assert "equals the golden outputs within" in err
    assert sorted(path.name for path in (tmp_path / "engines").glob("*.onnx")) == [
        *(f"tiny-rb1-{part}-cpu.onnx" for part in ("baseline", "full", "head", "tail")),
        *(f"tiny-rb2-{part}-cpu.onnx" for part in ("full", "head", "tail")),
    ]
    engine = Engine.load(str(tmp_path / "engines" / "tiny-rb1-head-cpu.onnx"))
    assert engine.sidecar["command"] == f"bottlekit build {FLEET} --target cpu"


def test_json_is_the_only_thing_on_standard_output(build: Run, tmp_path: Path) -> None:
    arguments = (FLEET / "rb1", "-t", "cpu", "-o", "out", "--part", "head", "--part", "tail", "--json")
    code, out, err = build(*arguments)
    assert code == 0
    assert err
    rows = json.loads(out)["engines"]
    assert [(row["part"], row["cached"], row["golden"]["compared"]) for row in rows] == [
        ("head", False, True),
        ("tail", False, True),
    ]
    for row in rows:
        assert Engine.load(str(tmp_path / row["path"])).sha256 == row["engine_sha256"]
    code, out, err = build(*arguments)
    assert [row["cached"] for row in json.loads(out)["engines"]] == [True, True]
    assert "tiny-rb1 head for cpu: nothing changed, kept out/tiny-rb1-head-cpu.onnx" in err


def test_quiet_says_only_the_result(build: Run) -> None:
    code, out, err = build(FLEET / "rb1", "-t", "cpu", "--quiet")
    assert (code, err) == (0, "")
    assert "tiny-rb1-head-cpu.onnx" in out


def test_force_builds_again_and_says_why(build: Run) -> None:
    build(FLEET / "rb1", "-t", "cpu", "--part", "head")
    code, _, err = build(FLEET / "rb1", "-t", "cpu", "--part", "head", "--force")
    assert code == 0
    assert "rebuilding: --force was given" in err


@needs_rtx
def test_real_plans_come_out_for_a_gpu_that_is_not_here(build: Run, tmp_path: Path) -> None:
    code, out, err = build(FLEET / "rb1", "-t", "rtx-ada", "--json")
    assert code == 0
    rows = json.loads(out)["engines"]
    assert [Path(row["path"]).suffix for row in rows] == [".plan"] * 4
    assert all(row["precision"] == "fp16" and row["lowered"]["passed"] for row in rows)
    assert all("not run" in row["golden"]["why_not"] for row in rows)
    code, _, err = build(FLEET / "rb1", "-t", "rtx-ada", "--precision", "fp32", "--part", "head")
    assert code == 0
    assert "rebuilding: precision was fp16, is fp32" in err


@needs_rtx
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("fc_w", "tiny-rb1 tail for rtx-ada: 1 of 2 layers stay FP32, FP16 would break them: node_of_logits"),
        (
            "conv_w",
            "tiny-rb1 head for rtx-ada: no layer survives FP16, so all 2 stay FP32, as with --precision fp32",
        ),
    ],
)
def test_layers_that_stay_fp32_are_told(build: Run, tmp_path: Path, weights: str, words: str) -> None:
    part = "tail" if weights == "fc_w" else "head"
    bundle = changed_bundle(tmp_path / "bundle", part, lambda model: multiply(model, weights, 1e6))
    code, _, err = build(bundle, "-t", "rtx-ada", "--part", part)
    assert code == 0
    assert err.splitlines()[-1] == words
    assert words not in build(bundle, "-t", "rtx-ada", "--part", part, "--precision", "fp32")[2]


def multiply(model: onnx.ModelProto, name: str, factor: float) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), name))


@needs_rtx
def test_int8_tells_what_it_was_calibrated_on(build: Run, tmp_path: Path) -> None:
    images = tmp_path / "photographs"
    images.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    arguments = (FLEET / "rb1", "-t", "rtx-ada", "--precision", "int8", "--part", "tail", "--calibration", images)
    code, out, err = build(*arguments, "--json")
    assert code == 0
    assert err.splitlines()[-1] == (
        "tiny-rb1 tail for rtx-ada: INT8, calibrated on 4 images (folder photographs); "
        "accuracy not measured: tiny-rb1 was exported without a data set"
    )
    assert json.loads(out)["engines"][0]["lowered"]["calibration"]["images"] == 4
    assert json.loads(build(*arguments, "--json")[1])["engines"][0]["cached"] is True


def test_accuracy_is_told_where_it_was_measured() -> None:
    lowered = {
        "calibration": {"images": 128, "source": "digits, training images"},
        "accuracy": {"measured": True, "data": "digits", "images": 360, "fp32": 0.9278, "int8": 0.925},
    }
    assert _calibrated(lowered) == (
        "INT8, calibrated on 128 images (digits, training images); "
        "accuracy 92.5%, 92.8% in FP32 (360 held-out images of digits)"
    )


def test_what_runs_slowly_on_a_machine_is_told(build: Run) -> None:
    words = "FP16 runs at 1/64 of FP32's rate on gtx1080ti"
    assert build(FLEET, "-t", "gtx1080ti", "--precision", "fp16")[2].startswith(words)
    assert words not in build(FLEET, "-t", "gtx1080ti", "--precision", "fp16", "-q")[2]
    assert words not in build(FLEET, "-t", "gtx1080ti")[2]


@pytest.mark.parametrize("target", ["cpu", "tx2", "gtx1080ti", "orin", "rtx-ada"])
def test_a_fleet_is_only_checked(build: Run, tmp_path: Path, target: str) -> None:
    code, out, err = build(FLEET, "-t", target, "--check-only")
    assert (code, out, err) == (0, f"{target}: nothing to object (7 graphs)\n", "")
    assert not (tmp_path / "engines").exists()


def test_what_the_check_finds_is_told_and_is_a_failure(build: Run, tmp_path: Path) -> None:
    bundle = changed_bundle(tmp_path / "bundle", "head", too_new)
    code, out, err = build(bundle, "-t", "tx2", "--check-only")
    assert (code, err) == (1, "")
    words = (
        "tiny-rb1 head for tx2: opset-ceiling: the graph: opset 17, and this target reads up to 13; export again"
    )
    assert out.startswith(words)
    assert out.count("\n") == 1
    code, out, _ = build(bundle, "-t", "tx2", "--check-only", "--json", "--part", "head", "--part", "tail")
    assert code == 1
    checked = json.loads(out)
    assert checked["target"] == "tx2"
    assert [(one["bundle"], one["part"], len(one["findings"])) for one in checked["checked"]] == [
        ("tiny-rb1", "head", 1),
        ("tiny-rb1", "tail", 0),
    ]
    assert set(checked["checked"][0]["findings"][0]) == {"rule", "where", "problem", "advice"}
    assert build(bundle, "-t", "tx2", "--check-only", "--part", "tail")[0] == 0


def too_new(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def changed_bundle(folder: Path, part: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A bundle with another graph, as if it had been exported that way."""
    shutil.copytree(FLEET / "rb1", folder)
    file = folder / f"{part}.onnx"
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["files"][file.name].update(sha256=sha256_of_file(str(file)), bytes=file.stat().st_size)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((FLEET, "-t", "tx2", "--check-only", "--precision", "int8"), 2, "--precision int8 is not for tx2"),
        ((FLEET, "-t", "tx2", "--check-only", "--workspace-mb", "0"), 2, "--workspace-mb must be from 1 to"),
        (
            (FLEET, "-t", "tx2", "--precision", "int8"),
            2,
            "its GPU has no INT8 instructions (SM 6.2); use --precision",
        ),
        ((FLEET, "-t", "rtx-ada", "--precision", "int8"), 2, "INT8 needs images to calibrate with: --calibration"),
        (
            (FLEET, "-t", "rtx-ada", "--precision", "int8", "--calibration", "nowhere"),
            1,
            "nowhere does not exist; --calibration takes a folder of images",
        ),
        (
            (FLEET, "-t", "rtx-ada", "--calibration", "."),
            2,
            "--calibration is for --precision int8, and this builds fp16",
        ),
        ((FLEET, "-t", "cpu", "--workspace-mb", "64"), 2, "--workspace-mb is not for cpu"),
        ((FLEET, "-t", "tx2"), 1, "cannot build for tx2 on this machine: it needs TensorRT 8.2 on the device"),
        ((FLEET, "-t", "gtx1080ti"), 1, "it needs TensorRT 8.6 on the device"),
        ((FLEET, "-t", "tx3"), 2, "target 'tx3' does not exist; there are: cpu, gtx1080ti"),
        ((FLEET, "-t", "cpu", "--part", "middle"), 2, "part 'middle' does not exist; there are: head, tail"),
        ((FLEET, "-t", "cpu", "--precision", "fp16"), 2, "--precision fp16 is not for cpu; it builds: fp32"),
        ((FLEET, "-t", "cpu", "--max-batch", "4"), 2, "--max-batch is not for cpu"),
        ((FLEET, "-t", "rtx-ada", "--max-batch", "0"), 2, "--max-batch must be at least 1"),
        ((FLEET / "rb3", "-t", "cpu"), 1, "rb3"),
        ((FLEET.parent / "paper_tables.json", "-t", "cpu"), 1, "is a file; a bundle is the folder"),
        ((FLEET,), 2, "Missing option"),
    ],
)
def test_what_cannot_be_built_is_one_line_and_an_exit_code(
    build: Run, tmp_path: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    actual, out, err = build(*arguments)
    assert (actual, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "engines").exists()


def test_a_bundle_that_was_changed_after_export_is_refused(build: Run, tmp_path: Path) -> None:
    shutil.copytree(FLEET / "rb1", tmp_path / "changed")
    (tmp_path / "changed" / "tail.onnx").write_bytes(b"changed")
    code, _, err = build("changed", "-t", "cpu")
    assert code == 1
    assert err.startswith("bottlekit: changed/tail.onnx was changed after export")
    assert err.count("\n") == 1
    assert not (tmp_path / "engines").exists()


def test_a_target_whose_compiler_is_missing_says_what_to_type(build: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorrt_rtx" else real(name))
    code, _, err = build(FLEET, "-t", "rtx-ada")
    assert code == 1
    assert "type: pip install 'bottlekit[rtx]'" in err


def test_an_engines_folder_that_cannot_be_made_is_one_line(build: Run, tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("in the way")
    code, _, err = build(FLEET, "-t", "cpu", "-q")
    assert code == 2
    assert "cannot write" in err
    assert err.count("\n") == 1


def test_plugins_are_checked_and_refused_in_one_line(build: Run) -> None:
    code, out, _ = build(FLEET, "-t", "tx2", "--plugin", "--check-only")
    assert code == 0
    assert out.startswith("tx2: nothing to object (")
    assert out.rstrip().endswith("to build and to run, head and tail need libbottlekit_plugins.so")
    code, out, _ = build(FLEET, "-t", "orin", "--plugin", "--check-only", "--json")
    assert (code, json.loads(out)["needs"]) == (0, ["libbottlekit_plugins.so"])
    code, out, _ = build(FLEET, "-t", "orin", "--check-only", "--json")
    assert (code, json.loads(out)["needs"]) == (0, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-t", "cpu", "--plugin"], "--plugin is not for cpu: ONNX Runtime runs no plugins of TensorRT"),
        (
            ["-t", "rtx-ada", "--plugin", "--check-only"],
            "--plugin is not for rtx-ada: libbottlekit_plugins.so is linked",
        ),
        (["-t", "tx2", "--plugin-library", "x.so"], "--plugin-library names the library of --plugin"),
    ],
)
def test_plugins_are_not_for_everything(build: Run, options: list[str], words: str) -> None:
    code, out, err = build(FLEET, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
