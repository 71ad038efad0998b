"""The kernel behind a head's engine: on doubles of every TensorRT, its codes are the codec's to the last bit."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

import bottlekit.device.fused as fused_module
import bottlekit.device.trt_runner as trt_runner_module
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.codecs import codec_from_spec
from bottlekit.device.codes import payload_from_outputs, quantised_from_outputs, words_per_image
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.errors import CodecError, EngineError, TargetError
from bottlekit.device.fused import FusedQuantiser
from bottlekit.device.kernel_module import Driver, KernelModule
from bottlekit.device.quantizer import quantize
from bottlekit.device.tiling import canvas_shape, tile
from bottlekit.device.trt import PlanOptions, plan_from_onnx
from bottlekit.device.trt_runner import TensorRTRunner

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import KERNEL_IMAGE, compile_double, compile_driver_double, enqueue_through
from tensorrt_double import VERSIONS, tensorrt_double

FLEET = fleet_from_path(str(Path(__file__).parent.parent / "data" / "tiny_fleet"))
MAX_BATCH = 3


@pytest.fixture(scope="session")
def cudart_path(tmp_path_factory):
    return compile_double(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(scope="session")
def driver_path(tmp_path_factory, cudart_path):
    path = compile_driver_double(tmp_path_factory.mktemp("cuda"))
    queue = ctypes.cast(ctypes.CDLL(cudart_path).double_enqueue, ctypes.c_void_p)
    ctypes.CDLL(path).double_set_enqueue(queue)
    return path


@pytest.fixture
def driver(driver_path, monkeypatch):
    monkeypatch.setattr(fused_module, "kernel_image", lambda kernel, sm: (KERNEL_IMAGE, True))
    yield Driver(driver_path)
    assert ctypes.CDLL(driver_path).double_live_modules() == 0, "a kernel was not unloaded"


@pytest.fixture
def cuda(cudart_path):
    provider = RuntimeProvider("ctypes", runtime_from_ctypes(cudart_path))
    yield provider
    provider.close()
    assert ctypes.CDLL(cudart_path).double_live() == 0, "something allocated was not given back"


def plan(version, bundle, cudart_path, folder, monkeypatch):
    """A plan of the bundle's head, by a double of this version."""
    trt = tensorrt_double(version, sm="SM89" if version == "rtx" else "6.2")
    trt.double.enqueue = enqueue_through(ctypes.CDLL(cudart_path))
    monkeypatch.setattr(trt_runner_module, "import_tensorrt", lambda flavour: trt)
    shape = tuple(bundle.input_shape[1:])
    options = PlanOptions(
        workspace_bytes=1 << 28,
        sm="8.9" if version == "rtx" else None,
        profiles={"image": ((1,) + shape, (1,) + shape, (MAX_BATCH,) + shape)},
    )
    path = folder / "head.plan"
    path.write_bytes(plan_from_onnx(trt, Path(bundle.onnx_path("head")).read_bytes(), options, "head").content)
    return str(path)


@pytest.fixture
def head(cudart_path, tmp_path, monkeypatch):
    return plan("8.2", FLEET[0], cudart_path, tmp_path, monkeypatch)


def images(bundle, count):
    golden = bundle.golden()["image"]
    return np.resize(golden, (count,) + golden.shape[1:]).astype(np.float32)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bundle", FLEET, ids=lambda bundle: bundle.name)
def test_fused_is_unfused_for_the_fleet(
    version, bundle, graph, cuda, driver, driver_path, cudart_path, tmp_path, monkeypatch
):
    path = plan(version, bundle, cudart_path, tmp_path, monkeypatch)
    fused = TensorRTRunner(
        path, provider=cuda, graph=graph, quantiser=FusedQuantiser.from_codec(bundle.codec, driver)
    )
    unfused = TensorRTRunner(path, provider=cuda, graph=graph)
    before = ctypes.CDLL(driver_path).double_launched()
    with fused, unfused:
        assert fused.why_not_fused is None
        assert [info.name for info in fused.outputs] == ["words", "range", "status"]
        for count in (1, MAX_BATCH, 1):
            feed = {"image": images(bundle, count)}
            codes, features = fused.run(feed), unfused.run(feed)["feature"]
            assert fused.device_ms >= 0.0
            assert codes["words"].shape == (count, words_per_image(bundle.codec.shape))
            for one, feature in zip(quantised_from_outputs(codes, bundle.codec.shape), features):
                expected, low, high = quantize(feature, bundle.codec.bits, bundle.codec.value_range)
                np.testing.assert_array_equal(one.codes, expected)
                assert np.float32([one.low, one.high]).tobytes() == np.float32([low, high]).tobytes()
            assert payload_from_outputs(bundle.codec, codes) == bundle.codec.encode(features[0])
    assert ctypes.CDLL(driver_path).double_launched() > before


class Memory:
    """Arrays as the device memory of the double: heap memory, by address."""

    def __init__(self, features, shape):
        count = len(features)
        self.arrays = {
            "feature": np.ascontiguousarray(features, np.float32),
            # What was there before must not show.
            "words": np.full((count, words_per_image(shape)), 0x77777777, np.int32),
            "range": np.full((count, 2), 7, np.float32),
            "status": np.full(count, 7, np.int32),
        }
        self.addresses = {name: int(array.ctypes.data) for name, array in self.arrays.items()}


STREAM = ctypes.create_string_buffer(64)


def quantised(driver, features, bits, value_range=None):
    shape = tuple(features.shape[1:])
    quantiser = FusedQuantiser(shape, bits, value_range, driver)
    memory = Memory(features, shape)
    quantiser.load("6.2")
    try:
        quantiser.launch(len(features), memory.addresses, ctypes.addressof(STREAM))
    finally:
        quantiser.close()
    return memory.arrays


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("value_range", [None, (-2.0, 3.5)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (16, 7, 7), (3, 5, 7)])
def test_every_width_range_and_shape(driver, bits, value_range, shape):
    features = np.random.RandomState(bits).normal(size=(2,) + shape).astype(np.float32) * 3
    arrays = quantised(driver, features, bits, value_range)
    for one, feature in zip(quantised_from_outputs(arrays, shape), features):
        codes, low, high = quantize(feature, bits, value_range)
        np.testing.assert_array_equal(one.codes, codes)
        assert (one.low, one.high) == (low, high)
    # What is behind the canvas in the last word is zero, and the canvas is the codec's.
    height, width = canvas_shape(*shape)
    rest = arrays["words"].view(np.uint8)[:, height * width :]
    assert not rest.any()
    canvas = arrays["words"].view(np.uint8)[0, : height * width].reshape(height, width)
    np.testing.assert_array_equal(canvas, tile(quantize(features[0], bits, value_range)[0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_codecs_error(driver, bad):
    codec = codec_from_spec({"name": "raw", "bits": 8, "quality": 20}, (3, 4, 5))
    features = np.ones((2, 3, 4, 5), np.float32)
    features[1, 2, 3, 4] = bad
    arrays = quantised(driver, features, 8)
    assert arrays["status"].tolist() == [0, 1]
    with pytest.raises(CodecError) as of_kernel:
        quantised_from_outputs(arrays, (3, 4, 5))
    with pytest.raises(CodecError) as of_codec:
        codec.encode(features[1])
    assert str(of_kernel.value) == str(of_codec.value)
    # The first image of the batch is well.
    assert payload_from_outputs(codec, arrays) == codec.encode(features[0])


def without_kernel(cuda, head, quantiser):
    """A head whose kernel cannot be used gives its feature, and says why."""
    runner = TensorRTRunner(head, provider=cuda, quantiser=quantiser)
    with runner:
        assert [info.name for info in runner.outputs] == ["feature"]
        outputs = runner.run({"image": images(FLEET[0], 1)})
        assert payload_from_outputs(FLEET[0].codec, outputs) == FLEET[0].codec.encode(outputs["feature"][0])
    return runner.why_not_fused


def test_without_nvrtc_the_codec_quantises(cuda, driver, head, monkeypatch):
    def none(kernel, sm):
        raise TargetError("no NVRTC for the kernels here")

    monkeypatch.setattr(fused_module, "kernel_image", none)
    assert without_kernel(cuda, head, FusedQuantiser.from_codec(FLEET[0].codec, driver)).startswith("no NVRTC")


def test_an_image_for_another_gpu_is_not_used(cuda, driver, head, monkeypatch):
    monkeypatch.setattr(fused_module, "kernel_image", lambda kernel, sm: (b"another GPU's", True))
    why = without_kernel(cuda, head, FusedQuantiser.from_codec(FLEET[0].codec, driver))
    assert why == "CUDA failed to load the kernel bottlekit_quantize_tile: device kernel image is invalid"


def test_a_head_of_another_shape_is_not_fused(cuda, driver, head):
    why = without_kernel(cuda, head, FusedQuantiser((1, 2, 3), 8, None, driver))
    assert why.startswith("the kernel takes feature nx1x2x3 float32, and the engine gives feature n")


def test_without_a_driver_the_codec_quantises(cuda, head, tmp_path, monkeypatch):
    monkeypatch.setattr(fused_module, "kernel_image", lambda kernel, sm: (KERNEL_IMAGE, True))
    with pytest.raises(TargetError, match="libcuda cannot be loaded .*install NVIDIA's driver"):
        Driver(str(tmp_path / "libcuda.so"))
    monkeypatch.setattr("bottlekit.device.kernel_module._NAMES", (str(tmp_path / "libcuda.so"),))
    assert without_kernel(cuda, head, FusedQuantiser.from_codec(FLEET[0].codec)).startswith("libcuda cannot be")


def test_a_kernel_needs_a_context(driver, driver_path):
    ctypes.CDLL(driver_path).double_set_context(0)
    try:
        with pytest.raises(EngineError, match="no CUDA context is current in this thread"):
            KernelModule(KERNEL_IMAGE, "bottlekit_quantize_tile", driver)
    finally:
        ctypes.CDLL(driver_path).double_set_context(1)


def test_a_kernel_that_is_not_in_the_image_is_named_and_the_image_unloaded(driver):
    with pytest.raises(EngineError, match="find the kernel bottlekit_nothing: named symbol not found"):
        KernelModule(KERNEL_IMAGE, "bottlekit_nothing", driver)


def test_a_launch_that_cuda_refuses_is_an_error(driver):
    module = KernelModule(KERNEL_IMAGE, "bottlekit_quantize_tile", driver)
    try:
        with pytest.raises(EngineError, match="launch the kernel bottlekit_quantize_tile: invalid argument"):
            module.launch((0, 1, 1), 512, [ctypes.c_void_p()] * 5, ctypes.addressof(STREAM))
    finally:
        module.close()
        module.close()
    with pytest.raises(EngineError, match="is not loaded"):
        FusedQuantiser((1, 1, 1), 8).launch(1, {}, 0)
