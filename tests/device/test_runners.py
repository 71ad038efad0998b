"""Runners: the `with` protocol, what they refuse, and ONNX Runtime behind it (any version from 1.10)."""

import struct
from typing import Any, List, Tuple

import numpy as np
import pytest

from bottlekit.device import trt_runner
from bottlekit.device.engine import Engine
from bottlekit.device.errors import EngineError, TargetError, UsageError
from bottlekit.device.ort_runner import OnnxRuntimeRunner, session_options
from bottlekit.device.runners import Runner, TensorInfo, check_feeds, runner_from_engine, shape_text


def message(*fields: Tuple[int, Any]) -> bytes:
    """A protobuf message from (field number, int or bytes or str): ONNX files need no onnx package."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return out + struct.pack("B", value)


def value_info(name: str, shape: List[Any]) -> bytes:
    """A ValueInfoProto of float32; a str in the shape is a free dimension."""
    dims = [(1, message((2, d) if isinstance(d, str) else (1, d))) for d in shape]
    return message((1, name), (2, message((1, message((1, 1), (2, message(*dims)))))))


def relu_onnx(shape: List[Any], op: str = "Relu") -> bytes:
    """feature = op(image): the smallest model there is, opset 13."""
    node = message((1, "image"), (2, "feature"), (4, op))
    graph = message((1, node), (2, "tiny"), (11, value_info("image", shape)), (12, value_info("feature", shape)))
    return message((1, 7), (8, message((2, 13))), (7, graph))


@pytest.fixture(name="relu_path")
def _relu_path(tmp_path: Any) -> str:
    path = tmp_path / "relu.onnx"
    path.write_bytes(relu_onnx(["n", 3, 4, 4]))
    return str(path)


def image(batch: int = 1) -> np.ndarray:
    return np.linspace(-1, 1, batch * 48).astype(np.float32).reshape(batch, 3, 4, 4)


def test_threads_that_may_spin_do_so_only_while_a_graph_runs() -> None:
    busy = session_options(2, spin=True)
    assert busy.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert busy.get_session_config_entry("session.force_spinning_stop") == "1"
    assert session_options(2, spin=False).get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("spin", [True, False])
def test_onnx_runtime_computes_the_graph(relu_path: str, threads: Any, spin: bool) -> None:
    with OnnxRuntimeRunner(relu_path, threads=threads, spin=spin) as runner:
        assert runner.inputs == [TensorInfo("image", (None, 3, 4, 4), np.dtype(np.float32))]
        assert runner.outputs == [TensorInfo("feature", (None, 3, 4, 4), np.dtype(np.float32))]
        for batch in (1, 3):
            outputs = runner.run({"image": image(batch)})
            assert list(outputs) == ["feature"]
            np.testing.assert_array_equal(outputs["feature"], np.maximum(image(batch), 0))


def test_a_feed_that_is_not_contiguous_is_the_same_feed(relu_path: str) -> None:
    turned = np.ascontiguousarray(image().transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert not turned.flags["C_CONTIGUOUS"]
    with OnnxRuntimeRunner(relu_path) as runner:
        np.testing.assert_array_equal(runner.run({"image": turned})["feature"], np.maximum(image(), 0))


def test_nothing_is_loaded_before_with_and_after_it(tmp_path: Any) -> None:
    path = tmp_path / "later.onnx"
    runner = OnnxRuntimeRunner(str(path))
    with pytest.raises(EngineError, match="inside `with"):
        runner.run({"image": image()})
    with pytest.raises(EngineError, match="inside `with"):
        runner.inputs  # noqa: B018
    path.write_bytes(relu_onnx([1, 3, 4, 4]))
    for _ in range(2):
        with runner:
            assert runner.outputs[0].shape == (1, 3, 4, 4)
        with pytest.raises(EngineError, match="inside `with"):
            runner.outputs  # noqa: B018


def test_entering_twice_is_refused(relu_path: str) -> None:
    with OnnxRuntimeRunner(relu_path) as runner:
        with pytest.raises(EngineError, match="loaded already"):
            runner.__enter__()
        assert runner.run({"image": image()})["feature"].shape == (1, 3, 4, 4)


def test_a_runner_that_failed_to_load_is_not_loaded(tmp_path: Any) -> None:
    runner = OnnxRuntimeRunner(str(tmp_path / "none.onnx"))
    for _ in range(2):
        with pytest.raises(EngineError, match="does not exist"):
            runner.__enter__()
    with pytest.raises(EngineError, match="inside `with"):
        runner.run({})


BAD_FEEDS = [
    ({}, r"takes the inputs \['image'\], but got \[\]"),
    ({"picture": image()}, r"but got \['picture'\]"),
    ({"image": image(), "more": image()}, r"but got \['image', 'more'\]"),
    ({"image": image().tolist()}, "must be a numpy array, not a list"),
    ({"image": image().astype(np.float64)}, "must be float32, not float64"),
    ({"image": image().astype(">f4")}, "must be float32, not >f4"),
    ({"image": image()[0]}, "must have the shape nx3x4x4, not 3x4x4"),
    ({"image": image()[:, :2]}, "must have the shape nx3x4x4, not 1x2x4x4"),
    ({"image": image()[:0]}, "must have the shape nx3x4x4, not 0x3x4x4"),
]  # type: List[Tuple[Dict[str, Any], str]]


@pytest.mark.parametrize(("feeds", "words"), BAD_FEEDS)
def test_feeds_that_do_not_fit_are_refused_in_one_line(relu_path: str, feeds: Any, words: str) -> None:
    with OnnxRuntimeRunner(relu_path) as runner:
        with pytest.raises(EngineError, match=words) as caught:
            runner.run(feeds)
        assert "\n" not in str(caught.value)
        assert runner.run({"image": image()})["feature"].shape == (1, 3, 4, 4)


def test_feeds_are_checked_for_every_input() -> None:
    inputs = [TensorInfo("a", (2,), np.dtype(np.int64)), TensorInfo("b", (), np.dtype(np.float32))]
    check_feeds("two", inputs, {"b": np.float32([1])[0:1].reshape(()), "a": np.zeros(2, np.int64)})
    with pytest.raises(EngineError, match="two: input 'b' must have the shape scalar, not 1"):
        check_feeds("two", inputs, {"b": np.zeros(1, np.float32), "a": np.zeros(2, np.int64)})


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", relu_onnx([1, 3, 4, 4])[:40], relu_onnx([1, 3, 4, 4], op="NoSuchOperator")],
    ids=["empty", "garbage", "truncated", "unknown operator"],
)
def test_a_file_that_is_no_graph_is_one_line(tmp_path: Any, content: bytes, capfd: Any) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"bad\.onnx") as caught:
        OnnxRuntimeRunner(str(path)).__enter__()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("threads", [0, -1])
def test_a_thread_count_that_is_no_count_is_refused(relu_path: str, threads: int) -> None:
    with pytest.raises(UsageError, match="--threads must be at least 1"):
        OnnxRuntimeRunner(relu_path, threads=threads).__enter__()


def engine_of_kind(kind: str, path: str = "head.plan") -> Engine:
    sidecar = {
        "bundle": {"name": "b", "sha256": "0"},
        "part": "head",
        "target": "rtx-ada",
        "kind": kind,
        "precision": "fp16",
        "engine_sha256": "0",
        "golden": {"compared": False, "why_not": "no GPU"},
    }
    return Engine(path, sidecar)


def test_an_engine_of_onnx_runtime_gets_its_runner(relu_path: str) -> None:
    with runner_from_engine(engine_of_kind("onnxruntime", relu_path), threads=1, spin=False) as runner:
        assert isinstance(runner, OnnxRuntimeRunner)
        assert (runner.threads, runner.spin) == (1, False)
        assert runner.run({"image": image()})["feature"].max() == 1


@pytest.mark.parametrize("kind", ["tensorrt_rtx", "tensorrt"])
def test_a_plan_without_a_gpu_is_one_clear_line(kind: str, relu_path: str, monkeypatch: Any) -> None:
    def no_gpu(name: str) -> None:
        raise TargetError("no CUDA provider works")

    monkeypatch.setattr(trt_runner, "provider_from_name", no_gpu)
    runner = runner_from_engine(engine_of_kind(kind, relu_path))
    with pytest.raises(TargetError, match=r"cannot run on this machine.*--target cpu"):
        runner.__enter__()


def test_runners_are_left_also_when_the_block_fails() -> None:
    freed = []

    class Recorder(Runner):
        def _activate(self) -> Tuple[List[TensorInfo], List[TensorInfo]]:
            return [], []

        def _deactivate(self) -> None:
            freed.append(self.name)

    with pytest.raises(KeyError), Recorder("r") as runner:
        raise KeyError
    assert freed == ["r"]
    with pytest.raises(EngineError, match="not loaded"):
        runner.run({})


def test_shapes_are_written_for_people() -> None:
    assert shape_text((None, 3, 4)) == "nx3x4"
    assert shape_text(()) == "scalar"
