"""Who leaves early: a function of an exit's logits and a threshold, and of nothing else.

    entropy            leaves if the entropy of the softmax, in nats, is below the threshold (0 .. ln classes)
    max-probability    leaves if the largest probability is above the threshold (0 .. 1)

Both are strict: entropy 0 and probability 1 as thresholds let nobody leave. (Conditionally Deep Hybrid Neural
Networks, section 3; BranchyNet.) The label of an image is no argument of anything here: a rule that compares the
loss with the label, as one public implementation does, knows what it is asked to find out.
"""

import math
from typing import List, Optional, Sequence

import numpy as np

from .errors import UnknownNameError, UsageError

RULES = ("entropy", "max-probability")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of logits (..., classes), float64: every machine that has the same logits decides alike."""
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UsageError("the exit's logits hold NaN or infinity; train the network again")
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def entropy(logits: np.ndarray) -> np.ndarray:
    """The entropy in nats of the softmax of logits (..., classes)."""
    shares = probabilities(logits)
    # 0 * log 0 is 0: a probability that underflowed adds nothing.
    logs = np.log(np.where(shares > 0.0, shares, 1.0))
    # The sum of negative terms may be -0.0.
    result: np.ndarray = np.abs((shares * logs).sum(axis=-1))
    return result


def doubt(logits: np.ndarray, rule: str) -> np.ndarray:
    """How unsure the exit is, (...): an image leaves early if this is below `doubt_limit`."""
    check_rule(rule)
    if rule == "entropy":
        return entropy(logits)
    result: np.ndarray = -probabilities(logits).max(axis=-1)
    return result


def doubt_limit(rule: str, threshold: float) -> float:
    """The threshold on the scale of `doubt`."""
    check_rule(rule)
    return threshold if rule == "entropy" else -threshold


def threshold_of_doubt(rule: str, limit: float) -> float:
    """The threshold whose `doubt_limit` is `limit`."""
    return limit if rule == "entropy" else -limit


def leaves_early(logits: np.ndarray, rule: str, threshold: float) -> np.ndarray:
    """Whether the images with these exit logits (..., classes) leave early, bool (...)."""
    checked_threshold(rule, threshold, np.asarray(logits).shape[-1])
    result: np.ndarray = doubt(logits, rule) < doubt_limit(rule, threshold)
    return result


def first_sure(exits: Sequence[np.ndarray], rule: str, thresholds: Sequence[float]) -> Optional[int]:
    """Which of one image's exits answers: the first, in the order of execution, whose logits (classes,) are sure
    enough for its own threshold; None if none is."""
    for place, (logits, threshold) in enumerate(zip(exits, thresholds)):
        if bool(leaves_early(logits, rule, threshold)):
            return place
    return None


def check_rule(rule: str) -> None:
    """Raise UnknownNameError unless `rule` is one of RULES."""
    if rule not in RULES:
        raise UnknownNameError("exit rule", rule, RULES)


def threshold_range(rule: str, classes: int) -> List[float]:
    """[lowest, highest] threshold of a rule: nobody leaves at one end, all but complete doubt at the other."""
    check_rule(rule)
    return [0.0, math.log(classes)] if rule == "entropy" else [0.0, 1.0]


def checked_threshold(rule: str, threshold: float, classes: int) -> float:
    """`threshold` if the rule can use it; UsageError with the range otherwise."""
    low, high = threshold_range(rule, classes)
    # Written thresholds are rounded: ln(10) as 2.3026 is what it means.
    if not (low <= threshold <= high + 1e-4):
        unit = " nats" if rule == "entropy" else ""
        raise UsageError(
            "--exit-threshold must be {:g} to {:.4f}{} for the rule {} with {} classes, not {}".format(
                low, high, unit, rule, classes, threshold
            )
        )
    return float(threshold)
