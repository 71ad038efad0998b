"""Segments of real networks, one after the other, are the network to the bit, wherever they are cut."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bottlekit.build.onnx_segments import OnnxSegments
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.segments.source import Span
from bottlekit.errors import BundleError, EngineError

sys.path.insert(0, str(Path(__file__).parents[1]))

from residual_classifier import write_residual_classifier


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_residual_classifier(tmp_path / "classifier.onnx")


def run_cut(segments: OnnxSegments, cuts: list[int], image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The result of the segments between the cuts, each fed with what it reads alone."""
    values = {segments.input_name: image}
    for first, end in zip([0, *cuts], [*cuts, segments.count], strict=True):
        span = Span(first, end - 1)
        edges = segments.edges(span)
        values.update(segments.opened(span, exact=True).run({name: values[name] for name in edges.inputs}))
        assert set(edges.outputs) <= set(values)
    return values[segments.result_names[0]]


def check_every_cut(path: Path, size: int) -> None:
    image = np.random.default_rng(5).standard_normal((1, 3, size, size)).astype(np.float32)
    with OnnxRuntimeRunner(str(path), threads=1, spin=False, exact=True) as whole:
        expected = whole.run({whole.inputs[0].name: image})[whole.outputs[0].name]
    with OnnxSegments(path, threads=1) as segments:
        count = segments.count
        assert count > 5
        for cuts in [*([cut] for cut in range(1, count)), list(range(1, count)), [2, 3, count - 1]]:
            assert np.array_equal(run_cut(segments, cuts, image), expected), cuts


def test_a_residual_classifier_at_every_cut(classifier: Path) -> None:
    check_every_cut(classifier, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "mobilenet_v2"])
def test_the_networks_of_the_papers_at_every_cut(name: str, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from bottlekit.models.backbones import backbone_from_name

    torch.manual_seed(2)
    network = backbone_from_name(name, 10).eval()
    size = 64 if name == "alexnet" else 32
    if name in ("alexnet", "vgg16"):
        # For small images: without the pooling to a fixed size, and the 100 million weights behind it.
        network.avgpool = nn.Identity()
        network.classifier = nn.Linear(256 if name == "alexnet" else 512, 10)
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            str(path),
            opset_version=13,
            dynamo=False,
            dynamic_axes={"image": {0: "n"}},
            input_names=["image"],
        )
    check_every_cut(path, size)


def test_what_is_fed_is_checked_and_segments_are_used_while_open(classifier: Path) -> None:
    with OnnxSegments(classifier, threads=1) as segments:
        runner = segments.opened(Span(0, 1), exact=False)
        assert segments.opened(Span(0, 1), exact=False) is runner
        assert segments.opened(Span(0, 1), exact=True) is not runner
        with pytest.raises(EngineError, match="must have the shape"):
            runner.run({segments.input_name: np.zeros((1, 3, 5), np.float32)})
        assert segments.crossing(0) == [segments.input_name]
        assert segments.crossing(segments.count) == segments.result_names
    with pytest.raises(BundleError, match="inside `with"):
        OnnxSegments(classifier).opened(Span(0, 1), exact=False)
