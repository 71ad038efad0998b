"""The precision is the target's unless told; what it lacks is refused with a reason, what is slow there is told."""

from __future__ import annotations

import dataclasses

import pytest

from bottlekit.build.precision import advice_for, precision_for
from bottlekit.errors import UsageError
from bottlekit.targets.loader import Abilities, all_targets, target_from_name


@pytest.mark.parametrize(
    ("target", "asked", "given"),
    [("cpu", None, "fp32"), ("cpu", "fp32", "fp32"), ("rtx-ada", None, "fp16"), ("gtx1080ti", None, "fp32")],
)
def test_the_target_chooses_the_precision_unless_told(target: str, asked: str | None, given: str) -> None:
    assert precision_for(target_from_name(target), asked) == given


@pytest.mark.parametrize(("target", "asked"), [("cpu", "fp16"), ("rtx-ada", "FP16"), ("cpu", "")])
def test_a_precision_that_a_target_lacks_lists_those_it_has(target: str, asked: str) -> None:
    with pytest.raises(UsageError, match=rf"--precision {asked} is not for {target}; it builds: .*fp32"):
        precision_for(target_from_name(target), asked)


def test_the_tx2_has_no_int8_and_says_why() -> None:
    with pytest.raises(UsageError) as caught:
        precision_for(target_from_name("tx2"), "int8")
    assert str(caught.value) == (
        "--precision int8 is not for tx2: its GPU has no INT8 instructions (SM 6.2); use --precision fp16"
    )


def test_slow_fp16_is_built_and_told() -> None:
    target = target_from_name("gtx1080ti")
    assert precision_for(target, "fp16") == "fp16"
    assert advice_for(target, "fp16") == (
        "FP16 runs at 1/64 of FP32's rate on gtx1080ti: the engine will be smaller, not faster; "
        "for speed add --precision fp32"
    )
    assert advice_for(target, "fp32") is None
    assert precision_for(target, None) == "fp32"


def test_nothing_is_told_where_nothing_is_slow() -> None:
    told = {
        (target.name, precision)
        for target in all_targets()
        for precision in target.precisions
        if advice_for(target, precision) is not None
    }
    assert told == {("gtx1080ti", "fp16")}


def test_a_slow_ability_is_told_whatever_the_machine() -> None:
    target = dataclasses.replace(
        target_from_name("l4"), peaks=(), precisions=("fp32", "int8"), abilities=Abilities("none", "slow", False)
    )
    assert (advice_for(target, "int8") or "").startswith("INT8 runs slower than FP32 on l4: ")
