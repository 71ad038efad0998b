"""The part of docs/reproduction.md that is emulated: how well, and ResNet-50's blocks from the layers alone.

    published times --fit--> emulated TX2, GTX 1080 Ti --layers of ResNet-50--> head, tail of each block
    the papers' tables --fit--> one constant per block                           (paper_page.py)

The two have nothing in common: no number of the papers goes into the emulation, none of the emulation into theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from bottlekit.build.emulation import Emulation, emulation_of, kernels
from bottlekit.planning.roofline import FittedRoofline, Layer, fitted_roofline
from bottlekit.report import drawing
from bottlekit.report.setups import emulation_words
from bottlekit.targets.loader import target_from_name
from bottlekit.targets.published import published_network

STAGES = (3, 4, 6, 3)
# The Butterfly unit's channels by residual block (Butterfly, section III-B; BottleNet has the same).
CHANNELS = (1,) * 3 + (2,) * 4 + (5,) * 6 + (10,) * 3
FULL_CHANNELS = (256, 512, 1024, 2048)
FEATURE_SIZES = (56, 28, 14, 7)
PICTURE = "reproduction-blocks.svg"


class Block(NamedTuple):
    """A residual block of ResNet-50: times in ms up to it and from it on, each with its half of the unit."""

    number: int
    device_ms: float
    fast_device_ms: float
    server_ms: float


def emulations() -> tuple[Emulation, Emulation, Emulation]:
    """The TX2 as it was timed, the TX2 at its highest clocks, the GTX 1080 Ti."""
    tx2, server = target_from_name("tx2"), target_from_name("gtx1080ti")
    return emulation_of(tx2), emulation_of(tx2, "maxn"), emulation_of(server)


def resnet50_blocks() -> tuple[Block, ...]:
    """Head and tail of every block on the emulated machines, the Butterfly unit between them."""
    device, fast_device, server = emulations()
    layers = kernels(published_network("resnet50"), compiled=True)
    found = []
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            ends = [i for i, layer in enumerate(layers) if f"/layer{stage + 1}.{block}/" in layer.name]
            reduction, restoration = _unit(stage, CHANNELS[len(found)])
            head, tail = [*layers[: ends[-1] + 1], reduction], [restoration, *layers[ends[-1] + 1 :]]
            found.append(
                Block(len(found) + 1, device.time_ms(head), fast_device.time_ms(head), server.time_ms(tail))
            )
    return tuple(found)


def _unit(stage: int, channels: int) -> tuple[Layer, Layer]:
    """Butterfly's reduction and restoration, 1 x 1 convolutions (Butterfly, section II-A)."""
    pixels, full = FEATURE_SIZES[stage] ** 2, FULL_CHANNELS[stage]
    flops, weights = 2.0 * pixels * full * channels, float(full * channels)
    return (
        Layer("reduction", "Conv", flops, float(pixels * full), float(pixels * channels), weights),
        Layer("restoration", "Conv", flops, float(pixels * channels), float(pixels * full), weights),
    )


def blocks_picture(butterfly_ms: Sequence[float], bottlenet_ms: Sequence[float]) -> str:
    """An SVG: the papers' constants and the emulated times over the blocks."""
    blocks = resnet50_blocks()
    numbers = [block.number for block in blocks]
    device, _, server = emulations()
    error = device.fitted.median_error
    head = [block.device_ms for block in blocks]
    with drawing.style():
        figure = drawing.new_figure(9, 4.6)
        axes = figure.subplots()
        axes.plot(numbers, bottlenet_ms, "o-", color=drawing.VERMILION, label="BottleNet's constants c (modelled)")
        axes.plot(numbers, butterfly_ms, "s-", color=drawing.ORANGE, label="Butterfly's constants c (modelled)")
        axes.plot(
            numbers, head, "^-", color=drawing.BLUE, label=f"TX2 up to the block, {device.precision} (emulated)"
        )
        axes.fill_between(
            numbers, [ms * (1 - error) for ms in head], [ms * (1 + error) for ms in head], color=drawing.BLUE,
            alpha=0.25, linewidth=0, label=f"its median leave-one-out error, {100 * error:.0f} %",
        )  # fmt: skip
        axes.plot(
            numbers,
            [block.server_ms for block in blocks],
            "v-",
            color=drawing.GREEN,
            label=f"GTX 1080 Ti from the block on, {server.precision} (emulated, median error "
            f"{100 * server.fitted.median_error:.0f} %)",
        )
        axes.set_xticks(numbers, [f"RB{number}" for number in numbers], fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("ms")
        axes.set_title("ResNet-50 by residual block: the papers' constants and emulated times")
        axes.legend(loc="upper left")
        drawing.quiet_grid(axes, "y")
        svg = drawing.svg_from_figure(
            figure, "reproduction-blocks", "the papers' constants per block beside emulated times of TX2 and server"
        )
    # A picture file knows nothing of its page's colours.
    return svg.replace('style="', 'style="background:#fff;color:#222;', 1)


def _without_winograd(emulation: Emulation) -> FittedRoofline:
    """The same fit with every convolution counted as it is defined. The peak is that of the published times."""
    points = [
        dataclasses.replace(
            left.point, layers=tuple(dataclasses.replace(layer, winograd=False) for layer in left.point.layers)
        )
        for left in emulation.fitted.left_out
    ]
    return fitted_roofline(points, emulation.peak)


def share(emulated: float, fitted: float) -> str:
    """Emulated against fitted, in whole percent."""
    return f"{100 * (emulated / fitted - 1):+.0f} %"


def emulation_section(butterfly_ms: Sequence[float], bottlenet_ms: Sequence[float]) -> str:
    """How well machines are emulated, and every block of ResNet-50 beside the papers' constants."""
    from paper_page import markdown_table

    device, fast_device, server = emulations()
    fp32 = emulation_of(target_from_name("tx2"), precision="fp32")
    blocks = resnet50_blocks()
    layers = kernels(published_network("resnet50"), compiled=True)
    fits = [
        (
            f"{one.target.name}, {one.precision}",
            one.published[0].mode,
            f"{one.fitted.roofline.efficiency:.2f}",
            f"{1000 * one.fitted.roofline.launch_ms:.0f}",
            len(one.fitted.left_out),
            f"{100 * one.fitted.median_error:.0f} %",
            f"{100 * abs(one.fitted.worst.error):.0f} %, {one.fitted.worst.point.network}",
        )
        for one in (device, fp32, server)
    ]
    points = [
        (
            f"{one.target.name}, {one.precision}, {left.point.network}",
            left.point.batch,
            f"{left.point.measured_ms:.2f}",
            f"{left.predicted_ms:.2f}",
            share(left.predicted_ms, left.point.measured_ms),
        )
        for one in (device, fp32, server)
        for left in one.fitted.left_out
    ]
    rows = []
    before_ms = 0.0
    for block, butterfly, bottlenet in zip(blocks, butterfly_ms, bottlenet_ms, strict=True):
        total = block.device_ms + block.server_ms
        rows.append(
            (
                f"RB{block.number}",
                f"{block.device_ms:.2f}",
                f"{block.device_ms - before_ms:+.2f}",
                f"{block.fast_device_ms:.2f}",
                f"{block.server_ms:.2f}",
                f"{total:.2f}",
                f"{butterfly:.2f}",
                share(block.device_ms, butterfly),
                share(total, butterfly),
                f"{bottlenet:.2f}",
                share(block.device_ms, bottlenet),
                share(total, bottlenet),
            )
        )
        before_ms = block.device_ms
    steps = (blocks[-1].device_ms - blocks[0].device_ms) / (len(blocks) - 1)
    paper_steps = [(column[-1] - column[0]) / (len(column) - 1) for column in (butterfly_ms, bottlenet_ms)]
    deep_blocks = list(zip(blocks, butterfly_ms, bottlenet_ms, strict=True))[7:]
    deep = 100 * max(abs(block.device_ms / c - 1) for block, _, c in deep_blocks)
    above = [100 * (block.device_ms / c - 1) for block, c, _ in deep_blocks]
    low, high = min(above), max(above)
    operations = {
        name: sum(layer.flops for layer in kernels(published_network(name), compiled=True))
        for name in ("resnet50", "slim_resnet_v1_50")
    }
    slim = 100 * (1 - operations["slim_resnet_v1_50"] / operations["resnet50"])
    direct = [100 * _without_winograd(one).median_error for one in (device, fp32, server)]
    of_16 = [times.times_ms["resnet50"] for times in server.published if times.batch == 16]
    spread = 100 * (max(of_16) / min(of_16) - 1)
    sources = "\n".join(
        f"* {target}: {source}"
        for target, source in dict.fromkeys(
            (times.target, times.source) for one in (device, server) for times in one.published
        )
    )
    fit_headings = ("machine", "timed at", "efficiency", "launch, us", "points", "median error", "worst error")
    point_headings = ("published time", "images", "published, ms", "from the others, ms", "error")
    block_headings = (
        "block", "TX2 head, ms", "step", f"head, {fast_device.mode}", "1080 Ti tail, ms", "head + tail",
        "Butterfly c", "head", "head + tail", "BottleNet c", "head", "head + tail",
    )  # fmt: skip
    return f"""## Emulated machines

Everything in this section is **emulated** (◇): computed for machines that are not here, from times that others
published and from the layers of the networks they timed. A layer takes max(FLOP / (efficiency x peak), bytes /
(efficiency x bandwidth)) + launch; efficiency and launch are fitted, the least sum of squared relative errors.
Convolutions of 3 x 3 with stride 1 count the 16 of 36 multiplications that Winograd's algorithm does. Each
published time is then predicted from all the others, which is the error to expect elsewhere:

{markdown_table(fit_headings, fits)}
{markdown_table(point_headings, points)}
Winograd's saving is in the model because published times want it: without it the median errors are
{direct[0]:.0f} %, {direct[1]:.0f} % and {direct[2]:.0f} %, and VGG-16 would run above the GTX 1080 Ti's peak.

Depthwise convolutions (MobileNet at 224 x 224) are far slower than any roofline has it, and Inception v1 in FP16 is
faster: the emulation is good for ResNets and VGG, and not for those. The GTX 1080 Ti is known from frameworks only,
mostly at 16 images, where two sources are {spread:.0f} % apart for the same ResNet-50; at one image expect the
error of that row.

Sources:

{sources}

## ResNet-50 by block: emulated, beside the papers' constants

Nothing of the papers goes into the head and tail columns, nothing of the emulation into c. Head: the emulated TX2,
{device.precision}, {device.mode} (as it was timed), up to the block, with Butterfly's reduction. Tail: the emulated
GTX 1080 Ti, {server.precision}, with its restoration and the rest of the network. The percentages are emulated / c
- 1.

{markdown_table(block_headings, rows)}
![The papers' constants per block, and emulated times of the TX2 up to the block and of the server from the block
on.]({PICTURE})

Head: {emulation_words(device.to_dict())}. Tail: {emulation_words(server.to_dict())}.

What it shows:

* The whole network takes {device.time_ms(layers):.1f} ms on the emulated TX2, {fast_device.time_ms(layers):.1f} ms
  at {fast_device.mode}. Both papers print 15.7 ms for mobile-only, which is also what NVIDIA published for
  TF-Slim's resnet_v1_50, a network with {slim:.0f} % fewer operations.
* From RB8 on, BottleNet's constants are the emulated head alone, within {deep:.0f} %: the layers and other people's
  times give what its tables imply. The head is {low:.0f} to {high:.0f} %
  above Butterfly's.
* A block costs {steps:.2f} ms on the emulated TX2 on average, {paper_steps[0]:.2f} ms in Butterfly's constants and
  {paper_steps[1]:.2f} ms in BottleNet's.
* The shallow blocks do not fit. At RB1 the emulated head alone takes {blocks[0].device_ms:.1f} ms, where
  Butterfly's constant leaves {butterfly_ms[0]:.1f} ms and BottleNet's {bottlenet_ms[0]:.1f} ms for head and tail
  together.
* There is no room for the server in either paper's constants: at RB1 the emulated tail alone is
  {blocks[0].server_ms:.1f} ms, more than all of c.
"""
