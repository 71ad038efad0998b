"""A table whose every number says where it comes from.

    profile.json, plan.json --(setups.py)--> Table --(render.py)--> terminal, Markdown, CSV, HTML

A table is defined once and rendered many times, so that no rendering can lose a label or round differently.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from bottlekit.errors import ReportError

ORIGINS = {
    "measured": "timed or counted in this run, on this machine",
    "modelled": "computed from a published model (link throughput and power), not observed",
    "emulated": "computed for, or observed on, a machine or link that stands in for the real one",
}
"""Where a number can come from, and what that word means. A sum of several is written 'measured+modelled'."""

MARKS = {"measured": "●", "modelled": "○", "emulated": "◇"}
"""The sign behind a number where there is no room for the word."""

UNITS = ("", "%", "+%", "B", "ms", "mJ", "mW", "each")


def combined_origin(origins: Iterable[str]) -> str:
    """The label of a number made of others: each origin once, in the order of `ORIGINS`.

    `combined_origin(["modelled", "measured+modelled"])` is `"measured+modelled"`.
    Raises ReportError for a word that is none of `ORIGINS`, and for no word at all.
    """
    words = {word for origin in origins for word in origin.split("+")}
    unknown = sorted(words - set(ORIGINS))
    if unknown or not words:
        raise ReportError(
            f"a number is labelled {unknown or 'with nothing'}; its origin must be one or several of "
            f"{', '.join(ORIGINS)}, joined by '+'"
        )
    return "+".join(word for word in ORIGINS if word in words)


@dataclasses.dataclass(frozen=True)
class Column:
    """One quantity. `key` names it for programs (unit at the end), `title` for people, below `group` if any.

    `unit` is one of `UNITS`: "" for words, "%" for fractions 0..1 shown as percent, "+%" for fractions shown as a
    change in percent, with their sign; "B", "ms", "mJ", "mW"; "each" where every cell has a unit of its own.
    """

    key: str
    title: str
    unit: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ReportError(f"column {self.key!r} has the unit {self.unit!r}; there are: {', '.join(UNITS[1:])}")

    @property
    def heading(self) -> str:
        """Title and unit, for a header of one line."""
        return f"{self.title} {self.shown_unit}".strip()

    @property
    def shown_unit(self) -> str:
        """The unit as a header shows it: nothing where the cells do, and no sign."""
        return "" if self.unit == "each" else self.unit.lstrip("+")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value and where it comes from. A number needs an origin, words and None (nothing there) have none.

    `best` marks the value to look at in its column. `unit` is only for a column whose cells have their own.
    Raises ReportError for a number without an origin and for one that is not finite.
    """

    value: float | int | str | None
    origin: str = ""
    best: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.value, (int, float)):
            if not math.isfinite(self.value):
                raise ReportError(f"a table cannot show {self.value}; it shows finite numbers")
            object.__setattr__(self, "origin", combined_origin([self.origin] if self.origin else []))
        elif self.origin:
            raise ReportError(f"{self.value!r} is no number and cannot be {self.origin}")

    @property
    def marks(self) -> str:
        """The signs of the origin: '●' measured, '●○' measured+modelled."""
        return "".join(MARKS[word] for word in self.origin.split("+") if word)


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns and rows of cells; the first column names the row. `note` is a sentence below the table.

    Raises ReportError when a row has another length than `columns`, or two columns share a key.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ReportError(f"the table '{self.title}' has two columns of one name: {', '.join(keys)}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ReportError(
                    f"the table '{self.title}' has {len(self.columns)} columns and a row of {len(row)} cells"
                )

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins that occur, in the order of `ORIGINS`."""
        words = {word for row in self.rows for cell in row for word in cell.origin.split("+")}
        return tuple(word for word in ORIGINS if word in words)

    @property
    def legend(self) -> str:
        """What the marks mean: '● measured   ○ modelled', or nothing when there is no number."""
        return "   ".join(f"{MARKS[word]} {word}" for word in self.origins)


def with_best(rows: Iterable[tuple[Cell, ...]], columns: Iterable[int]) -> tuple[tuple[Cell, ...], ...]:
    """The rows with the lowest number of each of these columns marked as best (all of them if equal)."""
    marked = [list(row) for row in rows]
    for index in columns:
        values = [cell.value for cell in (row[index] for row in marked) if isinstance(cell.value, (int, float))]
        for row in marked:
            if values and row[index].value == min(values):
                row[index] = dataclasses.replace(row[index], best=True)
    return tuple(tuple(row) for row in marked)
