"""From a feature in the GPU's memory to codes on the host: one kernel, against the steps it replaces.

    unfused    feature --copy--> host --numpy: range, scale, round--> codes
    fused      feature --kernel--> words, range, status --copy--> host --untile--> codes

Both in turns, on the same random features, each call synchronised; what both give is compared first, to the bit.
Shapes go from a bottleneck's one channel to all of a ResNet-50's first block at 224 x 224. It needs a GPU, and says
so without one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from record import record

from bottlekit.device.codes import FEATURE, Quantised, quantised_from_outputs
from bottlekit.device.cuda import CudaProvider
from bottlekit.device.cuda_providers import PROVIDER_NAMES, open_provider
from bottlekit.device.fused import FusedQuantiser
from bottlekit.device.quantizer import quantize
from bottlekit.errors import BottlekitError

CLAIM = "one kernel behind the head is faster than copying its feature and quantising on the host"
SHAPES = ((1, 56, 56), (5, 28, 28), (64, 28, 28), (256, 56, 56))
BITS = 8


def steps(provider: CudaProvider, feature: np.ndarray) -> dict[str, Callable[[], Quantised]]:
    """Both ways from one feature (c, h, w), which is put into the GPU's memory now."""
    shape = feature.shape
    stream = provider.stream()
    host = provider.pinned_array((1, *shape), np.float32)
    host[0] = feature
    device = provider.allocate(host.nbytes)
    provider.copy_to_device(device, host, stream)
    provider.synchronize(stream)
    quantiser = FusedQuantiser(shape, BITS)
    quantiser.load(provider.device_facts()["sm"])
    outputs = {
        info.name: provider.pinned_array((1, *(size or 1 for size in info.shape[1:])), info.dtype)
        for info in quantiser.outputs
    }
    blocks = {name: provider.allocate(array.nbytes) for name, array in outputs.items()}
    addresses = {FEATURE: device.address, **{name: block.address for name, block in blocks.items()}}

    def unfused() -> Quantised:
        provider.copy_to_host(host, device, stream)
        provider.synchronize(stream)
        return Quantised(*quantize(host[0], BITS))

    def fused() -> Quantised:
        quantiser.launch(1, addresses, provider.stream_handle(stream))
        for name, array in outputs.items():
            provider.copy_to_host(array, blocks[name], stream)
        provider.synchronize(stream)
        return quantised_from_outputs(outputs, shape)[0]

    return {"unfused": unfused, "fused": fused}


def measure(provider: CudaProvider, shape: tuple[int, int, int], samples: int) -> dict[str, Any]:
    """The samples of both ways for one shape, in microseconds."""
    feature = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ways = steps(provider, feature)
    results = [way() for way in ways.values()]
    if results[0].codes.tobytes() != results[1].codes.tobytes() or results[0][1:] != results[1][1:]:
        raise BottlekitError(f"the kernel gives other codes than the codec for {shape}")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(samples + samples // 10):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            # The first tenth warms up.
            if turn >= samples // 10:
                taken[name].append(round((time.perf_counter() - started) * 1e6, 3))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {"shape": shape, "median_us": medians, "samples_us": taken}


def main() -> int:
    """Measure every shape, print a line each, record the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--provider", choices=("auto", *PROVIDER_NAMES), default="auto")
    options = parser.parse_args()
    try:
        with open_provider(options.provider) as provider:
            gpu = provider.device_facts()
            rows = [measure(provider, shape, options.samples) for shape in SHAPES]
    except BottlekitError as error:
        print(f"this benchmark needs a GPU and NVRTC: {error}", file=sys.stderr)
        return 1
    for row in rows:
        medians = row["median_us"]
        ratio = medians["unfused"] / medians["fused"]
        print(
            f"{row['shape']}: unfused {medians['unfused']:.0f} us, fused {medians['fused']:.0f} us, {ratio:.2f} x"
        )
    record(CLAIM, {"gpu": gpu, "provider": options.provider, "bits": BITS, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
