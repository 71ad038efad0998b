"""What JPEG costs in training: as part of the graph, and image by image through Pillow or torchvision.

    steps        images -> ResNet-50 up to rb1 -> unit -> codec -> rest -> loss -> gradients -> SGD, one batch
    round trips  pixels (n, h, w) -> JPEG -> pixels (n, h, w), nothing around it

The steps are those of training at the paper's setting (224 x 224, a 28 x 28 tile, 8 bits, quality 20), in turns
without a codec and with each way to run JPEG in it. A codec's share is the time between its first and its last
operation within a step (on a GPU by the GPU's own clock), divided by a whole step without a codec. The difference
of two whole steps says the same, with the noise of both.

Every way first has to give the pixels that Pillow gives. With a GPU all of it runs there, and the ways that go
image by image carry their pixels to the processor and back, as training would have to. torchvision's is left out
where its image functions do not load, as with the wheel of PyPI beside a CPU-only torch.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from record import record
from torch import Tensor, nn

from bottlekit.device.environment import load_average
from bottlekit.device.stats import summary
from bottlekit.models.jpeg_graph import JpegRoundTrip
from bottlekit.models.network import SplitNetwork
from bottlekit.models.torchvision_import import torchvision_models
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec

CLAIM = "JPEG in the graph costs at most 2 % of a ResNet-50 training step at batch 32"
LIMIT = 0.02
QUALITY = 20
MODEL = ModelSpec("resnet50", 100, 224)
# BottleNet at the first residual block: 256 x 56 x 56 becomes one channel of 28 x 28.
UNIT = BottleneckSpec("bottlenet", "rb1", channels=1, spatial=2, kernel=3)
TILES = ((28, 28), (56, 112))
BATCHES = (32, 256)
GRAPH, PILLOW, NO_CODEC = "in the graph", "image by image, Pillow", "without a codec"
WARM_UP = 2

Pixels = NDArray[np.uint8]


class ImageByImage(nn.Module):
    """Pixels (n, h, w) int32 through a function of one image (h, w) uint8, on the processor."""

    def __init__(self, one: Callable[[Pixels], Pixels]) -> None:
        super().__init__()
        self.one = one

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, h, w) -> (n, h, w), on the same device."""
        images = pixels.to("cpu", torch.uint8).numpy()
        return torch.from_numpy(np.stack([self.one(image) for image in images])).to(pixels)


def pillows(image: Pixels) -> Pixels:
    """Through a file that Pillow writes and reads."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    with PIL.Image.open(file) as read:
        return np.array(read)


def torchvisions() -> Callable[[Pixels], Pixels]:
    """Through a file that torchvision writes and reads; RuntimeError where its image extension does not load."""
    torchvision_models()  # imports torchvision so that it loads with a CPU-only torch
    from torchvision.io import decode_jpeg, encode_jpeg

    def one(image: Pixels) -> Pixels:
        decoded: Pixels = decode_jpeg(encode_jpeg(torch.from_numpy(image)[None], quality=QUALITY))[0].numpy()
        return decoded

    one(np.zeros((8, 8), dtype=np.uint8))
    return one


def ways(
    device: torch.device, compiled: bool
) -> tuple[dict[str, Callable[[tuple[int, int]], nn.Module]], list[str]]:
    """Each way to run JPEG, for images of one size; and why others are missing."""
    found: dict[str, Callable[[tuple[int, int]], nn.Module]] = {
        GRAPH: lambda shape: JpegRoundTrip(shape, QUALITY).to(device),
        PILLOW: lambda shape: ImageByImage(pillows),
    }
    missing = []
    if compiled:
        found[f"{GRAPH}, compiled"] = lambda shape: torch.compile(  # type: ignore[assignment, return-value]
            JpegRoundTrip(shape, QUALITY).to(device), fullgraph=True
        )
    try:
        one = torchvisions()
        found["image by image, torchvision"] = lambda shape: ImageByImage(one)
    except (ImportError, RuntimeError) as error:
        missing.append(f"torchvision: {str(error).splitlines()[0]}")
    return found, missing


class Clock:
    """Milliseconds between two moments of the work on a device."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def now(self) -> Any:
        """A moment: when the work queued so far is done."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, first: Any, last: Any) -> float:
        """From one moment to the other; waits for the second."""
        if not self._on_gpu:
            return float(last - first) * 1e3
        last.synchronize()
        return float(first.elapsed_time(last))


def pixels_of(count: int, shape: tuple[int, int]) -> Tensor:
    """Tiles as ReLU and the stretching leave them: noise, half of it black."""
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).relu()
    return (noise / noise.amax((1, 2), keepdim=True) * 255).to(torch.int32)


def measure_round_trips(device: torch.device, compiled: bool, rounds: int) -> list[dict[str, Any]]:
    """Every way at every batch and tile, in turns."""
    clock, results = Clock(device), []
    for shape in TILES:
        for count in BATCHES:
            pixels = pixels_of(count, shape).to(device)
            modules = {name: make(shape) for name, make in ways(device, compiled)[0].items()}
            expected = modules[PILLOW](pixels)
            for name, module in modules.items():
                if not torch.equal(module(pixels), expected):
                    raise SystemExit(f"{name} gives other pixels than Pillow; nothing was timed")
            samples: dict[str, list[float]] = {name: [] for name in modules}
            for number in range(WARM_UP + rounds):
                for name, module in modules.items():
                    first = clock.now()
                    module(pixels)
                    elapsed = clock.ms(first, clock.now())
                    if number >= WARM_UP:
                        samples[name].append(elapsed)
            medians = {name: statistics.median(taken) for name, taken in samples.items()}
            for name, median in medians.items():
                print(
                    f"{count:4} tiles {shape[0]} x {shape[1]}, {name:28} {median:9.2f} ms, "
                    f"{count / median * 1e3:9.0f} images/s, {median / medians[PILLOW]:5.2f} x Pillow"
                )
            results.append(
                {
                    "batch": count,
                    "tile": list(shape),
                    "ratio_to_pillow": {name: median / medians[PILLOW] for name, median in medians.items()},
                    "summary": {name: summary(taken) for name, taken in samples.items()},
                    "samples_ms": samples,
                }
            )
    return results


def measure_steps(device: torch.device, compiled: bool, batch: int, steps: int, amp: bool) -> dict[str, Any]:
    """Training steps with every way and without a codec, in turns."""
    torch.manual_seed(0)
    network = SplitNetwork(MODEL, UNIT, CodecSpec("jpeg", 8, QUALITY)).to(device, memory_format=torch.channels_last)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, MODEL.input_size, MODEL.input_size).to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, MODEL.num_classes, (batch,), device=device)
    coder: Any = network.codec_layer.coder
    modules = {name: make(coder.jpeg.shape) for name, make in ways(device, compiled)[0].items()}
    clock = Clock(device)
    moments: list[Any] = []
    network.codec_layer.register_forward_pre_hook(lambda *_: moments.append(clock.now()))
    network.codec_layer.register_forward_hook(lambda *_: moments.append(clock.now()))

    def step(name: str) -> tuple[float, float]:
        """Milliseconds of a step, and of the codec in it."""
        with_codec = name != NO_CODEC
        if with_codec:
            coder.jpeg = modules[name]
        moments.clear()
        first = clock.now()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            logits = network(images, with_codec=with_codec)
            loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        step_ms = clock.ms(first, clock.now())
        return step_ms, clock.ms(*moments) if with_codec else 0.0

    names = [NO_CODEC, *modules]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(WARM_UP + steps):
        for name in names:
            sample = step(name)
            if number >= WARM_UP:
                taken[name].append(sample)
    whole = {name: [step_ms for step_ms, _ in samples] for name, samples in taken.items()}
    codec = {name: [codec_ms for _, codec_ms in taken[name]] for name in modules}
    bare_ms = statistics.median(whole[NO_CODEC])
    shares = {name: statistics.median(samples) / bare_ms for name, samples in codec.items()}
    for name in names:
        median = statistics.median(whole[name])
        share = (
            "" if name == NO_CODEC else f", the codec {statistics.median(codec[name]):.2f} ms = {shares[name]:.3%}"
        )
        print(f"step {name:28} {median:9.1f} ms, {batch / median * 1e3:7.1f} images/s{share}")
    print(f"{'within' if shares[GRAPH] <= LIMIT else 'ABOVE'} {LIMIT:.0%}")
    return {
        "batch": batch,
        "amp": amp,
        "feature": list(network.feature_shape),
        "share_of_a_step": shares,
        "images_per_s": {name: batch / statistics.median(samples) * 1e3 for name, samples in whole.items()},
        "step_samples_ms": whole,
        "codec_samples_ms": codec,
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--part", choices=("both", "steps", "round-trips"), default="both", help="what to measure")
    parser.add_argument("--batch", type=int, default=32, help="images of a training step")
    parser.add_argument("--steps", type=int, default=7, help="training steps of each kind")
    parser.add_argument("--rounds", type=int, default=30, help="round trips of each kind")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--amp", action="store_true", help="steps in bfloat16, as a GPU would train")
    options = parser.parse_args()

    device = torch.device(options.device)
    load_before = load_average()
    missing = ways(device, compiled=False)[1]
    for reason in missing:
        print(f"left out: {reason}")
    result: dict[str, Any] = {
        "limit": LIMIT,
        "quality": QUALITY,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "load_average_before": load_before,
        "left_out": missing,
    }
    if options.part != "steps":
        result["round_trips"] = measure_round_trips(device, options.compile, options.rounds)
    if options.part != "round-trips":
        result["steps"] = measure_steps(device, options.compile, options.batch, options.steps, options.amp)
    print(f"recorded in {record(CLAIM, result, torch.get_num_threads())}")


if __name__ == "__main__":
    main()
