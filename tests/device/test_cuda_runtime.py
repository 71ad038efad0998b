"""The ctypes provider against a compiled double of libcudart: real ctypes calls, real memory, no GPU."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from bottlekit.device.cuda_providers import PROVIDER_NAMES, provider_from_name
from bottlekit.device.cuda_runtime import RuntimeProvider, runtime_from_ctypes
from bottlekit.device.errors import EngineError, TargetError, UnknownNameError

sys.path.insert(0, str(Path(__file__).parent))
from cuda_double import compile_double


@pytest.fixture(scope="session")
def double_path(tmp_path_factory):
    return compile_double(tmp_path_factory.mktemp("cudart"))


@pytest.fixture(params=[10020, 12060], ids=["cuda10.2", "cuda12.6"])
def provider(double_path, request):
    library = ctypes.CDLL(double_path)
    library.double_set_version(request.param)
    provider = RuntimeProvider("ctypes", runtime_from_ctypes(double_path))
    with provider.attach():
        yield provider
    provider.close()
    assert library.double_live() == 0, "something allocated was not given back"


def test_what_goes_to_the_device_comes_back(provider):
    stream = provider.stream()
    sent = np.random.RandomState(0).rand(3, 5, 7).astype(np.float32)
    received = provider.pinned_array(sent.shape, np.float32)
    memory = provider.allocate(sent.nbytes)
    provider.copy_to_device(memory, sent, stream)
    provider.copy_to_host(received, memory, stream)
    provider.synchronize(stream)
    np.testing.assert_array_equal(received, sent)
    provider.free(memory)


def test_events_measure_the_time_between_them(provider):
    stream = provider.stream()
    start, end = provider.event(), provider.event()
    with pytest.raises(EngineError, match="not ready"):
        provider.elapsed_ms(start, end)
    provider.record(start, stream)
    provider.record(end, stream)
    provider.synchronize(stream)
    assert provider.elapsed_ms(start, end) >= 0.0
    assert provider.elapsed_ms(start, end) == -provider.elapsed_ms(end, start)


def test_a_recorded_graph_runs_again_on_new_data(provider):
    stream = provider.stream()
    source, target = np.arange(8, dtype=np.int32), np.zeros(8, np.int32)
    memory = provider.allocate(source.nbytes)
    provider.begin_capture(stream)
    provider.copy_to_device(memory, source, stream)
    provider.copy_to_host(target, memory, stream)
    graph = provider.end_capture(stream)
    assert not target.any(), "recording must not run anything"
    for shift in (1, 10):
        source += shift
        provider.launch_graph(graph, stream)
        provider.synchronize(stream)
        np.testing.assert_array_equal(target, source)
    provider.free(memory)


def test_device_facts_are_those_of_the_library(provider):
    facts = provider.device_facts()
    assert facts["name"] == "double of a GPU"
    assert facts["sm"] == "6.2"
    assert facts["memory_bytes"] == 1 << 24
    assert facts["runtime_version"] in ("10.2", "12.6")


def test_out_of_memory_says_how_much_was_asked_and_how_much_is_free(provider):
    memory = provider.allocate(1 << 20)
    with pytest.raises(EngineError, match="cannot allocate 33554432 bytes, 15728640 are free .out of memory"):
        provider.allocate(1 << 25)
    provider.free(memory)


def test_copies_that_do_not_fit_or_are_not_contiguous_are_refused(provider):
    stream = provider.stream()
    memory = provider.allocate(16)
    with pytest.raises(EngineError, match="20 bytes does not fit into a block of 16"):
        provider.copy_to_device(memory, np.zeros(5, np.float32), stream)
    with pytest.raises(EngineError, match="C-contiguous"):
        provider.copy_to_host(np.zeros((4, 4), np.uint8).T[:2], memory, stream)
    provider.free(memory)


def test_a_device_that_does_not_exist_is_named(double_path):
    with pytest.raises(TargetError, match="CUDA device 3 does not exist; there are 1 devices"):
        RuntimeProvider("ctypes", runtime_from_ctypes(double_path), device=3)


def test_a_library_that_is_none_is_refused(tmp_path):
    path = tmp_path / "libcudart.so"
    path.write_bytes(b"not a library")
    with pytest.raises(TargetError, match="libcudart cannot be loaded"):
        runtime_from_ctypes(str(path))


def test_unknown_provider_lists_those_that_exist():
    with pytest.raises(UnknownNameError, match="pycuda, cuda-python, ctypes"):
        provider_from_name("opencl")


def test_auto_says_why_each_provider_does_not_work(monkeypatch):
    import bottlekit.device.cuda_providers as cuda

    def refuse(name, device):
        raise TargetError("no " + name + " here")

    monkeypatch.setattr(cuda, "_open", refuse)
    with pytest.raises(TargetError) as caught:
        provider_from_name()
    for name in PROVIDER_NAMES:
        assert "{0}: no {0} here".format(name) in str(caught.value)


def test_auto_takes_the_first_that_works(monkeypatch):
    import bottlekit.device.cuda_providers as cuda

    def open_only_ctypes(name, device):
        if name != "ctypes":
            raise TargetError("no")
        return name

    monkeypatch.setattr(cuda, "_open", open_only_ctypes)
    assert provider_from_name() == "ctypes"
