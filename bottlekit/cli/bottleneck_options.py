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


def codec_from_options(name: str | None, unit: str | None, bits: int | None, quality: int | None) -> CodecSpec:
    """The codec: JPEG of quality 20 with 8 bits; raw for butterfly, which has no JPEG."""
    from bottlekit.specs import CodecSpec

    return CodecSpec(
        name or ("raw" if unit == "butterfly" else "jpeg"),
        bits=8 if bits is None else bits,
        quality=20 if quality is None else quality,
    )
