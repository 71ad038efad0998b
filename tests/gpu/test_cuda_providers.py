"""The CUDA providers on a real GPU: `pytest -m gpu`, each that is installed."""

import threading

import numpy as np
import pytest

from bottlekit.device.cuda_providers import PROVIDER_NAMES, provider_from_name
from bottlekit.device.errors import EngineError, TargetError

pytestmark = pytest.mark.gpu
GRAPHS = ("cuda-python", "ctypes")


@pytest.fixture(params=PROVIDER_NAMES)
def name(request):
    try:
        provider_from_name(request.param).close()
    except TargetError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def provider(name):
    opened = provider_from_name(name)
    with opened.attach():
        yield opened
    opened.close()


def test_one_provider_at_least_works_here():
    provider_from_name().close()


def test_facts_are_of_a_gpu(provider):
    facts = provider.device_facts()
    major, minor = facts["sm"].split(".")
    assert int(major) >= 3
    assert int(minor) >= 0
    assert facts["memory_bytes"] > 1 << 30
    assert facts["name"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (64, 3, 224, 224)])
def test_what_goes_to_the_device_comes_back(provider, shape, dtype):
    stream = provider.stream()
    sent = np.random.RandomState(0).randint(0, 100, shape).astype(dtype)
    received = provider.pinned_array(shape, dtype)
    memory = provider.allocate(sent.nbytes)
    provider.copy_to_device(memory, sent, stream)
    provider.copy_to_host(received, memory, stream)
    provider.synchronize(stream)
    np.testing.assert_array_equal(received, sent)
    provider.free(memory)


def test_events_measure_work(provider):
    """Copying 256 MiB takes longer than copying nothing."""
    stream = provider.stream()
    array = provider.pinned_array((64 << 20,), np.float32)
    memory = provider.allocate(array.nbytes)
    marks = [provider.event() for _ in range(3)]
    provider.copy_to_device(memory, array, stream)
    provider.record(marks[0], stream)
    provider.record(marks[1], stream)
    provider.copy_to_device(memory, array, stream)
    provider.record(marks[2], stream)
    provider.synchronize(stream)
    assert 0.0 <= provider.elapsed_ms(marks[0], marks[1]) < provider.elapsed_ms(marks[1], marks[2]) < 1000.0
    provider.free(memory)


def test_too_much_memory_is_said_and_the_provider_goes_on(provider):
    with pytest.raises(EngineError, match="free"):
        provider.allocate(1 << 46)
    memory = provider.allocate(1 << 20)
    provider.free(memory)


def test_a_second_thread_attaches_by_itself(provider, name):
    """The primary context is shared: memory of one thread is read by another, each with its own provider."""
    stream = provider.stream()
    sent = np.arange(1000, dtype=np.int32)
    memory = provider.allocate(sent.nbytes)
    provider.copy_to_device(memory, sent, stream)
    provider.synchronize(stream)
    received = []

    def read():
        other = provider_from_name(name)
        with other.attach():
            array = other.pinned_array(sent.shape, np.int32)
            own = other.stream()
            other.copy_to_host(array, memory, own)
            other.synchronize(own)
            received.append(array.copy())
        other.close()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(60)
    np.testing.assert_array_equal(received[0], sent)
    provider.free(memory)


def test_opening_and_closing_many_times_leaks_nothing(name):
    for _ in range(20):
        opened = provider_from_name(name)
        with opened.attach():
            memory = opened.allocate(256 << 20)
            opened.free(memory)
        opened.close()


def test_a_recorded_graph_runs_again_on_new_data(provider, name):
    stream = provider.stream()
    if name not in GRAPHS:
        with pytest.raises(TargetError, match="cannot record graphs"):
            provider.begin_capture(stream)
        return
    source = provider.pinned_array((8,), np.int32)
    target = provider.pinned_array((8,), np.int32)
    memory = provider.allocate(source.nbytes)
    provider.begin_capture(stream)
    provider.copy_to_device(memory, source, stream)
    provider.copy_to_host(target, memory, stream)
    graph = provider.end_capture(stream)
    for value in (1, 2, 3):
        source[:] = value
        provider.launch_graph(graph, stream)
        provider.synchronize(stream)
        assert target.tolist() == [value] * 8
    provider.free(memory)
