"""An engine is kept when nothing that decides about it changed, and otherwise the field that differs is named."""

from __future__ import annotations

import pytest

from bottlekit.build.cache import differences

OLD = {"onnx_sha256": "a" * 64, "precision": "fp16", "lowering": None, "profiles": {"image": [[1, 3]]}, "gone": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"precision": "fp32"}, ["precision was fp16, is fp32"]),
        ({"onnx_sha256": "b" * 64}, ["onnx_sha256 was aaaaaaaaaaaa, is bbbbbbbbbbbb"]),
        ({"lowering": "converter 1"}, ["lowering was none, is converter 1"]),
        ({"profiles": {}}, ['profiles was {"image": [[1, 3]]}, is {}']),
        ({"sm": "8.9"}, ["sm was absent, is 8.9"]),
        ({"gone": None, "precision": "fp32"}, ["precision was fp16, is fp32", "gone was 1, is none"]),
    ],
)
def test_every_field_that_differs_is_named(changes: dict[str, object], words: list[str]) -> None:
    assert differences(OLD, {**OLD, **changes}) == words


def test_a_field_that_is_no_longer_there_is_named() -> None:
    assert differences(OLD, {name: value for name, value in OLD.items() if name != "gone"}) == [
        "gone was 1, is absent"
    ]
