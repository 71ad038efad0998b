"""What changed from one profile to another: two values of a metric, and the interval of the change.

    phase before, phase after   -> phase_changes  -> Change of every latency and energy
    bundle before, bundle after -> bundle_changes -> Change of bytes and accuracy

Everything is computed from raw samples, not from summaries. A percentile that a side has too few samples for is no
value, and the change says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from bottlekit.device.stats import MINIMUM_COUNTS
from bottlekit.errors import ReportError
from bottlekit.report.conditions import Metric
from bottlekit.report.energies import energy_of_phase
from bottlekit.report.intervals import (
    Estimate,
    Interval,
    Sureness,
    bernoulli_change,
    bootstrap_changes,
    welch_change,
)
from bottlekit.report.profiles import samples_of_phase
from bottlekit.report.setups import Values

Key = tuple[str, str]
"""A phase of a profile: its bundle's name and its own."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One side of a change: a value and its origin, or why there is none.

    A latency has its `raw` samples, an energy the `estimate` of its mean; `count` is how many samples or repeats
    the value is of, 0 for what was counted.
    """

    value: float | None = None
    origin: str = ""
    missing: str = ""
    remark: str = ""
    raw: Sequence[float] = ()
    estimate: Estimate | None = None
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Change:
    """One metric of one phase ("" for the bundle as a whole), before and after.

    `interval` is that of the relative change; None for what was counted or computed, and where there is no
    change to speak of, which `missing` explains.
    """

    bundle: str
    phase: str
    metric: Metric
    before: Found
    after: Found
    interval: Interval | None = None
    missing: str = ""
    remark: str = ""

    @property
    def values(self) -> tuple[float, float]:
        """Both values. Raises ReportError where one is missing."""
        if self.missing or self.before.value is None or self.after.value is None:
            raise ReportError(f"{self.where} cannot be compared: {self.missing}")
        return self.before.value, self.after.value

    @property
    def change(self) -> float | None:
        """The relative change, 0.05 for 5 % more; None where it cannot be told."""
        if self.missing:
            return None
        before, after = self.values
        return after / before - 1.0

    @property
    def absent(self) -> bool:
        """Whether neither side has a value."""
        return self.before.value is None and self.after.value is None

    @property
    def where(self) -> str:
        """'p95 of head of net-rb1'."""
        of_phase = f"{self.phase} of " if self.phase else ""
        return f"{self.metric.name} of {of_phase}{self.bundle}"


def phase_changes(
    key: Key, before: Values, after: Values, metrics: Sequence[Metric], sureness: Sureness
) -> list[Change]:
    """One change for each of the metrics that a phase has; both sides are drawn again once for all of them."""
    changes = [
        _explained(Change(*key, metric, _found(metric, before), _found(metric, after)))
        for metric in metrics
        if metric.per_phase
    ]
    latencies = [change for change in changes if change.before.raw and change.after.raw]
    intervals: dict[Metric, Interval] = {}
    if latencies:
        found = bootstrap_changes(
            latencies[0].before.raw,
            latencies[0].after.raw,
            [change.metric.percentile for change in latencies],
            sureness,
            name="/".join(key),
        )
        intervals = {change.metric: interval for change, interval in zip(latencies, found, strict=True)}
    return [
        dataclasses.replace(change, interval=intervals[change.metric])
        if change.metric in intervals
        else _repeated(change, sureness)
        for change in changes
    ]


def _explained(change: Change) -> Change:
    """The change, with which side misses a value and why. A change from nothing is none."""
    for side, words in ((change.before, "before"), (change.after, "after")):
        if side.missing:
            return dataclasses.replace(change, missing=f"{words}: {side.missing}")
    if not change.before.value:
        return dataclasses.replace(change, missing="before: it is 0")
    return dataclasses.replace(change, remark=change.before.remark or change.after.remark)


def _repeated(change: Change, sureness: Sureness) -> Change:
    """The change of an energy with its interval, from the repeats of both sides."""
    if change.missing:
        return change
    before, after = change.before.estimate, change.after.estimate
    if before is None or after is None:
        return change
    try:
        return dataclasses.replace(change, interval=welch_change(before, after, sureness))
    except ReportError as error:
        return dataclasses.replace(change, missing=str(error))


def _found(metric: Metric, timed: Values) -> Found:
    """A phase's value of a metric."""
    if metric.unit == "mJ":
        energy = energy_of_phase(timed)
        estimate = energy.estimate(net=metric.name == "net_energy_mj")
        if estimate is None:
            return Found(missing=energy.missing or f"{energy.repeats} repeats, an interval needs 2")
        remark = "indicative: a short run" if energy.indicative else ""
        return Found(estimate.mean, timed["origin"], remark=remark, count=energy.repeats, estimate=estimate)
    samples = samples_of_phase(timed)
    if not samples:
        return _computed(metric, timed)
    if metric.percentile is None:
        return Found(float(np.mean(samples)), timed["origin"], raw=samples, count=len(samples))
    needed = MINIMUM_COUNTS[metric.percentile]
    if len(samples) < needed:
        return Found(missing=f"{len(samples)} samples, {metric.name} needs {needed}")
    return Found(float(np.percentile(samples, metric.percentile)), timed["origin"], raw=samples, count=len(samples))


def _computed(metric: Metric, timed: Values) -> Found:
    """A phase that never ran has one time and nothing else: it has a median and a mean."""
    value = timed["summary"].get(metric.name if metric.name == "mean_ms" else f"{metric.name}_ms")
    if value is None:
        return Found(missing=f"no samples, the phase was {timed['origin']}")
    return Found(value, timed["origin"], remark="computed: no interval")


def bundle_changes(
    before: Values, after: Values, names: Collection[str], metrics: Sequence[Metric], sureness: Sureness
) -> list[Change]:
    """Bytes and accuracy of the bundles called `names`, which both profiles have."""
    others = {entry["bundle"]["name"]: entry for entry in after["bundles"]}
    changes = []
    for entry in before["bundles"]:
        name = str(entry["bundle"]["name"])
        for metric in metrics if name in names else ():
            if metric.name == "payload_bytes":
                changes.append(_bytes_change(name, metric, entry["payload_bytes"], others[name]["payload_bytes"]))
            elif metric.name == "accuracy":
                changes.append(_accuracy_change(name, metric, entry, others[name], sureness))
    return changes


def _bytes_change(name: str, metric: Metric, before: Values, after: Values) -> Change:
    """Bytes are counted over held-out images, not sampled: their change has no interval."""
    first, second = (Found(told["mean"], "measured") for told in (before, after))
    return _explained(Change(name, "", metric, first, second))


def _accuracy_change(name: str, metric: Metric, before: Values, after: Values, sureness: Sureness) -> Change:
    first, second = (_accuracy(entry["accuracy"]) for entry in (before, after))
    change = _explained(Change(name, "", metric, first, second))
    # The same bundle has the same accuracy: one number, told twice.
    if change.missing or before["bundle"]["sha256"] == after["bundle"]["sha256"]:
        return change
    images = [int(entry["accuracy"]["images"]) for entry in (before, after)]
    try:
        interval = bernoulli_change(*change.values, images, sureness, name)
    except ReportError as error:
        return dataclasses.replace(change, missing=str(error))
    return dataclasses.replace(change, interval=interval)


def _accuracy(told: Values | None) -> Found:
    if told is None or not told.get("images"):
        return Found(missing="nobody measured an accuracy")
    return Found(told["split"], "measured")
