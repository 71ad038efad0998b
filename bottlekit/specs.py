"""The frozen dataclasses that travel between the verbs, and their JSON form.

    train  -> checkpoint   (ModelSpec, BottleneckSpec, CodecSpec, Preprocessing in its header)
    export -> bundle.json  (the same, with SplitSpec and measured accuracy)
    build  -> engine sidecar
    bench  -> profile.json
    plan   -> plan.json

A spec refuses values that do not fit at birth and names the option that sets them. Specs hold no behaviour
beyond that: they import nothing but the errors, so that every room of the package can use them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeVar

from bottlekit.errors import BundleError, UsageError

BottleneckKind = Literal["bottlenet", "butterfly"]
ValueRange = Literal["image", "static"]
Objective = Literal["latency", "energy"]
Origin = Literal["measured", "modelled", "emulated"]

Spec = TypeVar("Spec")


def to_dict(spec: Any) -> dict[str, Any]:
    """A spec as plain JSON values (tuples become lists)."""
    fields = dataclasses.asdict(spec)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def from_dict(cls: type[Spec], values: dict[str, Any], where: str) -> Spec:
    """A spec from its JSON form; `where` names the file in the error."""
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    missing = sorted(
        name
        for name, field in known.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise BundleError(
            f"{where}: {cls.__name__} has unknown fields {unknown} and lacks {missing}; "
            "it was written by another version of bottlekit"
        )
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """A named place where a network can be cut.

    `channels`, `height`, `width` are those of the feature tensor (n, c, h, w) that crosses the cut for the
    input size the network was asked about; `stride` is input height / feature height.
    """

    name: str
    index: int
    module: str
    channels: int
    height: int
    width: int
    stride: int


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which backbone, for how many classes, at which input size (pixels, square)."""

    backbone: str
    num_classes: int
    input_size: int

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"--classes must be at least 2, not {self.num_classes}")
        if self.input_size < 8:
            raise UsageError(f"--input-size must be at least 8 pixels, not {self.input_size}")


@dataclasses.dataclass(frozen=True)
class BottleneckSpec:
    """The bottleneck unit behind one split point.

    `bottlenet`: 1x1 convolution to `channels`, then convolution with stride `spatial` and a filter of
    `kernel` > `spatial`, each followed by batch norm and ReLU (BottleNet, section 2.1). Either reduction
    alone: `channels` 0 keeps all channels, `spatial` 1 keeps the size.
    `butterfly`: 1x1 convolution to `channels` and back, nothing else (Butterfly, section II-A).
    """

    kind: BottleneckKind
    split: str
    channels: int
    spatial: int = 2
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kind not in ("bottlenet", "butterfly"):
            raise UsageError(f"--unit must be bottlenet or butterfly, not {self.kind!r}")
        if self.channels < 0:
            raise UsageError(f"--channels must be 0 (keep all) or more, not {self.channels}")
        if self.spatial < 1:
            raise UsageError(f"--spatial must be 1 (keep the size) or more, not {self.spatial}")
        if self.kind == "butterfly":
            if self.spatial != 1:
                raise UsageError(
                    f"the butterfly unit reduces channels only: --spatial must be 1, not {self.spatial}"
                )
            if self.channels == 0:
                raise UsageError("the butterfly unit needs --channels of at least 1")
        elif self.channels == 0 and self.spatial == 1:
            raise UsageError("--channels 0 with --spatial 1 reduces nothing; set at least one of them")
        if self.spatial > 1 and self.kernel <= self.spatial:
            raise UsageError(
                f"--kernel {self.kernel} must be larger than --spatial {self.spatial}, "
                "or some features would never be seen (BottleNet, section 2.1)"
            )


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """How the reduced feature becomes bytes: an n-bit quantiser and a coder.

    `quality` is JPEG's and lossy WebP's, 1..100. `range` is what the codes span: `image`, each image's own minimum
    and maximum, which travel with it (BottleNet, section 2.2), or `static`, one range for all, calibrated on
    training images and kept in the bundle.
    """

    name: str
    bits: int = 8
    quality: int = 20
    range: ValueRange = "image"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"--bits must be 1..8, not {self.bits}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality must be 1..100, not {self.quality}")
        if self.range not in ("image", "static"):
            raise UsageError(f"--range must be image or static, not {self.range!r}")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From an image file to the network's input: resize the short side, crop the centre, scale, normalise.

    `resize` and `crop` in pixels; `mean` and `std` per channel for values scaled to 0..1.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class LinkSpec:
    """A wireless network: throughputs in Mbit/s, power P = alpha * throughput + beta in mW (Huang et al. 2012).

    `beta_down_mw`: beta while receiving, where it differs.
    """

    name: str
    uplink_mbps: float
    downlink_mbps: float
    alpha_up_mw_per_mbps: float
    alpha_down_mw_per_mbps: float
    beta_mw: float
    rtt_ms: float = 0.0
    beta_down_mw: float | None = None

    def __post_init__(self) -> None:
        for name in ("uplink_mbps", "downlink_mbps"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be a positive number, not {value}")
        for name in ("alpha_up_mw_per_mbps", "alpha_down_mw_per_mbps", "beta_mw", "rtt_ms", "beta_down_mw"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"the link's {name} must be 0 or more, not {value}")


# The document layers.json, which two rooms write and a third reads.
LAYERS_FORMAT = "bottlekit-layers"
LAYERS_VERSION = 1


def groups_to_measure(count: int, sample: bool) -> list[tuple[int, int]]:
    """The contiguous groups (first, last) of `count` layers that a layer profile measures.

    All of them; with `sample` single layers and the groups from the first or to the last, which are O(count).
    """
    return [
        (first, last)
        for first in range(count)
        for last in range(first, count)
        if not sample or first == last or first == 0 or last == count - 1
    ]
