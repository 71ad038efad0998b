"""Two profiles side by side: what changed from one to the other, how surely, and whether that is too much.

    two profiles --(likeness.py)--> taken alike? --> phases that both have
        --(changes.py, intervals.py)--> Change --(conditions.py)--> Judgement --> Comparison

A condition that cannot be judged somewhere, as there is no value, is refused: a check that silently checks less is
none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from bottlekit.errors import UnknownNameError, UsageError
from bottlekit.report.changes import Change, Key, bundle_changes, phase_changes
from bottlekit.report.conditions import METRICS, Condition, Metric
from bottlekit.report.intervals import USUAL, Sureness, checked_sureness
from bottlekit.report.likeness import Difference, check_alike, differences
from bottlekit.report.profiles import phases_of_profile
from bottlekit.report.setups import Values, emulation_words

USUAL_METRICS = ("p50", "p95", "energy_mj", "payload_bytes", "accuracy")
"""What is compared when nobody says what to compare."""

# How many of the places where a condition cannot be judged are told.
_MOST_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare, and how surely.

    `bundles`, `phases` and `metrics` keep only those named, if any are; `despite` are fields that may differ (see
    `likeness`); `sureness` is how intervals are made.
    """

    conditions: Sequence[Condition] = ()
    metrics: Sequence[str] = ()
    bundles: Collection[str] = ()
    phases: Collection[str] = ()
    despite: Collection[str] = ()
    sureness: Sureness = USUAL

    @property
    def asked(self) -> frozenset[str]:
        """The metrics that somebody named, in a condition or by themselves."""
        return frozenset(self.metrics) | {condition.metric.name for condition in self.conditions}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a condition says of a change.

    `fails`: the change is beyond the limit, and its interval excludes no change. `uncertain`: beyond the limit, but
    its interval includes no change, so that it may be noise. `passes`: within the limit.
    """

    condition: Condition
    change: Change
    verdict: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that was found: changes, judgements, in what the profiles differ, and what only one of them has.

    `trust` says how far to trust emulated times, a sentence for each profile that has any.
    """

    changes: Sequence[Change]
    judgements: Sequence[Judgement]
    unlike: Sequence[Difference]
    only_before: Sequence[Key]
    only_after: Sequence[Key]
    options: Options
    trust: Sequence[str] = ()

    @property
    def failed(self) -> bool:
        """Whether any condition holds of any change."""
        return any(judgement.verdict == "fails" for judgement in self.judgements)


def compared(
    before: Values, after: Values, options: Options, before_name: str = "before", after_name: str = "after"
) -> Comparison:
    """Compare two profiles; the names are those of their files, for the errors.

    Raises:
        UsageError: one was interrupted, they were not taken alike or have no phase in common, or a condition
            cannot be judged somewhere.
        UnknownNameError: a metric, bundle, phase or field that does not exist.
    """
    for name, profile in ((before_name, before), (after_name, after)):
        if profile.get("partial"):
            raise UsageError(f"{name} is partial, its measurement was interrupted: run `bottlekit bench` again")
    firsts, seconds = _phases(before, options), _phases(after, options)
    _check_options(options, (before, after))
    common = [key for key in firsts if key in seconds]
    if not common:
        raise UsageError(
            f"{before_name} and {after_name} have no phase in common: {_listed(firsts)} against {_listed(seconds)}"
        )
    pairs = [(f"{phase} of {bundle}", firsts[bundle, phase], seconds[bundle, phase]) for bundle, phase in common]
    unlike = differences(before, after, pairs)
    check_alike(unlike, options.despite, before_name, after_name)
    metrics = _metrics(options)
    changes = [
        change
        for key in common
        for change in phase_changes(key, firsts[key], seconds[key], metrics, options.sureness)
    ]
    bundles = {bundle for bundle, _ in common}
    changes += bundle_changes(before, after, bundles, metrics, options.sureness)
    # What nobody asked for and neither profile has is no row: an energy where there was no meter.
    changes = [change for change in changes if change.metric.name in options.asked or not change.absent]
    return Comparison(
        changes=changes,
        judgements=[judgement for one in options.conditions for judgement in _judged(one, changes)],
        unlike=unlike,
        only_before=[key for key in firsts if key not in seconds],
        only_after=[key for key in seconds if key not in firsts],
        options=options,
        trust=list(dict.fromkeys(filter(None, (emulation_words(one.get("emulation")) for one in (before, after))))),
    )


def _phases(profile: Values, options: Options) -> dict[Key, Values]:
    return {
        (bundle, phase): timed
        for bundle, phase, timed in phases_of_profile(profile)
        if (not options.bundles or bundle in options.bundles) and (not options.phases or phase in options.phases)
    }


def _check_options(options: Options, profiles: Sequence[Values]) -> None:
    """Names that neither profile has, and numbers that make no interval."""
    keys = [(bundle, phase) for profile in profiles for bundle, phase, _ in phases_of_profile(profile)]
    for kind, asked, known in (
        ("bundle", options.bundles, [bundle for bundle, _ in keys]),
        ("phase", options.phases, [phase for _, phase in keys]),
        ("metric", options.metrics, METRICS),
    ):
        for name in asked:
            if name not in known:
                raise UnknownNameError(kind, name, dict.fromkeys(known))
    checked_sureness(options.sureness)


def _metrics(options: Options) -> list[Metric]:
    """Those asked for and those of the conditions, in the order of `METRICS`; the usual ones without."""
    chosen = options.asked or USUAL_METRICS
    return [metric for metric in METRICS.values() if metric.name in chosen]


def _listed(phases: Mapping[Key, Values]) -> str:
    return ", ".join(f"{phase} of {bundle}" for bundle, phase in phases) or "nothing"


def _judged(condition: Condition, changes: Sequence[Change]) -> list[Judgement]:
    """A condition's judgement of every change of its metric. Raises UsageError where it cannot judge."""
    concerned = [change for change in changes if change.metric == condition.metric]
    missing = [f"{change.where} ({change.missing})" for change in concerned if change.missing]
    if missing or not concerned:
        told = "; ".join(missing[:_MOST_NAMED]) or "neither profile has it"
        more = f"; and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise UsageError(
            f"'{condition.text}' cannot be judged: {told}{more}. Measure "
            "again, or leave out what cannot be judged: name the rest with --phase and --bundle"
        )
    return [Judgement(condition, change, _verdict(condition, change)) for change in concerned]


def _verdict(condition: Condition, change: Change) -> str:
    if not condition.beyond(*change.values):
        return "passes"
    if change.interval is None or condition.off_zero(*change.interval):
        return "fails"
    return "uncertain"
