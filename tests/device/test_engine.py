"""Engines and their sidecars: found by bundle, part and target; refused when anything does not belong."""

import json
import os
from typing import Any, Dict

import pytest

from bottlekit.device.engine import Engine, engine_file_name, engines_for_bundle, sidecar_path
from bottlekit.device.errors import EngineError
from bottlekit.device.files import sha256_of_file


class StubBundle:
    """What engines_for_bundle asks of a bundle."""

    def __init__(self, name: str = "tiny-rb1", sha256: str = "b" * 64, parts: Any = ("head", "tail")) -> None:
        self.name = name
        self.sha256 = sha256
        self.parts = parts
        self.path = "fleet/" + name


def write_engine(folder: Any, part: str = "head", target: str = "cpu", **changes: Any) -> str:
    """An engine as build writes it; `changes` replace fields of the sidecar, None removes one."""
    kind = changes.get("kind", "onnxruntime")
    path = str(folder / engine_file_name(changes.pop("name", "tiny-rb1"), part, target, kind))
    with open(path, "wb") as file:
        file.write(b"engine of " + part.encode())
    sidecar = {
        "format": "bottlekit-engine",
        "version": 1,
        "bundle": {"name": "tiny-rb1", "sha256": "b" * 64},
        "part": part,
        "target": target,
        "kind": "onnxruntime",
        "precision": "fp32",
        "key": {"onnx_sha256": "c" * 64},
        "engine_sha256": sha256_of_file(path),
        "engine_bytes": os.path.getsize(path),
        "build_ms": 1.5,
        "golden": {"compared": True, "max_abs": 0.0},
        "log": [],
        "command": "bottlekit build",
        "bottlekit": "0",
    }  # type: Dict[str, Any]
    for name, value in changes.items():
        if value is None:
            del sidecar[name]
        else:
            sidecar[name] = value
    with open(sidecar_path(path), "w") as file:
        json.dump(sidecar, file)
    return path


def test_an_engine_says_what_it_is(tmp_path: Any) -> None:
    path = write_engine(tmp_path, "tail")
    engine = Engine.load(path)
    assert (engine.path, engine.part, engine.target) == (path, "tail", "cpu")
    assert (engine.kind, engine.precision) == ("onnxruntime", "fp32")
    assert (engine.bundle_name, engine.bundle_sha256) == ("tiny-rb1", "b" * 64)
    assert engine.sha256 == sha256_of_file(path)
    assert engine.golden_compared
    assert engine.why_not_compared is None


@pytest.mark.parametrize("golden", [{"compared": False, "why_not": "no GPU"}, {"why_not": "no GPU"}])
def test_an_engine_that_was_not_compared_says_why(tmp_path: Any, golden: Dict[str, Any]) -> None:
    engine = Engine.load(write_engine(tmp_path, golden=golden))
    assert not engine.golden_compared
    assert engine.why_not_compared == "no GPU"


def test_names_tell_bundle_part_and_target() -> None:
    assert engine_file_name("b", "head", "cpu", "onnxruntime") == "b-head-cpu.onnx"
    assert engine_file_name("b", "tail", "rtx-ada", "tensorrt_rtx") == "b-tail-rtx-ada.plan"
    assert sidecar_path("b-head-cpu.onnx") == "b-head-cpu.onnx.json"


def test_a_changed_engine_is_refused(tmp_path: Any) -> None:
    path = write_engine(tmp_path)
    with open(path, "ab") as file:
        file.write(b"!")
    with pytest.raises(EngineError, match=r"damaged.*build it again"):
        Engine.load(path)
    assert Engine.load(path, verify=False).part == "head"


def test_what_is_missing_is_named(tmp_path: Any) -> None:
    path = write_engine(tmp_path)
    os.remove(path)
    with pytest.raises(EngineError, match="only its sidecar is there"):
        Engine.load(path)
    os.remove(sidecar_path(path))
    with pytest.raises(EngineError, match=r"no engine sidecar at .*head-cpu\.onnx\.json"):
        Engine.load(path)


BAD_SIDECARS = [
    ({"format": "bottlekit-bundle"}, "no engine sidecar of version 1"),
    ({"version": 2}, "no engine sidecar of version 1"),
    ({"format": None}, "no engine sidecar of version 1"),
    ({"precision": None}, "field 'precision'"),
    ({"key": []}, "field 'key'"),
    ({"engine_sha256": 7}, "field 'engine_sha256'"),
    ({"bundle": {"name": "tiny-rb1"}}, "no bundle"),
    ({"golden": None}, "field 'golden'"),
]  # type: List[Any]


@pytest.mark.parametrize(("changes", "words"), BAD_SIDECARS)
def test_a_bad_sidecar_is_one_line(tmp_path: Any, changes: Dict[str, Any], words: str) -> None:
    path = write_engine(tmp_path, **changes)
    with pytest.raises(EngineError, match=words) as caught:
        Engine.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_sidecar_that_is_no_json_object_is_one_line(tmp_path: Any, text: str) -> None:
    path = write_engine(tmp_path)
    with open(sidecar_path(path), "w") as file:
        file.write(text)
    with pytest.raises(EngineError, match="engine sidecar"):
        Engine.load(path)


def test_an_unknown_kind_is_refused(tmp_path: Any) -> None:
    path = write_engine(tmp_path)
    with open(sidecar_path(path)) as file:
        sidecar = json.load(file)
    sidecar["kind"] = "magic"
    with open(sidecar_path(path), "w") as file:
        json.dump(sidecar, file)
    with pytest.raises(EngineError, match="unknown kind"):
        Engine.load(path)


def test_engines_are_found_by_bundle_and_target(tmp_path: Any) -> None:
    head, tail = write_engine(tmp_path, "head"), write_engine(tmp_path, "tail")
    plan = write_engine(tmp_path, "head", target="rtx-ada", kind="tensorrt_rtx")
    write_engine(tmp_path, "head", name="other-rb1", bundle={"name": "other-rb1", "sha256": "0"})
    found = engines_for_bundle(str(tmp_path), StubBundle(), "cpu")
    assert {part: engine.path for part, engine in found.items()} == {"head": head, "tail": tail}
    found = engines_for_bundle(str(tmp_path), StubBundle(), "rtx-ada")
    assert {part: engine.path for part, engine in found.items()} == {"head": plan}


def test_an_engine_of_another_export_is_refused(tmp_path: Any) -> None:
    write_engine(tmp_path)
    with pytest.raises(EngineError, match=r"another export of tiny-rb1.*bottlekit build fleet/tiny-rb1"):
        engines_for_bundle(str(tmp_path), StubBundle(sha256="d" * 64), "cpu")


def test_no_engine_says_what_to_type(tmp_path: Any) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(EngineError, match="bottlekit build fleet/tiny-rb1 --target cpu"):
            engines_for_bundle(str(folder), StubBundle(), "cpu")
