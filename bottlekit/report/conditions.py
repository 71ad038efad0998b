"""What must not happen between two profiles: `p95>+5%`, `energy_mj>+3%`, `accuracy<-0.5points`.

    METRIC (> or <) SIGNED NUMBER (% or the metric's own unit)

The number is a change: `p95>+5%` speaks of a 95th percentile that rose by more than 5 %. Its sign is written out,
and points where the comparison points: a condition that two equal runs fulfil would fail every run.
"""

from __future__ import annotations

import dataclasses
import math
import re

from bottlekit.errors import UnknownNameError, UsageError


@dataclasses.dataclass(frozen=True)
class Metric:
    """Something that can be compared.

    `unit` is as in a table's column; `word` is what conditions call it; `per_phase` is False for what belongs to a
    bundle as a whole; `percentile` is None for what is none; `lower_is_better` says which way is worse.
    """

    name: str
    title: str
    unit: str
    word: str
    per_phase: bool = True
    percentile: int | None = None
    lower_is_better: bool = True


METRICS = {
    metric.name: metric
    for metric in (
        Metric("p50", "p50", "ms", "ms", percentile=50),
        Metric("p90", "p90", "ms", "ms", percentile=90),
        Metric("p95", "p95", "ms", "ms", percentile=95),
        Metric("p99", "p99", "ms", "ms", percentile=99),
        Metric("mean_ms", "mean", "ms", "ms"),
        Metric("energy_mj", "energy", "mJ", "mJ"),
        Metric("net_energy_mj", "energy above idle", "mJ", "mJ"),
        Metric("payload_bytes", "payload", "B", "B", per_phase=False),
        Metric("accuracy", "accuracy", "%", "points", per_phase=False, lower_is_better=False),
    )
}

FORM = "METRIC, > or <, a signed number, % or a unit: 'p95>+5%', 'energy_mj>+3%', 'accuracy<-0.5points'"
_CONDITION = re.compile(r"\s*(\w+)\s*([<>])\s*([+-])\s*(\d+(?:\.\d*)?|\.\d+)\s*([%A-Za-z]*)\s*\Z")


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition: the `metric` changed by more than `amount`, up (">") or down ("<").

    `amount` is signed. `unit` is "%" (of the value before), or the metric's own word, in which the difference of
    the two values is then counted: ms, mJ, B, percentage points.
    """

    text: str
    metric: Metric
    direction: str
    amount: float
    unit: str

    def beyond(self, before: float, after: float) -> bool:
        """Whether the change from one value to the other is beyond the limit.

        Values are in ms, mJ and bytes, accuracies fractions 0..1. `before` must not be 0 for a change in percent.
        """
        if self.unit == "%":
            change = 100.0 * (after - before) / before
        else:
            change = (100.0 if self.unit == "points" else 1.0) * (after - before)
        return change > self.amount if self.direction == ">" else change < self.amount

    def off_zero(self, low: float, high: float) -> bool:
        """Whether an interval of the change lies on the condition's side of no change, all of it."""
        return low > 0.0 if self.direction == ">" else high < 0.0


def condition_from_text(text: str) -> Condition:
    """The condition that a text says.

    Raises UnknownNameError for a metric that does not exist, UsageError for anything else that is no condition.
    """
    match = _CONDITION.match(text)
    if match is None:
        raise UsageError(f"'{text}' is no condition; write {FORM}; metrics: {', '.join(METRICS)}")
    name, direction, sign, digits, unit = match.groups()
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS, hint=f"A condition is {FORM}")
    metric = METRICS[name]
    if unit not in ("%", metric.word):
        asked = f"'{unit}'" if unit else "no unit"
        raise UsageError(f"'{text}' has {asked}; a change of {name} is counted in % or in {metric.word}")
    amount = float(sign + digits)
    if not math.isfinite(amount):
        raise UsageError(f"'{text}' has no finite number; write {FORM}")
    if (direction == ">") != (sign == "+"):
        raise UsageError(
            f"'{text}' holds for two equal runs, and would always fail; write '>' with '+' for a rise, "
            "'<' with '-' for a fall"
        )
    return Condition(text.strip(), metric, direction, amount, unit)
