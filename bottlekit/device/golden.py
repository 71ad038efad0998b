"""Comparing an engine with the golden outputs that travel in its bundle, on the machine it was built for.

::

    part        golden input     golden output
    head        image            feature, and codes once quantised
    tail        decoded          logits
    full        image            full_logits
    baseline    image            baseline_logits

No latency is reported for an engine whose outputs were not compared.
"""

from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from .bundle import Bundle
from .codecs import Codec
from .errors import CodecError, EngineError, UnknownNameError
from .runner import Runner

_INPUTS = {"head": "image", "tail": "decoded", "full": "image", "baseline": "image"}
_OUTPUTS = {"head": "feature", "tail": "logits", "full": "full_logits", "baseline": "baseline_logits"}

# Two FP32 implementations add the same products in another order: through fifty layers that stays below 1e-4 of
# the largest value of a tensor, and one wrong weight does ten times as much. The absolute part is for tensors
# that are nearly zero everywhere.
RELATIVE = 1e-4
ABSOLUTE = 1e-5
# Codes jump where a feature lies on a rounding boundary: by one step, and rarely.
CODES_DIFFERING = 0.01


class Tolerance(NamedTuple):
    """How far an engine's outputs may lie from the golden ones.

    `largest` bounds the largest difference, as a fraction of the largest golden value; `mean` the mean difference,
    as a fraction of the mean magnitude, where that is judged. Of the codes, the fraction `codes_differing` may
    differ, and the fraction `codes_beyond` of all may do so by more than one step. `classes_differing` is the
    fraction of samples whose best class may change, where two classes nearly tie.
    """

    name: str
    largest: float
    mean: Optional[float]
    codes_differing: float
    codes_beyond: float
    classes_differing: float


# What the arithmetic of each precision may do to the outputs.
# FP16 has 11 significant bits (5e-4), and rounds weights and activations, layer after layer. ResNet-18 and -50 in
# FP16 on a CPU differ by 1e-3 to 9e-3 on average, and a tenth of their 8-bit codes by one step, a few by two.
# INT8 has 7 bits for a magnitude: a trained ResNet-18 differs by 2e-2 on average, ResNet-50 with random weights by
# 8e-2, and half of the 8-bit codes by more than a step.
TOLERANCES = {
    "fp32": Tolerance("fp32", RELATIVE, None, CODES_DIFFERING, 0.0, 0.1),
    "fp16": Tolerance("fp16", 5e-2, 1e-2, 0.25, 0.01, 0.1),
    "int8": Tolerance("int8", 0.25, 0.1, 1.0, 0.75, 0.2),
}


def tolerance_from_name(name: str) -> Tolerance:
    """The tolerance of a precision; UnknownNameError with those that exist."""
    if name not in TOLERANCES:
        raise UnknownNameError("tolerance", name, TOLERANCES)
    return TOLERANCES[name]


def golden_input(bundle: Bundle, part: str) -> np.ndarray:
    """The golden input of a part, (k, c, h, w) float32."""
    return bundle.golden()[_INPUTS[part]]


def compare_with_golden(
    runner: Runner, bundle: Bundle, part: str, tolerance: Tolerance = TOLERANCES["fp32"]
) -> Dict[str, Any]:
    """Run a part (its runner is inside `with`) on the golden inputs and compare what comes out.

    Returns what goes into the sidecar: compared (true), judged_as (the tolerance's name), samples, max_abs,
    mean_abs and tolerance in the unit of the output, mean_tolerance where the mean is judged; for the head also
    codes_differing (a fraction) and codes_max_step; for the others top1_agreement (a fraction).

    EngineError, naming the part and by how much it differs, when the outputs are not those of the bundle.
    """
    golden = bundle.golden()
    expected = golden[_OUTPUTS[part]]
    actual = run_in_batches(runner, golden[_INPUTS[part]])
    where = "the {} of {}".format(part, bundle.name)
    if actual.shape != expected.shape:
        raise EngineError("{} gives {}, and the bundle says {}".format(where, actual.shape, expected.shape))
    if not np.isfinite(actual).all():
        raise EngineError("{} gives NaN or infinity where the bundle's golden outputs have none".format(where))
    difference = np.abs(actual.astype(np.float64) - expected)
    report: Dict[str, Any] = {
        "compared": True,
        "judged_as": tolerance.name,
        "samples": len(expected),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "tolerance": ABSOLUTE + tolerance.largest * float(np.abs(expected).max()),
    }
    if tolerance.mean is not None:
        report["mean_tolerance"] = ABSOLUTE + tolerance.mean * float(np.abs(expected).mean())
    if part == "head":
        report["codes_differing"], report["codes_max_step"] = _compare_codes(
            where, actual, golden["codes"], bundle.codec, tolerance
        )
    else:
        same = int(np.count_nonzero(actual.argmax(axis=1) == expected.argmax(axis=1)))
        report["top1_agreement"] = same / len(expected)
    _judge(where, report, tolerance)
    return report


def _judge(where: str, report: Dict[str, Any], tolerance: Tolerance) -> None:
    """Raise EngineError for the first measure of a report that is beyond what is allowed."""
    for measure, allowed, words in (
        ("max_abs", "tolerance", "it differs by {:.3g}, and {:.3g} is allowed"),
        ("mean_abs", "mean_tolerance", "it differs by {:.3g} on average, and {:.3g} is allowed"),
    ):
        if allowed in report and report[measure] > report[allowed]:
            raise EngineError(
                "{} does not give the bundle's golden outputs: {}".format(
                    where, words.format(report[measure], report[allowed])
                )
            )
    samples = report["samples"]
    changed = round((1 - report.get("top1_agreement", 1)) * samples)
    if changed > _allowed(tolerance.classes_differing, samples):
        raise EngineError(
            "{} does not give the bundle's golden classes: {} of {} differ".format(where, changed, samples)
        )


def _allowed(fraction: float, count: int) -> int:
    """How many of `count` may differ: of a few dozen, one is more than the fraction says, and allowed."""
    return max(1, int(fraction * count)) if fraction > 0 else 0


def run_in_batches(runner: Runner, samples: np.ndarray) -> np.ndarray:
    """A one-input, one-output graph over (k, ...): one sample at a time, or as many as its batch size says."""
    info = runner.inputs[0]
    batch = info.shape[0] or 1
    outputs = []
    for start in range(0, len(samples), batch):
        chunk = samples[start : start + batch]
        # A last batch that is not full is filled with copies of its last sample.
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
        outputs.append(runner.run({info.name: filled})[runner.outputs[0].name][: len(chunk)])
    return np.concatenate(outputs)


def _compare_codes(
    where: str, feature: np.ndarray, codes: np.ndarray, codec: Codec, tolerance: Tolerance
) -> Tuple[float, int]:
    """The fraction of codes that differ and the largest step; EngineError if they are other codes."""
    try:
        ours = np.stack([codec.codes(one) for one in feature]).astype(np.int16)
    except CodecError as error:
        raise EngineError("{}: {}".format(where, error))
    steps = np.abs(ours - codes)
    differing, beyond = int(np.count_nonzero(steps)), int(np.count_nonzero(steps > 1))
    if beyond > _allowed(tolerance.codes_beyond, steps.size) or differing > _allowed(
        tolerance.codes_differing, steps.size
    ):
        raise EngineError(
            "{} does not give the bundle's codes: {} of {} differ, by up to {} steps".format(
                where, differing, steps.size, int(steps.max())
            )
        )
    return differing / steps.size, int(steps.max())
