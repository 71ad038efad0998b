"""Published inference times, and the layers of the networks they are of: what an emulation is fitted to.

emulation/points.toml   who published what: machine, clocks, precision, batch, times
emulation/layers.json   the layers of those networks, written by benchmarks/published_layers.py
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from importlib import resources
from typing import Any

from bottlekit.errors import TargetError
from bottlekit.targets.loader import Peak, TargetSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclasses.dataclass(frozen=True)
class PublishedTimes:
    """Times in ms by network that one source published for one machine at one mode, precision and batch.

    `compiled` is False where no compiler fused the operators: each was a kernel of its own.
    """

    target: str
    mode: str
    precision: str
    batch: int
    compiled: bool
    source: str
    url: str | None
    times_ms: dict[str, float]


@dataclasses.dataclass(frozen=True)
class PublishedNetwork:
    """A network's layers for one image, fused: rows of name, operators ("Conv+Relu"), FLOP, elements read and
    written, weights, and whether it is a convolution that Winograd's algorithm fits. `batch_norm`: a batch norm
    stands behind every convolution, folded into it here.
    """

    input_size: int
    batch_norm: bool
    rows: tuple[tuple[str, str, float, float, float, float, bool], ...]


def emulated_targets() -> tuple[str, ...]:
    """The targets that there are published times for."""
    return tuple(sorted({times.target for times in _times()}))


def published_times(target: str) -> tuple[PublishedTimes, ...]:
    """What was published for a target. TargetError naming those that have something, if it has nothing."""
    found = tuple(times for times in _times() if times.target == target)
    if not found:
        raise TargetError(
            f"the target {target} cannot be emulated: an emulation is fitted to published times, and there are "
            f"none for it; there are for {', '.join(emulated_targets())}"
        )
    return found


def published_network(name: str) -> PublishedNetwork:
    """The layers of a network that a time was published for."""
    return _networks()[name]


def mode_words(peak: Peak) -> tuple[str, ...]:
    """What a mode may be called: "nvpmodel 2 and 3 (MAXP)" is 2, 3 or maxp; "boost clock" is boost."""
    words = "".join(letter if letter.isalnum() else " " for letter in peak.mode.lower()).split()
    return tuple(word for word in words if word not in ("nvpmodel", "and", "clock"))


def peak_from_mode(target: TargetSpec, mode: str) -> Peak:
    """The peaks of a target in the mode of that name. TargetError with the modes that there are."""
    asked = mode.strip().lower()
    for peak in target.peaks:
        if asked == peak.mode.lower() or asked in mode_words(peak):
            return peak
    known = "; ".join(f"{', '.join(mode_words(peak))} ({peak.mode})" for peak in target.peaks)
    raise TargetError(f"{target.name} has no mode {mode!r}; there are: {known}")


@functools.cache
def _times() -> tuple[PublishedTimes, ...]:
    values = tomllib.loads(_text("points.toml"))
    return tuple(
        PublishedTimes(
            target=one["target"],
            mode=one["mode"],
            precision=precision,
            batch=one["batch"],
            compiled=one["compiled"],
            source=one["source"],
            url=one.get("url"),
            times_ms=dict(one[f"{precision}_ms"]),
        )
        for one in values["sets"]
        for precision in ("fp32", "fp16")
        if f"{precision}_ms" in one
    )


@functools.cache
def _networks() -> dict[str, PublishedNetwork]:
    values: dict[str, Any] = json.loads(_text("layers.json"))
    return {
        name: PublishedNetwork(one["input_size"], one["batch_norm"], tuple(tuple(row) for row in one["layers"]))
        for name, one in values.items()
    }


def _text(name: str) -> str:
    return (resources.files("bottlekit.targets") / "emulation" / name).read_text("utf-8")
