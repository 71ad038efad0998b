"""Comparing an engine with the golden outputs that travel in its bundle, on the machine it was built for.

::

    part        golden input     golden output
    head        image            feature, and codes once quantised
    tail        decoded          logits
    full        image            full_logits
    baseline    image            baseline_logits

No latency is reported for an engine whose outputs were not compared.
"""

from typing import Any, Dict, Tuple

import numpy as np

from .bundle import Bundle
from .errors import CodecError, EngineError
from .quantizer import quantize
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


def golden_input(bundle: Bundle, part: str) -> np.ndarray:
    """The golden input of a part, (k, c, h, w) float32."""
    return bundle.golden()[_INPUTS[part]]


def compare_with_golden(runner: Runner, bundle: Bundle, part: str) -> Dict[str, Any]:
    """Run a part (its runner is inside `with`) on the golden inputs and compare what comes out.

    Returns what goes into the sidecar: compared (true), samples, max_abs, mean_abs and tolerance in the unit of
    the output; for the head also codes_differing (a fraction) and codes_max_step; for the others
    top1_agreement (a fraction).

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
    tolerance = ABSOLUTE + RELATIVE * float(np.abs(expected).max())
    report: Dict[str, Any] = {
        "compared": True,
        "samples": len(expected),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "tolerance": tolerance,
    }
    if part == "head":
        report["codes_differing"], report["codes_max_step"] = _compare_codes(
            where, actual, golden["codes"], bundle.codec.bits
        )
    else:
        report["top1_agreement"] = float(np.mean(actual.argmax(axis=1) == expected.argmax(axis=1)))
    if report["max_abs"] > tolerance:
        raise EngineError(
            "{} does not give the bundle's golden outputs: it differs by {:.3g}, and {:.3g} is allowed".format(
                where, report["max_abs"], tolerance
            )
        )
    return report


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


def _compare_codes(where: str, feature: np.ndarray, codes: np.ndarray, bits: int) -> Tuple[float, int]:
    """The fraction of codes that differ and the largest step; EngineError if they are other codes."""
    try:
        ours = np.stack([quantize(one, bits)[0] for one in feature]).astype(np.int16)
    except CodecError as error:
        raise EngineError("{}: {}".format(where, error))
    steps = np.abs(ours - codes)
    differing, largest = int(np.count_nonzero(steps)), int(steps.max())
    # One code may always fall on the other side: of a few dozen it is more than the fraction allows.
    if largest > 1 or differing > max(1, CODES_DIFFERING * steps.size):
        raise EngineError(
            "{} does not give the bundle's codes: {} of {} differ, by up to {} steps".format(
                where, differing, steps.size, largest
            )
        )
    return differing / steps.size, largest
