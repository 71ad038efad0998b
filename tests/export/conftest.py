"""Networks that look trained without training, real photographs, and Polygraphy as the independent judge."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER
from torch import nn

from bottlekit.device.images import input_from_image
from bottlekit.export.networks import WithoutCodec
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec, Preprocessing, to_dict

Array = npt.NDArray[np.float32]
Judge = Callable[[nn.Module, Path, Array], bool]
MakeNetwork = Callable[..., SplitNetwork]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that is gone after the test: graphs are large, and pytest keeps its own folders for days."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="session")
def photographs() -> Callable[[int], Array]:
    """The function size -> network inputs (4, 3, size, size): two real photographs, then two random images."""
    from sklearn.datasets import load_sample_images

    def inputs(size: int) -> Array:
        preprocessing = to_dict(Preprocessing(resize=round(size * 256 / 224), crop=size))
        real = [input_from_image(image, preprocessing) for image in load_sample_images().images]
        noise = np.random.default_rng(7).standard_normal((2, 3, size, size), dtype=np.float32)
        return np.concatenate([np.stack(real), noise])

    return inputs


@pytest.fixture(scope="session")
def make_network(lived_in: Callable[[nn.Module, torch.Tensor], nn.Module]) -> MakeNetwork:
    """The function (model, bottleneck, codec, images, backbone, shared) -> SplitNetwork with lived-in batch norms.

    A `shared` backbone is lived in already and must stay as it is; only the unit gets statistics then. The codec is
    left out of them: JPEG noise that no training has got used to drives deep networks to where rounding decides.
    """

    def make(
        model: ModelSpec,
        bottleneck: BottleneckSpec,
        codec: CodecSpec,
        images: Array,
        backbone: nn.Module | None = None,
        shared: bool = False,
    ) -> SplitNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = SplitNetwork(model, bottleneck, codec, backbone).eval()
            if shared:
                with torch.no_grad():
                    feature = network.head.backbone(torch.from_numpy(images))
                lived_in(network.unit, feature)
            else:
                lived_in(WithoutCodec(network), torch.from_numpy(images))
        return network

    return make


class TorchRunner(BaseRunner):
    """A torch module as a Polygraphy runner with one FP32 input and one output."""

    def __init__(self, module: nn.Module, input_name: str, output_name: str, shape: tuple[int | None, ...]) -> None:
        super().__init__(name="torch")
        self.module = module
        self.input_name = input_name
        self.output_name = output_name
        self.shape = shape

    def get_input_metadata_impl(self) -> TensorMetadata:
        return TensorMetadata().add(self.input_name, np.dtype(np.float32), self.shape)

    def infer_impl(self, feed_dict: dict[str, Array]) -> OrderedDict[str, Array]:
        self.inference_time = 0.0
        with torch.no_grad():
            output = self.module(torch.from_numpy(feed_dict[self.input_name]))
        return OrderedDict([(self.output_name, output.numpy())])


@pytest.fixture(scope="session")
def polygraphy_agrees() -> Judge:
    """The function (module, onnx file, inputs (k, ...)) -> whether Polygraphy finds their outputs equal.

    All inputs at once, then the first one alone. Every element has to be within 1e-4 of the largest magnitude
    plus 1e-3 of its own.
    """

    def agrees(module: nn.Module, path: Path, inputs: Array) -> bool:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            session = SessionFromOnnx(str(path), providers=["cpu"])()
            name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
            reference = TorchRunner(module, name, output, (None, *inputs.shape[1:]))
            candidate = OnnxrtRunner(session, name="onnxruntime")
            results = Comparator.run([reference, candidate], data_loader=[{name: inputs}, {name: inputs[:1]}])
            largest = float(np.abs(results["torch"][0][output]).max())
            close = SimpleCompareFunc(rtol=1e-3, atol=1e-4 * largest)
            return bool(Comparator.compare_accuracy(results, compare_func=close))

    return agrees
