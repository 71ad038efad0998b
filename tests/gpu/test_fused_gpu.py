"""The fused kernel on a real GPU: `pytest -m gpu`, through each CUDA provider that is installed."""

import numpy as np
import pytest

from bottlekit.device.codes import quantised_from_outputs, words_per_image
from bottlekit.device.cuda_providers import PROVIDER_NAMES, provider_from_name
from bottlekit.device.errors import CodecError, TargetError
from bottlekit.device.fused import FusedQuantiser
from bottlekit.device.quantizer import quantize

pytestmark = pytest.mark.gpu
LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture(params=PROVIDER_NAMES)
def provider(request):
    try:
        opened = provider_from_name(request.param)
    except TargetError as error:
        pytest.skip(str(error))
    with opened.attach():
        yield opened
    opened.close()


def on_the_gpu(provider, features, bits, value_range=None, times=1):
    """The kernel's three outputs for features (n, c, h, w)."""
    count, shape = len(features), tuple(features.shape[1:])
    stream = provider.stream()
    hosts = {
        "feature": np.ascontiguousarray(features, np.float32),
        # What was there before must not show.
        "words": np.full((count, words_per_image(shape)), 0x77777777, np.int32),
        "range": np.full((count, 2), 7, np.float32),
        "status": np.full(count, 7, np.int32),
    }
    blocks = {name: provider.allocate(array.nbytes) for name, array in hosts.items()}
    for name, array in hosts.items():
        provider.copy_to_device(blocks[name], array, stream)
    # The first use of the context, above, made it current: the kernel is loaded into it.
    quantiser = FusedQuantiser(shape, bits, value_range)
    quantiser.load(provider.device_facts()["sm"])
    try:
        addresses = {name: block.address for name, block in blocks.items()}
        for _ in range(times):
            quantiser.launch(count, addresses, provider.stream_handle(stream))
        for name in ("words", "range", "status"):
            provider.copy_to_host(hosts[name], blocks[name], stream)
        provider.synchronize(stream)
    finally:
        quantiser.close()
        for block in blocks.values():
            provider.free(block)
    return hosts


def assert_the_codecs(arrays, features, bits, value_range=None):
    shape = tuple(features.shape[1:])
    quantised = quantised_from_outputs(arrays, shape)
    assert len(quantised) == len(features)
    for one, feature in zip(quantised, features):  # noqa: B905 - Python 3.6 has no strict
        codes, low, high = quantize(feature, bits, value_range)
        np.testing.assert_array_equal(one.codes, codes)
        # As bytes: a difference in the sign of zero is a difference.
        assert np.float32([one.low, one.high]).tobytes() == np.float32([low, high]).tobytes()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("value_range", [None, (-2.0, 3.5)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (16, 7, 7), (33, 2, 3), (64, 28, 28)])
def test_the_codes_are_the_codecs(provider, bits, value_range, shape):
    features = np.random.RandomState(bits).normal(size=(3, *shape)).astype(np.float32) * 10
    assert_the_codecs(on_the_gpu(provider, features, bits, value_range), features, bits, value_range)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-0.0, 0.0],
        [3.5],
        [-LARGEST, LARGEST],
        [1e-45, 0.0, 2e-45],
        [1e-38, -1e-38, 1e-40],
        [0.5, 1.5, 2.5, 255.0, 0.0],
    ],
    ids=str,
)
def test_hard_values(provider, values):
    features = np.resize(np.array(values, np.float32), (2, 3, 2, 5))
    for bits in (1, 7, 8):
        assert_the_codecs(on_the_gpu(provider, features, bits), features, bits)


def test_a_million_values_and_many_images(provider):
    for shape in ((64, 16, 8, 8), (4, 64, 64, 64)):
        features = np.random.RandomState(0).normal(size=shape).astype(np.float32)
        assert_the_codecs(on_the_gpu(provider, features, 8), features, 8)


def test_the_same_again_and_again(provider):
    features = np.random.RandomState(0).normal(size=(2, 16, 14, 14)).astype(np.float32)
    once, often = on_the_gpu(provider, features, 8), on_the_gpu(provider, features, 8, times=100)
    for name in ("words", "range", "status"):
        np.testing.assert_array_equal(once[name], often[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_flagged_for_its_image_alone(provider, bad):
    features = np.random.RandomState(0).normal(size=(3, 16, 7, 7)).astype(np.float32)
    features[1, 3, 4, 5] = bad
    arrays = on_the_gpu(provider, features, 8)
    assert arrays["status"].tolist() == [0, 1, 0]
    assert not arrays["words"][1].any()
    with pytest.raises(CodecError, match="NaN or infinity"):
        quantised_from_outputs(arrays, features.shape[1:])
    well = {name: array[[0, 2]] for name, array in arrays.items()}
    assert_the_codecs(well, features[[0, 2]], 8)
