"""What a target would choke on is found on any machine, told in one line, and stops a build before it compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bottlekit.build import rtx
from bottlekit.build.build import build_bundle, jobs_for
from bottlekit.build.check import check_jobs, parser_facts, require_clean
from bottlekit.device.bundle import Bundle
from bottlekit.errors import EngineError
from bottlekit.targets.loader import TargetSpec, all_targets, target_from_name

Tiny = Callable[..., Bundle]
TX2 = target_from_name("tx2")


def newer_opset(folder: Path) -> None:
    """A tail of opset 17: too new for the TX2 and the CPU target, and not for any other."""
    model = onnx.load(folder / "tail.onnx")
    model.opset_import[0].version = 17
    onnx.save(model, folder / "tail.onnx")


def findings(bundle: Bundle, target: TargetSpec) -> list[tuple[str, str]]:
    checked = check_jobs(jobs_for(bundle, target, Path("out"), None, None, None))
    return [(one.part, finding.rule) for one in checked for finding in one.findings]


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_a_bundle_is_checked_for_every_target(tiny_bundle: Tiny, target: TargetSpec) -> None:
    assert findings(tiny_bundle(), target) == []
    expected = [("tail", "opset-ceiling")] if target.opset < 17 else []
    assert findings(tiny_bundle(newer_opset, "newer"), target) == expected


def test_the_facts_are_those_of_the_target() -> None:
    facts = parser_facts(TX2, has_profile=True)
    assert (facts.tensorrt, facts.opset_ceiling, facts.uint8_edges, facts.has_profile) == ((8, 2), 13, False, True)
    facts = parser_facts(target_from_name("rtx-ada"), has_profile=False)
    assert (facts.tensorrt, facts.opset_ceiling, facts.uint8_edges, facts.has_profile) == ((11, 0), 25, True, False)
    assert parser_facts(target_from_name("cpu"), has_profile=True).tensorrt is None


def test_a_free_batch_that_the_bundle_does_not_tell_of_has_no_profile(tiny_bundle: Tiny) -> None:
    bundle = tiny_bundle(dynamic_batch=False)
    assert set(findings(bundle, TX2)) == {(part, "dynamic-without-profile") for part in bundle.parts}
    assert findings(bundle, target_from_name("cpu")) == []


def test_what_is_found_is_one_line_that_says_how_to_check(tiny_bundle: Tiny) -> None:
    bundle = tiny_bundle(newer_opset)
    (job,) = jobs_for(bundle, TX2, Path("out"), ["tail"], None, None)
    with pytest.raises(EngineError) as caught:
        require_clean(job)
    text = str(caught.value)
    assert text.startswith("tx2 cannot take the tail of tiny-rb1: opset-ceiling: the graph: opset 17, and this ")
    assert text.endswith(f"(only check: bottlekit build {bundle.path} --target tx2 --check-only)")
    assert "\n" not in text
    require_clean(dataclasses.replace(job, part="head"))


def frobnicate(folder: Path) -> None:
    model = onnx.load(folder / "tail.onnx")
    for node in model.graph.node:
        node.op_type = "Frobnicate"
    onnx.save(model, folder / "tail.onnx")


def test_every_finding_is_in_the_line(tiny_bundle: Tiny) -> None:
    (job,) = jobs_for(tiny_bundle(frobnicate), TX2, Path("out"), ["tail"], None, None)
    with pytest.raises(EngineError, match=r"unknown-operator: Frobnicate 'flat'.* \| unknown-operator: "):
        require_clean(job)


def test_nothing_is_compiled_that_the_lint_objects_to(
    tiny_bundle: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "key_of", lambda job: {})
    monkeypatch.setattr(rtx, "compile_engine", lambda job, path: pytest.fail("it was compiled"))
    monkeypatch.setattr("bottlekit.build.build.require_buildable", lambda target: None)
    with pytest.raises(EngineError, match="rtx-ada cannot take the tail of tiny-rb1: unknown-operator"):
        build_bundle(tiny_bundle(frobnicate), target_from_name("rtx-ada"), tmp_path / "out", ["tail"])
    assert not (tmp_path / "out").exists()
