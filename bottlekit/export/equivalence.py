"""The gate: two ways to compute a network must agree, or nothing is written.

    Network = the four functions of one split network, whoever computes them (torch, ONNX Runtime, ...)

    reference (torch)    image -> head -> feature -> codec -> decoded -> tail -> logits
                           |        |         |                  |        |        |
    compared               |   feature   codes (as codes)        +--------+-- logits from the same decoded feature
                           |
    candidate (ONNX)     image -> full / tail(head) / tail(codec(head)) / baseline -> logits

A lossy coder stands between the halves, and it is not continuous: one code that rounds the other way can move
many decoded values. So the whole pipe is compared image by image where both sides have the same codes, and where
they have not, from the candidate's payload on; the codes themselves are held to differ by one step, rarely.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bottlekit.device.codecs import Codec
from bottlekit.device.quantizer import quantize
from bottlekit.errors import EquivalenceError
from bottlekit.export.sessions import Array, Function

Codes = npt.NDArray[np.uint8]

# Two FP32 implementations add the same products in another order. A sum of k products is then off by about
# sqrt(k) * 2^-24 of its size (4e-6 for ResNet's widest convolution, k = 4608), and every layer passes the error on:
# backbones from MobileNet to ResNet-152 end at 1e-6 to 1e-5 of the largest value, one wrong weight well above 1e-3.
# A network that misses this amplifies rounding so much that its FP32 output is not reproducible anywhere.
RELATIVE = 1e-4
# For a tensor that is nearly zero everywhere, where "of the largest value" means nothing.
ABSOLUTE = 1e-5
# A code differs only where the feature lies within the error above of a rounding boundary: 2 * 255 * 1e-5 of the
# codes for a typical error. A larger fraction means another feature.
CODES_DIFFERING = 0.01


@dataclasses.dataclass(frozen=True)
class Network:
    """One split network as functions from (n, ...) to (n, ...), FP32.

    head: image -> feature. tail: feature -> logits. full: image -> logits without the codec.
    split: image -> logits with the codec. baseline: the uncompressed backbone, if there is one.
    """

    head: Function
    tail: Function
    full: Function
    split: Function
    baseline: Function | None


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the reference makes of `images` (n, 3, h, w), stage by stage, and its tail for other features.

    feature, codes, decoded (n, c, h', w'); logits = tail(decoded), split, full, baseline (n, classes).
    """

    images: Array
    feature: Array
    codes: Codes
    decoded: Array
    logits: Array
    split: Array
    full: Array
    baseline: Array | None
    tail: Function


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared, over how many samples in batches of `batch`, and how it came out.

    `max_abs`, `mean_abs` and `tolerance` are in the unit of what was compared; codes also have the fraction
    that differs, logits the fraction of samples with the same first class.
    """

    what: str
    samples: int
    batch: int
    max_abs: float
    mean_abs: float
    tolerance: float
    passed: bool
    codes_differing: float | None = None
    top1_agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without the fields that do not apply."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def __str__(self) -> str:
        codes = "" if self.codes_differing is None else f", {self.codes_differing:.2%} of the codes differ"
        return (
            f"{self.what}: differs by up to {self.max_abs:.3g} (tolerance {self.tolerance:.3g}{codes}) "
            f"over {self.samples} samples in batches of {self.batch}"
        )


def tolerance_for(reference: Array, relative: float = RELATIVE) -> float:
    """The largest difference that is still rounding, for values of this size."""
    return float(ABSOLUTE + relative * np.max(np.abs(reference)))


def compare_values(what: str, reference: Array, candidate: Array, batch: int) -> Comparison:
    """Features (n, c, h, w): the largest difference must be rounding."""
    difference = _difference(what, reference, candidate)
    tolerance = tolerance_for(reference)
    largest = float(difference.max())
    return Comparison(
        what, len(reference), batch, largest, float(difference.mean()), tolerance, passed=largest <= tolerance
    )


def compare_logits(what: str, reference: Array, candidate: Array, batch: int) -> Comparison:
    """Logits (n, classes): as values; the first classes can then differ only in a tie, and are counted."""
    agreement = float(np.mean(reference.argmax(axis=1) == candidate.argmax(axis=1)))
    return dataclasses.replace(compare_values(what, reference, candidate, batch), top1_agreement=agreement)


def compare_codes(what: str, reference: Codes, candidate: Codes, batch: int) -> Comparison:
    """Codes (n, c, h, w): they may differ by one step, and rarely."""
    steps = np.abs(reference.astype(np.int16) - candidate.astype(np.int16))
    differing = int(np.count_nonzero(steps))
    # One code may always fall on the other side: of 64 codes it is more than the fraction allows.
    rare = differing <= max(1, CODES_DIFFERING * steps.size)
    return Comparison(
        what,
        len(reference),
        batch,
        max_abs=float(steps.max()),
        mean_abs=float(steps.mean()),
        tolerance=1.0,
        passed=bool(rare and steps.max() <= 1),
        codes_differing=differing / steps.size,
    )


def codes_of(features: Array, bits: int) -> Codes:
    """The codes uint8 (n, c, h, w) of features (n, c, h, w), each quantised with its own range."""
    return np.stack([quantize(feature, bits)[0] for feature in features])


def codec_codes(features: Array, codec: Codec) -> Codes:
    """The codes uint8 (n, c, h, w) that a codec gives features (n, c, h, w), each alone."""
    return np.stack([codec.codes(feature) for feature in features])


def expected_from_network(network: Network, codec: Codec, images: Array) -> Expected:
    """Run the reference once over `images` (n, 3, h, w)."""
    feature = network.head(images)
    decoded = _round_trip(codec, feature)
    return Expected(
        images=images,
        feature=feature,
        codes=codec_codes(feature, codec),
        decoded=decoded,
        logits=network.tail(decoded),
        split=network.split(images),
        full=network.full(images),
        baseline=None if network.baseline is None else network.baseline(images),
        tail=network.tail,
    )


def compare_network(
    expected: Expected, candidate: Network, codec: Codec, batch: int, name: str = "onnx"
) -> list[Comparison]:
    """All comparisons of the drawing above; `name` is the candidate's file ending.

    `batch` is how many images the candidate takes at a time; it is recorded, the candidate itself cuts them up.
    """
    feature = candidate.head(expected.images)
    comparisons = [compare_values(f"head.{name} feature", expected.feature, feature, batch)]
    codes = codec_codes(feature, codec)
    decoded = _round_trip(codec, feature)
    split = expected.split.copy()
    for place in range(len(split)):
        if not np.array_equal(codes[place], expected.codes[place]):
            # Another code, another payload: what follows is judged from the candidate's payload on.
            split[place] = expected.tail(decoded[place : place + 1])[0]
    logits = (
        ("the network with its codec = its tail(codec(head))", expected.split, expected.logits),
        (f"tail.{name} logits", expected.logits, candidate.tail(expected.decoded)),
        (f"tail.{name}(head.{name}) logits", expected.full, candidate.tail(feature)),
        (f"full.{name} logits", expected.full, candidate.full(expected.images)),
        (f"tail.{name}(codec(head.{name})) logits", split, candidate.tail(decoded)),
    )
    comparisons.append(compare_codes(f"head.{name} codes", expected.codes, codes, batch))
    comparisons += [compare_logits(what, ours, theirs, batch) for what, ours, theirs in logits]
    if expected.baseline is not None and candidate.baseline is not None:
        theirs = candidate.baseline(expected.images)
        comparisons.append(compare_logits(f"baseline.{name} logits", expected.baseline, theirs, batch))
    return comparisons


def require(comparisons: list[Comparison]) -> None:
    """Raise EquivalenceError naming everything that differs, and by how much; do nothing if all passed."""
    failed = [str(comparison) for comparison in comparisons if not comparison.passed]
    if failed:
        raise EquivalenceError(
            "the exported graphs do not compute what the network computes, so nothing was written: "
            + "; ".join(failed)
        )


def _round_trip(codec: Codec, features: Array) -> Array:
    """The features (n, c, h, w) as the other side receives them."""
    return np.stack([codec.decode(codec.encode(feature)) for feature in features])


def _difference(what: str, reference: Array, candidate: Array) -> Array:
    """|reference - candidate|, or EquivalenceError if they cannot be compared."""
    if reference.shape != candidate.shape:
        raise EquivalenceError(f"{what}: has shape {candidate.shape}, and {reference.shape} was expected")
    if not np.isfinite(reference).all():
        raise EquivalenceError(f"{what}: the network itself gives NaN or infinity; train it again")
    if not np.isfinite(candidate).all():
        raise EquivalenceError(f"{what}: has NaN or infinite values where the network has none")
    difference: Array = np.abs(reference - candidate)
    return difference
