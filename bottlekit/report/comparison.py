"""A comparison for people and for programs.

Comparison -> comparison_table    -> terminal, Markdown, CSV
Comparison -> comparison_document -> comparison.json
"""

from __future__ import annotations

from typing import Any

from bottlekit.report.changes import Change, Found, Key
from bottlekit.report.compare import Comparison, Judgement
from bottlekit.report.likeness import Difference, difference_words
from bottlekit.report.table import Cell, Column, Table, combined_origin

FORMAT = "bottlekit-comparison"
VERSION = 1

VERDICTS = {
    "fails": "beyond the limit, and the interval excludes no change",
    "uncertain": "beyond the limit, but the interval includes no change: it may be noise",
    "passes": "within the limit",
}


def comparison_table(comparison: Comparison, before: str, after: str) -> Table:
    """One row a change: both values, the change with its interval, and what the conditions say.

    `before` and `after` are the headings of the values, the names of the two files.
    """
    with_verdicts = bool(comparison.judgements)
    columns = (
        Column("bundle", "bundle"),
        Column("phase", "phase"),
        Column("metric", "metric"),
        Column("before", before if before != after else f"{before}, before", "each"),
        Column("after", after, "each"),
        Column("change", "change", "+%"),
        Column("change_low", "from", "+%"),
        Column("change_high", "to", "+%"),
        *((Column("verdict", "verdict"),) if with_verdicts else ()),
        Column("remark", "remark"),
    )
    rows = []
    for change in comparison.changes:
        verdicts = [_verdict_words(one) for one in comparison.judgements if one.change is change]
        rows.append(
            (
                Cell(change.bundle),
                Cell(change.phase or "whole"),
                Cell(change.metric.title),
                _value(change, change.before),
                _value(change, change.after),
                *_change_cells(change),
                *((Cell(", ".join(verdicts) or None),) if with_verdicts else ()),
                Cell(change.missing or change.remark or None),
            )
        )
    if all(row[-1].value is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    title = f"{_emulated(comparison)}{before} and {after}"
    return Table(title, columns, tuple(rows), note=_note(comparison))


def _emulated(comparison: Comparison) -> str:
    sides = [side for change in comparison.changes for side in (change.before, change.after)]
    return "Partly emulated: " if any("emulated" in side.origin for side in sides) else ""


def _value(change: Change, side: Found) -> Cell:
    return Cell(None) if side.value is None else Cell(side.value, side.origin, unit=change.metric.unit)


def _change_cells(change: Change) -> tuple[Cell, Cell, Cell]:
    if change.change is None:
        return Cell(None), Cell(None), Cell(None)
    origin = combined_origin([change.before.origin, change.after.origin])
    low, high = change.interval or (None, None)
    of_interval = [Cell(None) if end is None else Cell(end, origin) for end in (low, high)]
    return Cell(change.change, origin), of_interval[0], of_interval[1]


def _verdict_words(judgement: Judgement) -> str:
    return f"{judgement.verdict} {judgement.condition.text}"


def _note(comparison: Comparison) -> str:
    sureness = comparison.options.sureness
    parts = [
        f"change with its {100 * sureness.confidence:g} % interval (latencies: block bootstrap of the raw samples, "
        f"{sureness.resamples:,} times, seed {sureness.seed}; energies: Welch's t over repeats; bytes: counted)"
    ]
    said = {judgement.verdict for judgement in comparison.judgements}
    parts += [f"{verdict}: {meaning}" for verdict, meaning in VERDICTS.items() if verdict in said]
    if comparison.unlike:
        parts.append(f"compared although they differ: {difference_words(comparison.unlike)}")
    parts += comparison.trust
    for words, keys in (("before", comparison.only_before), ("after", comparison.only_after)):
        if keys:
            parts.append(f"only {words}: {', '.join(f'{phase} of {bundle}' for bundle, phase in keys)}")
    return "; ".join(parts)


def comparison_document(comparison: Comparison, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The comparison as JSON values; `before` and `after` say which files were compared."""
    sureness = comparison.options.sureness
    return {
        "format": FORMAT,
        "version": VERSION,
        "before": before,
        "after": after,
        "confidence": sureness.confidence,
        "resamples": sureness.resamples,
        "seed": sureness.seed,
        "unlike": [_difference_values(one) for one in comparison.unlike],
        "only_before": [_key_values(key) for key in comparison.only_before],
        "only_after": [_key_values(key) for key in comparison.only_after],
        "changes": [_change_values(change) for change in comparison.changes],
        "verdicts": [
            {
                "condition": judgement.condition.text,
                "verdict": judgement.verdict,
                "change": comparison.changes.index(judgement.change),
            }
            for judgement in comparison.judgements
        ],
        "failed": comparison.failed,
    }


def _difference_values(difference: Difference) -> dict[str, Any]:
    return {
        "field": difference.field,
        "where": difference.where or None,
        "before": difference.before,
        "after": difference.after,
    }


def _key_values(key: Key) -> dict[str, str]:
    return {"bundle": key[0], "phase": key[1]}


def _change_values(change: Change) -> dict[str, Any]:
    return {
        "bundle": change.bundle,
        "phase": change.phase or None,
        "metric": change.metric.name,
        "unit": {"%": "fraction"}.get(change.metric.unit, change.metric.unit),
        "before": _side_values(change.before),
        "after": _side_values(change.after),
        "change": change.change,
        "change_low": None if change.interval is None else change.interval.low,
        "change_high": None if change.interval is None else change.interval.high,
        "why_not": change.missing or None,
        "remark": change.remark or None,
    }


def _side_values(side: Found) -> dict[str, Any]:
    return {"value": side.value, "origin": side.origin or None, "count": side.count or None}
