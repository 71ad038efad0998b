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

    `payload_bytes` sent for an image, `latency_ms`, `server_per_s` requests at `images_per_s` images; and
    `deadline_ms` for each single image.
    """

    payload_bytes: Optional[float] = None
    latency_ms: Optional[float] = None
    server_per_s: Optional[float] = None
    images_per_s: Optional[float] = None
    deadline_ms: Optional[float] = None


# What a remote answer's times tell of the server.
_SERVERS = ("queue", "decode", "tail")
# How a bound is written: bytes=20,deadline-ms=50
_WRITTEN = {
    "bytes": "payload_bytes",
    "latency-ms": "latency_ms",
    "server-per-s": "server_per_s",
    "images-per-s": "images_per_s",
    "deadline-ms": "deadline_ms",
}


def bounds_from_text(text: str) -> Bounds:
    """Bounds as they are written, `bytes=20,deadline-ms=50`. UsageError for anything else."""
    found: Dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in _WRITTEN:
            raise UsageError(
                "--exit-policy has no bound '{}'; there are: {}, as bytes=20,deadline-ms=50".format(
                    name, ", ".join(_WRITTEN)
                )
            )
        try:
            found[_WRITTEN[name]] = float(value)
        except ValueError:
            raise UsageError("--exit-policy: {} needs a number, not '{}'".format(name, value))
        if not 0 < found[_WRITTEN[name]] < float("inf"):
            raise UsageError("--exit-policy: {} must be more than 0, not {}".format(name, value))
    bounds = Bounds(**found)
    if bounds.images_per_s is not None and bounds.server_per_s is None:
        raise UsageError("--exit-policy: images-per-s says how many images come; it bounds nothing by itself")
    return bounds


def written(bounds: Bounds) -> Dict[str, float]:
    """The bounds that are set, by the names they are written with."""
    return {name: getattr(bounds, field) for name, field in _WRITTEN.items() if getattr(bounds, field) is not None}


class Costs(NamedTuple):
    """What one image costs: `head_ms` always, `offload_ms` and `payload_bytes` on top where it is sent."""

    head_ms: float
    offload_ms: float
    payload_bytes: float


def largest_share(bounds: Bounds, costs: Costs) -> float:
    """The largest share of images that may be offloaded under all bounds, 0..1.

    A deadline holds for each image, so it lets all be sent or none. Raises UsageError for a bound that is not
    positive, a load without a rate of images, or a latency or deadline that the head alone exceeds.
    """
    for name, value in zip(bounds._fields, bounds):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError("the bound {} must be a positive number, not {}".format(name, value))
    shares = [1.0]
    if bounds.payload_bytes is not None and costs.payload_bytes > 0:
        shares.append(bounds.payload_bytes / costs.payload_bytes)
    for limit_ms in (bounds.latency_ms, bounds.deadline_ms):
        if limit_ms is not None and costs.head_ms > limit_ms:
            raise UsageError(
                "no threshold keeps {:g} ms: the device's own part takes {:g} ms".format(limit_ms, costs.head_ms)
            )
    if bounds.latency_ms is not None and costs.offload_ms > 0:
        shares.append((bounds.latency_ms - costs.head_ms) / costs.offload_ms)
    if bounds.deadline_ms is not None and costs.head_ms + costs.offload_ms > bounds.deadline_ms:
        shares.append(0.0)
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


def reached(bounds: Bounds, answers: Sequence[Any], seconds: float) -> Dict[str, Any]:
    """What became of the bounds over a run of images, ExitAnswers or AdaptiveAnswers, that took so many seconds:
    {"bounds" as they are written, "reached" and "kept" by the same names, "missed": how many images missed the
    deadline}. For the deadline, "reached" is the slowest image."""
    if not answers:
        raise UsageError("there is nothing to report: no image was classified")
    count = len(answers)
    sent = sum(answer.payload_bytes > 0 for answer in answers)
    taken = [latency_ms(answer) for answer in answers]
    limit_ms = bounds.deadline_ms
    missed = 0 if limit_ms is None else sum(one_ms > limit_ms for one_ms in taken)
    images_per_s = bounds.images_per_s or count / max(seconds, 1e-9)
    values = {
        "bytes": sum(answer.payload_bytes for answer in answers) / count,
        "latency-ms": sum(taken) / count,
        "deadline-ms": max(taken),
        "server-per-s": images_per_s * sent / count,
    }
    asked = written(bounds)
    names = [name for name in asked if name in values]
    return {
        "bounds": asked,
        "reached": {name: values[name] for name in names},
        "kept": {name: values[name] <= asked[name] for name in names},
        "missed": missed,
    }


def latency_ms(answer: Any) -> float:
    """What an ExitAnswer or AdaptiveAnswer took on the device's clock; the server's own times are within the round
    trip."""
    within = _SERVERS if "round_trip" in answer.times_ms else ()
    return float(sum(value for name, value in answer.times_ms.items() if name not in within))


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
