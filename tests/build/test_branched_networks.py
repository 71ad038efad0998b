"""Dense blocks and inception branches, where many tensors cross: planned, cut inside a block, run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bottlekit.build.onnx_segments import OnnxSegments
from bottlekit.build.segments import SegmentedGraph, segmented_from_file
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.segments.route import Route, Step
from bottlekit.device.segments.server import SegmentServer
from bottlekit.device.segments.source import Span
from bottlekit.device.segments.traveller import Traveller
from bottlekit.device.segments.work import Inference
from bottlekit.errors import UsageError
from bottlekit.planning.planners import PLANNERS
from bottlekit.planning.schedule import Schedule, ScheduleProblem, Tensor, schedule_from_problem, summed_groups
from bottlekit.specs import LinkSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
from servers import in_a_thread

SIZE = 64
FAST = LinkSpec("fast", 1e6, 1e6, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module", params=["densenet121", "googlenet"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as torchvision has it, with random weights, for small images."""
    import torch

    from bottlekit.models.torchvision_import import torchvision_models

    options = {"aux_logits": False, "init_weights": False} if request.param == "googlenet" else {}
    path: Path = tmp_path_factory.mktemp("branched") / f"{request.param}.onnx"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(torchvision_models(), request.param)(weights=None, num_classes=10, **options).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, SIZE, SIZE),), str(path), opset_version=13, dynamo=False)
    return path


def crowded_stretch(graph: SegmentedGraph) -> tuple[int, int]:
    """Layers first..last within one block, cut where as many tensors cross as anywhere."""
    crowds = [len(graph.crossing(boundary)) for boundary in range(len(graph.layers) + 1)]
    end = crowds.index(max(crowds))
    begin = 1 + max(at for at in range(end) if crowds[at] == 1)
    return begin, end - 1


def planned(graph: SegmentedGraph, there: range) -> tuple[ScheduleProblem, Schedule]:
    """The best schedule where the mobile is slow in the layers `there` and the cloud in all others."""
    count = len(graph.layers)
    mobile = summed_groups([50.0 if layer in there else 1.0 for layer in range(count)])
    cloud = summed_groups([1.0 if layer in there else 50.0 for layer in range(count)])
    tensors = tuple(Tensor(one.name, one.source, one.readers, 1e4, 1e4) for one in graph.tensors)
    names = tuple(layer.name for layer in graph.layers)
    problem = ScheduleProblem(names, mobile, mobile, cloud, tensors, FAST, whole_runs=True)
    return problem, schedule_from_problem(problem)


@contextmanager
def serving(segments: OnnxSegments) -> Iterator[tuple[str, int]]:
    server = SegmentServer(lambda net, spans, _: Inference(segments, net, spans, exact=True), "127.0.0.1", 0)
    with server, in_a_thread(server):
        yield server.address


@pytest.mark.slow
def test_a_schedule_that_switches_inside_a_block_is_the_whole_network(network: Path) -> None:
    graph = segmented_from_file(network)
    first, last = crowded_stretch(graph)
    _, schedule = planned(graph, range(first, last + 1))
    assert schedule.runs == (
        ("mobile", 0, first - 1),
        ("cloud", first, last),
        ("mobile", last + 1, len(graph.layers) - 1),
    )
    # All that a block's layers read is sent, once; and all that they made and others read comes back.
    up, down = schedule.transfers
    edges_in, edges_out = graph.edges(first, last)
    assert set(up.tensors) == set(edges_in)
    assert set(down.tensors) == set(edges_out)
    assert max(len(up.tensors), len(down.tensors)) > 1

    image = np.random.default_rng(1).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    with OnnxRuntimeRunner(str(network), threads=1, spin=False, exact=True) as whole:
        expected = whole.run({whole.inputs[0].name: image})[whole.outputs[0].name]
    with OnnxSegments(network, threads=1) as segments, serving(segments) as address:
        route = Route(segments.sha256, [Step(m, Span(a, b)) for m, a, b in schedule.runs], None, 1.0)
        with Traveller(route, segments, address, timeout_s=60.0, exact=True) as traveller:
            journey = traveller.run(image)
    assert journey.lost is None
    assert [step.machine for step in journey.steps] == ["mobile", "cloud", "mobile"]
    assert np.array_equal(journey.results[segments.result_names[0]], expected)


@pytest.mark.slow
def test_no_planner_is_better_and_a_head_and_a_tail_are_refused_by_name(network: Path) -> None:
    graph = segmented_from_file(network)
    first, last = crowded_stretch(graph)
    problem, schedule = planned(graph, range(first, last + 1))
    for name, planner in PLANNERS.items():
        assert planner(problem).latency_ms >= schedule.latency_ms * (1 - 1e-9), name
    names = graph.crossing(last + 1)
    with pytest.raises(
        UsageError, match=f"{len(names)} tensors cross the boundary before layer {last + 1}"
    ) as caught:
        graph.only_crossing(last + 1)
    assert all(name in str(caught.value) for name in names)
