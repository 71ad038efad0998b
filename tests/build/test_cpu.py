"""Engines for ONNX Runtime compute what the bundle's graphs compute, or are not kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bottlekit.build.build import build_bundle
from bottlekit.device.bundle import Bundle
from bottlekit.device.golden import golden_input
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.runners import runner_from_engine
from bottlekit.errors import EngineError
from bottlekit.targets.loader import target_from_name

CPU = target_from_name("cpu")


def outputs(path: str, images: np.ndarray) -> np.ndarray:
    with OnnxRuntimeRunner(path, threads=1) as runner:
        return next(iter(runner.run({runner.inputs[0].name: images}).values()))


def test_a_real_bundle_builds_compared(small_bundle: Bundle, tmp_path: Path) -> None:
    engines = build_bundle(small_bundle, CPU, tmp_path)
    assert [engine.part for engine in engines] == list(small_bundle.parts)
    for engine in engines:
        golden = engine.sidecar["golden"]
        assert golden["compared"] is True
        assert golden["max_abs"] <= golden["tolerance"]
        assert golden["samples"] == len(small_bundle.golden()["image"])
        assert engine.sidecar["build_ms"] > 0
    head, tail = engines[:2]
    assert head.sidecar["golden"]["codes_max_step"] <= 1
    assert tail.sidecar["golden"]["top1_agreement"] == 1


def test_an_engine_computes_what_the_graph_computes(small_bundle: Bundle, tmp_path: Path) -> None:
    for engine in build_bundle(small_bundle, CPU, tmp_path):
        samples = golden_input(small_bundle, engine.part)
        expected = outputs(small_bundle.onnx_path(engine.part), samples)
        with runner_from_engine(engine, threads=1) as runner:
            actual = next(iter(runner.run({runner.inputs[0].name: samples}).values()))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_an_engine_holds_standard_operators_and_no_dead_weight(small_bundle: Bundle, tmp_path: Path) -> None:
    (engine,) = build_bundle(small_bundle, CPU, tmp_path, ["tail"])
    optimised, original = onnx.load(engine.path), onnx.load(small_bundle.onnx_path("tail"))
    assert {node.domain for node in optimised.graph.node} == {""}
    assert len(optimised.graph.node) <= len(original.graph.node)
    assert [value.name for value in optimised.graph.output] == ["logits"]


def scaled_weights(folder: Path, name: str = "head.onnx", factor: float = 1.01) -> None:
    """A graph that is right in everything but its weights: as if another checkpoint had been exported."""
    model = onnx.load(folder / name)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, folder / name)


@pytest.mark.parametrize("part", ["head", "tail", "full", "baseline"])
def test_an_engine_that_computes_otherwise_is_refused_and_not_kept(
    tiny_bundle: Callable[..., Bundle], tmp_path: Path, part: str
) -> None:
    bundle = tiny_bundle(lambda folder: scaled_weights(folder, f"{part}.onnx"))
    out = tmp_path / "engines"
    with pytest.raises(EngineError, match=f"the {part} of tiny-rb1 does not give the bundle's"):
        build_bundle(bundle, CPU, out, [part])
    assert list(out.iterdir()) == []


def test_a_graph_that_is_no_graph_is_refused_and_nothing_is_left(
    tiny_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = tiny_bundle(lambda folder: (folder / "tail.onnx").write_bytes(b"no graph") and None)
    out = tmp_path / "engines"
    with pytest.raises(EngineError, match=r"cannot load .*tail\.onnx") as caught:
        build_bundle(bundle, CPU, out)
    assert "\n" not in str(caught.value)
    # The head was complete before the tail failed: it stays, the tail leaves nothing.
    assert sorted(path.name for path in out.iterdir()) == ["tiny-rb1-head-cpu.onnx", "tiny-rb1-head-cpu.onnx.json"]
