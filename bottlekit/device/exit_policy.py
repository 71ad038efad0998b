"""Which threshold to use, when something bounds how many images may be sent; and a report of what happened.

    a byte budget, a latency, a server's load --> the largest share that may be offloaded
    a bundle's curve -----------------------------> the most accurate threshold that stays below it

Tuning an exit to what the moment allows is SPINN's idea (Laskaridis et al. 2020); the curve was measured at export.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .early_exit import ExitAnswer
from .errors import UsageError


class Bounds(NamedTuple):
    """What must hold on average over all images; None bounds nothing.

    `payload_bytes` sent for an image, `latency_ms`, `server_per_s` requests at `images_per_s` images.
    """

    payload_bytes: Optional[float] = None
    latency_ms: Optional[float] = None
    server_per_s: Optional[float] = None
    images_per_s: Optional[float] = None


class Costs(NamedTuple):
    """What one image costs: `head_ms` always, `offload_ms` and `payload_bytes` on top where it is sent."""

    head_ms: float
    offload_ms: float
    payload_bytes: float


def largest_share(bounds: Bounds, costs: Costs) -> float:
    """The largest share of images that may be offloaded under all bounds, 0..1.

    Raises UsageError for a bound that is not positive, a load without a rate of images, or a latency that the
    head alone exceeds.
    """
    for name, value in zip(bounds._fields, bounds):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError("the bound {} must be a positive number, not {}".format(name, value))
    shares = [1.0]
    if bounds.payload_bytes is not None and costs.payload_bytes > 0:
        shares.append(bounds.payload_bytes / costs.payload_bytes)
    if bounds.latency_ms is not None:
        if costs.head_ms > bounds.latency_ms:
            raise UsageError(
                "no threshold keeps {:g} ms: the device's own part takes {:g} ms".format(
                    bounds.latency_ms, costs.head_ms
                )
            )
        if costs.offload_ms > 0:
            shares.append((bounds.latency_ms - costs.head_ms) / costs.offload_ms)
    if bounds.server_per_s is not None:
        if bounds.images_per_s is None:
            raise UsageError("a bound on the server's load needs the number of images per second")
        shares.append(bounds.server_per_s / bounds.images_per_s)
    return min(shares)


def threshold_within(curve: Sequence[Dict[str, Any]], share: float) -> Dict[str, Any]:
    """The point of a bundle's curve with the best accuracy that offloads at most `share`; of equals, the one that
    offloads least. Raises UsageError where even letting everybody leave offloads more."""
    allowed = [point for point in curve if 1.0 - point["early_share"] <= share + 1e-12]
    if not allowed:
        raise UsageError(
            "no threshold offloads at most {:.1%} of the images: the exit cannot answer the rest".format(share)
        )
    return max(allowed, key=lambda point: (point["accuracy"], point["early_share"]))


def report_of_answers(answers: Sequence[ExitAnswer], labels: Optional[Sequence[int]] = None) -> Dict[str, Any]:
    """What happened to a run of images: {"early_share", and for "all", "early" and "offloaded" each {"images",
    "accuracy" (None without labels), "latency_ms", "payload_bytes" and "framed_bytes": means}}; None for a group
    that nobody is in. Labels are looked at here alone, when every decision was made."""
    if not answers:
        raise UsageError("there is nothing to report: no image was classified")
    if labels is not None and len(labels) != len(answers):
        raise UsageError("{} labels for {} answers".format(len(labels), len(answers)))
    every = list(range(len(answers)))
    early = [place for place in every if answers[place].early]
    late = [place for place in every if not answers[place].early]
    return {
        "early_share": len(early) / len(answers),
        "all": _group(answers, labels, every),
        "early": _group(answers, labels, early),
        "offloaded": _group(answers, labels, late),
    }


def latency_ms(answer: ExitAnswer) -> float:
    """What one answer took on the device's clock; the server's own times are within the round trip."""
    names = ["head", "decide", "encode"]
    names += ["round_trip"] if "round_trip" in answer.times_ms else ["decode", "tail"]
    return sum(answer.times_ms.get(name, 0.0) for name in names)


def _group(
    answers: Sequence[ExitAnswer], labels: Optional[Sequence[int]], places: List[int]
) -> Optional[Dict[str, Any]]:
    if not places:
        return None
    count = len(places)
    right = None
    if labels is not None:
        right = sum(answers[place].class_index == labels[place] for place in places) / count
    return {
        "images": count,
        "accuracy": right,
        "latency_ms": sum(latency_ms(answers[place]) for place in places) / count,
        "payload_bytes": sum(answers[place].payload_bytes for place in places) / count,
        "framed_bytes": sum(answers[place].framed_bytes for place in places) / count,
    }
