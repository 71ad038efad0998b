"""Every target's TOML is complete and plausible; a broken one names what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import bottlekit.targets
from bottlekit.errors import TargetError, UnknownNameError
from bottlekit.targets.loader import BUILT, RATES, TargetSpec, all_targets, target_from_name, target_from_toml

FOLDER = Path(bottlekit.targets.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
RTX = {"rtx-turing": "7.5", "rtx-ampere": "8.6", "rtx-ada": "8.9", "rtx-blackwell": "12.0"}


@pytest.fixture(name="target", params=NAMES)
def _target(request: pytest.FixtureRequest) -> TargetSpec:
    return target_from_name(request.param)


def test_every_file_is_a_target_and_every_target_a_file() -> None:
    assert sorted(target.name for target in all_targets()) == NAMES
    assert {"cpu", "tx2", "gtx1080ti", "orin", "thor", "l4", "h100", *RTX} <= set(NAMES)


def test_a_target_is_named_like_its_file(target: TargetSpec) -> None:
    text = (FOLDER / f"{target.name}.toml").read_text()
    assert target_from_toml(text, "x") == target


def test_facts_are_in_range(target: TargetSpec) -> None:
    assert target.title
    assert target.built in BUILT
    assert 13 <= target.opset <= 30, "bundles are opset 13: every target's parser must know it"
    assert {target.abilities.fp16, target.abilities.int8} <= set(RATES)
    assert len(set(target.precisions)) == len(target.precisions)
    assert all(note == note.strip() and note.endswith((".", ")")) for note in target.notes)
    if target.kind != "onnxruntime":
        assert 3.0 <= float(target.sm or 0) <= 20.0
        assert 16 <= (target.workspace_mib or 0) <= 65536
        assert target.workspace_bytes == (target.workspace_mib or 0) * 1024 * 1024
    for peak in target.peaks:
        assert 10 < peak.memory_gbytes_per_s < 10_000
        assert 100 < peak.fp32_gflops < 1e6
        assert 100 < peak.fp16_gflops < 1e7
        assert peak.gpu_mhz is None or 500 < peak.gpu_mhz < 4000
    if target.memory is not None:
        assert 1 <= target.memory.gib <= 1024


def test_abilities_fit_the_peaks_and_the_default_precision(target: TargetSpec) -> None:
    for peak in target.peaks:
        if target.abilities.fp16 == "native":
            assert peak.fp16_gflops >= 1.9 * peak.fp32_gflops
        if target.abilities.fp16 == "slow":
            assert peak.fp16_gflops == pytest.approx(peak.fp32_gflops / 64, rel=0.01)
    assert (target.precisions[0] == "fp16") == (target.abilities.fp16 == "native")


def test_int8_is_built_where_a_gpu_has_it(target: TargetSpec) -> None:
    has_it = target.abilities.int8 == "native" and target.kind != "onnxruntime"
    assert ("int8" in target.precisions) == has_it
    assert has_it == (target.name not in ("cpu", "tx2"))


def test_where_a_target_is_built_follows_from_its_compiler(target: TargetSpec) -> None:
    expected = {"onnxruntime": "here", "tensorrt_rtx": "ahead of time", "tensorrt": "on the device"}
    assert target.built == expected[target.kind]


@pytest.mark.parametrize(("name", "sm"), RTX.items())
def test_the_rtx_family_has_its_compute_capabilities(name: str, sm: str) -> None:
    target = target_from_name(name)
    assert (target.kind, target.sm, target.precisions) == ("tensorrt_rtx", sm, ("fp16", "fp32", "int8"))
    assert target.abilities.fp32_gemm == (name != "rtx-turing")


def test_the_machines_of_the_papers_have_their_facts() -> None:
    tx2, gtx1080ti = target_from_name("tx2"), target_from_name("gtx1080ti")
    assert (tx2.sm, tx2.tensorrt, tx2.cuda, tx2.opset) == ("6.2", "TensorRT 8.2", "10.2", 13)
    assert tx2.abilities.int8 == "none"
    assert "int8" not in tx2.precisions
    assert [peak.fp16_gflops for peak in tx2.peaks] == [1332, 870, 1147]
    assert (gtx1080ti.sm, gtx1080ti.tensorrt, gtx1080ti.abilities.fp16) == ("6.1", "TensorRT 8.6", "slow")
    assert gtx1080ti.precisions[0] == "fp32"


def test_the_parser_is_that_of_the_newest_tensorrt(target: TargetSpec) -> None:
    if target.kind == "onnxruntime":
        assert target.parser_version is None
        return
    version = target.parser_version
    assert version is not None
    # TensorRT-RTX counts for itself, and its parser is that of TensorRT 11.
    expected = (
        (11,) if target.kind == "tensorrt_rtx" else tuple(map(int, (target.tensorrt or "").split()[1].split(".")))
    )
    assert version[: len(expected)] == expected
    assert target.uint8_edges == (version >= (8, 5))


def test_the_newest_tensorrt_is_one_that_is_accepted(target: TargetSpec) -> None:
    if target.kind != "tensorrt":
        assert target.accepts == ()
        return
    newest = (target.tensorrt or "").removeprefix("TensorRT ")
    assert (newest + ".").startswith(target.accepts[0] + ".")
    # TensorRT 10 does not know Pascal any more.
    assert (target.accepts[0].startswith("8.")) == (float(target.sm or 0) < 7)


def test_targets_come_in_the_order_of_ease() -> None:
    order = [target.name for target in all_targets()]
    assert order[:5] == ["cpu", "rtx-ada", "rtx-ampere", "rtx-blackwell", "rtx-turing"]
    assert order[5:] == sorted(order[5:])


def test_a_target_is_json() -> None:
    values = target_from_name("tx2").to_dict()
    assert values["memory"] == {"gib": 8, "shared": True}
    assert values["peaks"][0]["gpu_mhz"] == 1300


def test_a_target_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        target_from_name("cpu").sm = "8.9"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "tx", "TX2", "../tx2", "loader"])
def test_an_unknown_target_lists_those_that_exist(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"does not exist; there are: cpu, gtx1080ti, .*tx2\. `bottlekit"):
        target_from_name(name)


GOOD = (FOLDER / "rtx-ada.toml").read_text()
BROKEN = [
    ("name = ", "is no TOML"),
    (GOOD.replace('kind = "tensorrt_rtx"', 'kind = "tvm"'), "kind is 'tvm'"),
    (GOOD.replace('built = "ahead of time"', 'built = "later"'), "built is 'later'"),
    (GOOD.replace('sm = "8.9"', ""), "no sm"),
    (GOOD.replace('sm = "8.9"', 'sm = "89"'), "sm is '89', not like 8.9"),
    (GOOD.replace("workspace_mib = 1024", ""), "no workspace_mib"),
    (GOOD.replace('parser = "11.0"', ""), "no parser"),
    (GOOD.replace('parser = "11.0"', 'parser = "11"'), "parser is '11', not like 8.2"),
    (GOOD.replace("uint8_edges = true", ""), "no uint8_edges"),
    (GOOD.replace("opset = 25", 'opset = 25\naccepts = ["11"]'), "accepts is .* for tensorrt_rtx"),
    (GOOD.replace('kind = "tensorrt_rtx"', 'kind = "tensorrt"'), "accepts is .* for tensorrt"),
    (GOOD.replace('["fp16", "fp32", "int8"]', "[]"), "no precisions"),
    (GOOD.replace('["fp16", "fp32", "int8"]', '["fp8"]'), "precisions are"),
    (GOOD.replace('fp16 = "native"', 'fp16 = "fast"'), "an ability is 'fast'"),
    (GOOD.replace('fp16 = "native"', 'fp16 = "none"'), "it has no fp16 to build for"),
    (GOOD.replace("opset = 25", ""), "opset"),
    (GOOD.replace("opset = 25", "opset = 25\ncolour = 1"), "colour"),
    (GOOD.replace("dla = false", ""), "dla"),
    (GOOD[: GOOD.index("[abilities]")], "'abilities' is missing"),
    (GOOD + '\n[[peaks]]\nmode = "MAXN"\n', "memory_gbytes_per_s"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_a_broken_file_names_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        target_from_toml(text, "rtx-ada.toml")
    assert "\n" not in str(caught.value)
