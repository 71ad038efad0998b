"""Comparing an engine with the golden outputs that travel in its bundle, on the machine it was built for.

::

    part        golden input     golden output
    head        image            feature, and codes once quantised; exit_logits where it has exits
    tail        decoded          logits
    full        image            full_logits
    baseline    image            baseline_logits

A head that quantises on the GPU is judged by its codes and what they stand for; a tail that dequantises there is
fed the codes of what was decoded.

No latency is reported for an engine whose outputs were not compared.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from .bundle import Bundle
from .codecs import Codec
from .codes import STATUS, codes_again, feeds_from_quantised, gives_codes, quantised_from_outputs, takes_codes
from .errors import CodecError, EngineError, UnknownNameError
from .quantizer import dequantize, levels_from_bits, quantize
from .runner import Runner, TensorInfo

_INPUTS = {"head": "image", "tail": "decoded", "full": "image", "baseline": "image"}
_OUTPUTS = {"head": "feature", "tail": "logits", "full": "full_logits", "baseline": "baseline_logits"}

# What the outputs of a head with exits are called, and their golden values.
_EXIT = "exit_logits"

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


def golden_feeds(bundle: Bundle, part: str, inputs: List[TensorInfo]) -> Dict[str, np.ndarray]:
    """What a runner of a part with these inputs is fed for all golden samples at once."""
    samples = golden_input(bundle, part)
    if not takes_codes(inputs):
        return {inputs[0].name: samples}
    features = bundle.golden()["feature"]
    return feeds_from_quantised([codes_again(one, of, bundle.codec) for one, of in zip(samples, features)])


def compare_with_golden(
    runner: Runner, bundle: Bundle, part: str, tolerance: Tolerance = TOLERANCES["fp32"]
) -> Dict[str, Any]:
    """Run a part (its runner is inside `with`) on the golden inputs and compare what comes out.

    Returns what goes into the sidecar: compared (true), judged_as (the tolerance's name), samples, max_abs,
    mean_abs and tolerance in the unit of the output, mean_tolerance where the mean is judged; for the head also
    codes_differing (a fraction) and codes_max_step; for the others top1_agreement (a fraction). Where a head gives
    codes, the differences are of what they stand for, and a step of the quantiser is allowed on top.

    EngineError, naming the part and by how much it differs, when the outputs are not those of the bundle.
    """
    golden = bundle.golden()
    where = "the {} of {}".format(part, bundle.name)
    outputs = _run_all(runner, golden_feeds(bundle, part, runner.inputs))
    if part == "tail" and STATUS in outputs and outputs[STATUS].any():
        raise EngineError("{} refuses codes of the bundle's own codec; build it again".format(where))
    step = 0.0
    if part == "head" and gives_codes(runner.outputs):
        codes, actual = _quantised(where, outputs, bundle.codec)
        expected, step = _golden_restored(bundle)
    else:
        actual, expected = outputs[runner.outputs[0].name], golden[_OUTPUTS[part]]
        codes = None
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
        "tolerance": ABSOLUTE + tolerance.largest * float(np.abs(expected).max()) + step,
    }
    if tolerance.mean is not None:
        report["mean_tolerance"] = ABSOLUTE + tolerance.mean * float(np.abs(expected).mean()) + step / 2
    if part == "head":
        if codes is None:
            codes = _codes_of(where, actual, bundle.codec)
        report["codes_differing"], report["codes_max_step"] = _compare_codes(
            where, codes, golden["codes"], tolerance
        )
        exits = {name: _compare_exit(where, name, outputs, golden[name], tolerance) for name in _exits_of(golden)}
        if exits:
            report["exits"] = exits
    else:
        same = int(np.count_nonzero(actual.argmax(axis=1) == expected.argmax(axis=1)))
        report["top1_agreement"] = same / len(expected)
    _judge(where, report, tolerance)
    return report


def _exits_of(golden: Dict[str, np.ndarray]) -> List[str]:
    return sorted(name for name in golden if name.startswith(_EXIT))


def _compare_exit(
    where: str, name: str, outputs: Dict[str, np.ndarray], expected: np.ndarray, tolerance: Tolerance
) -> Dict[str, Any]:
    """The comparison of one exit's logits (k, classes), as that of any other output; EngineError if they differ."""
    what = "{} ({})".format(where, name)
    if name not in outputs or outputs[name].shape != expected.shape or not np.isfinite(outputs[name]).all():
        raise EngineError("{} does not give the exit's logits of the bundle; build it again".format(what))
    difference = np.abs(outputs[name].astype(np.float64) - expected)
    same = int(np.count_nonzero(outputs[name].argmax(axis=1) == expected.argmax(axis=1)))
    report = {
        "samples": len(expected),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "tolerance": ABSOLUTE + tolerance.largest * float(np.abs(expected).max()),
        "top1_agreement": same / len(expected),
    }
    if tolerance.mean is not None:
        report["mean_tolerance"] = ABSOLUTE + tolerance.mean * float(np.abs(expected).mean())
    _judge(what, report, tolerance)
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
    """A one-input graph's first output over (k, ...): one sample at a time, or as many as its batch size says."""
    return _run_all(runner, {runner.inputs[0].name: samples})[runner.outputs[0].name]


def _run_all(runner: Runner, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """All outputs of a graph over (k, ...) of each input, as `run_in_batches`."""
    batch = runner.inputs[0].shape[0] or 1
    count = len(feeds[runner.inputs[0].name])
    parts: List[Dict[str, np.ndarray]] = []
    for start in range(0, count, batch):
        chunks = {name: samples[start : start + batch] for name, samples in feeds.items()}
        filled = min(batch, count - start)
        # A last batch that is not full is filled with copies of its last sample.
        full = {
            name: np.concatenate([chunk, np.repeat(chunk[-1:], batch - filled, axis=0)])
            for name, chunk in chunks.items()
        }
        parts.append({name: output[:filled] for name, output in runner.run(full).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _quantised(where: str, outputs: Dict[str, np.ndarray], codec: Codec) -> Tuple[np.ndarray, np.ndarray]:
    """The codes that a head gave, and the features that they stand for, (k, c, h, w) each."""
    try:
        images = quantised_from_outputs(outputs, codec.shape)
        restored = [dequantize(one.codes, one.low, one.high, codec.bits) for one in images]
    except CodecError as error:
        raise EngineError("{}: {}".format(where, error))
    return np.stack([one.codes for one in images]), np.stack(restored)


def _golden_restored(bundle: Bundle) -> Tuple[np.ndarray, float]:
    """The features that the golden codes stand for, and the largest step between two codes."""
    golden, codec = bundle.golden(), bundle.codec
    ranges = [quantize(feature, codec.bits, codec.value_range)[1:] for feature in golden["feature"]]
    restored = [dequantize(one, low, high, codec.bits) for one, (low, high) in zip(golden["codes"], ranges)]
    return np.stack(restored), max(high - low for low, high in ranges) / levels_from_bits(codec.bits)


def _codes_of(where: str, features: np.ndarray, codec: Codec) -> np.ndarray:
    try:
        return np.stack([codec.codes(one) for one in features])
    except CodecError as error:
        raise EngineError("{}: {}".format(where, error))


def _compare_codes(where: str, ours: np.ndarray, codes: np.ndarray, tolerance: Tolerance) -> Tuple[float, int]:
    """The fraction of codes that differ and the largest step; EngineError if they are other codes."""
    steps = np.abs(ours.astype(np.int16) - codes)
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
