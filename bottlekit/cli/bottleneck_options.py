"""The options that describe a bottleneck, and their values when not given: the same for `train` and `export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottlekit.specs import BottleneckSpec, CodecSpec


def bottleneck_from_options(
    split: str, unit: str | None, channels: int | None, spatial: int | None, kernel: int | None
) -> BottleneckSpec:
    """The unit: bottlenet with 2 channels, spatial reduction 2 (butterfly 1), and the smallest filter that fits."""
    from bottlekit.specs import BottleneckSpec

    if spatial is None:
        spatial = 1 if unit == "butterfly" else 2
    return BottleneckSpec(
        unit or "bottlenet",  # type: ignore[arg-type]  # the spec refuses what is no kind
        split,
        channels=2 if channels is None else channels,
        spatial=spatial,
        kernel=max(3, spatial + 1) if kernel is None else kernel,
    )


def codec_from_options(
    name: str | None, unit: str | None, bits: int | None, quality: int | None, value_range: str | None = None
) -> CodecSpec:
    """The codec: JPEG of quality 20 with 8 bits, each image's own range; raw for butterfly, which has no JPEG."""
    from bottlekit.specs import CodecSpec

    return CodecSpec(
        name or ("raw" if unit == "butterfly" else "jpeg"),
        bits=8 if bits is None else bits,
        quality=20 if quality is None else quality,
        range=value_range or "image",  # type: ignore[arg-type]  # the spec refuses what is no range
    )


def at_the_finest(codec: CodecSpec, rates: tuple[int, ...], bits: int | None, quality: int | None) -> CodecSpec:
    """The codec that a checkpoint for several rates names: the finest of them, unless one was asked for."""
    from bottlekit.training.rates import at_rate, setting_of

    asked = quality if setting_of(codec) == "quality" else bits
    if not rates or asked is not None:
        return codec
    return at_rate(codec, max(rates))
