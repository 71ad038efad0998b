"""A table, rendered: for the terminal, as Markdown, as CSV, as HTML, as JSON values."""

from __future__ import annotations

import csv
import html
import io
from typing import TYPE_CHECKING, Any

from bottlekit.report.table import MARKS, Cell, Column, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

NOTHING = "–"
_STYLES = {"measured": "green", "modelled": "yellow", "emulated": "magenta"}


def number_text(value: float | int, unit: str) -> str:
    """A number as people read it: percent with one digit, whole bytes, times and energies to three digits."""
    if unit in ("%", "+%"):
        return f"{100 * value:{unit[:-1]}.1f}"
    if unit in ("ms", "mJ"):
        digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        return f"{value:,.{digits}f}"
    return f"{value:,.0f}"


def cell_text(cell: Cell, column: Column) -> str:
    """The cell without its marks."""
    if cell.value is None:
        return NOTHING
    if isinstance(cell.value, str):
        return cell.value
    return (
        f"{number_text(cell.value, cell.unit)} {cell.unit}" if cell.unit else number_text(cell.value, column.unit)
    )


def _marked(cell: Cell, column: Column) -> str:
    return f"{cell_text(cell, column)} {cell.marks}".rstrip()


def rich_from_table(table: Table, width: int = 100) -> RenderableType:
    """The table for a terminal of `width` characters.

    Where it does not fit, it is broken between groups of columns into several tables, each with the names
    of the rows, rather than folding numbers.
    """
    from rich.console import Group
    from rich.markup import escape

    parts: list[RenderableType] = [f"[bold]{escape(table.title)}[/bold]"]
    for indices in _fitting(table, width):
        parts += ["", _rich_part(table, indices)]
    if table.origins:
        parts += ["", "   ".join(f"[{_STYLES[word]}]{MARKS[word]}[/] {word}" for word in table.origins)]
    if table.note:
        parts.append(f"[dim]{escape(table.note)}[/dim]")
    return Group(*parts)


def _rich_part(table: Table, indices: list[int]) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    part = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    grouped = any(table.columns[index].group for index in indices)
    for index in indices:
        column = table.columns[index]
        header = "\n".join(_header_lines(column, grouped))
        part.add_column(Text(header, justify="right" if column.unit else "left"), no_wrap=True)
    # Numbers are aligned here, marks behind them, so that digits stand below each other.
    widths = {
        index: max((len(cell_text(row[index], table.columns[index])) for row in table.rows), default=0)
        for index in indices
    }
    for row in table.rows:
        texts = []
        for index in indices:
            cell, column = row[index], table.columns[index]
            words = cell_text(cell, column)
            words = words.rjust(widths[index]) if column.unit else words
            text = Text(words, style="bold" if cell.best or index == 0 else "")
            for position, word in enumerate(cell.origin.split("+") if cell.origin else []):
                text.append((" " if position == 0 else "") + cell.marks[position], style=_STYLES[word])
            texts.append(text)
        part.add_row(*texts)
    return part


def _header_lines(column: Column, grouped: bool) -> list[str]:
    return [column.group, column.title, column.shown_unit] if grouped else [column.title, column.shown_unit]


def _fitting(table: Table, width: int) -> list[list[int]]:
    """Column indices of each part: the first column, then as many groups of columns as fit."""
    widths = [
        max(
            *(len(line) for line in _header_lines(column, True)),
            *(len(_marked(row[index], column)) for row in table.rows),
        )
        for index, column in enumerate(table.columns)
    ]
    groups: list[list[int]] = []
    for index, column in enumerate(table.columns[1:], start=1):
        if groups and column.group and column.group == table.columns[groups[-1][0]].group:
            groups[-1].append(index)
        else:
            groups.append([index])
    parts: list[list[int]] = [[0]]
    for group in groups:
        wide = sum(widths[index] + 2 for index in [*parts[-1], *group])
        if wide > width and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].extend(group)
    return parts


def markdown_from_table(table: Table) -> str:
    """The table as GitHub Markdown, the legend and the note below it."""
    headings = [f"{column.group} {column.heading}".strip() for column in table.columns]
    lines = [
        _markdown_line(headings),
        _markdown_line(["---:" if column.unit else "---" for column in table.columns], escape=False),
    ]
    for row in table.rows:
        cells = []
        for cell, column in zip(row, table.columns, strict=True):
            text = _markdown_text(cell_text(cell, column))
            text = f"**{text}**" if cell.best else text
            cells.append(f"{text} {cell.marks}".rstrip())
        lines.append(_markdown_line(cells, escape=False))
    below = [line for line in (table.legend.replace("   ", " · "), _markdown_text(table.note)) if line]
    return "\n".join([*lines, *(f"\n{line}" for line in below)]) + "\n"


def _markdown_line(cells: list[str], escape: bool = True) -> str:
    return "| " + " | ".join(_markdown_text(cell) if escape else cell for cell in cells) + " |"


def _markdown_text(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join("\\" + letter if letter in "|*_`\\[]" else letter for letter in text)


def csv_from_table(table: Table) -> str:
    """The table as CSV: numbers in full, and after each column of numbers one with the words of its origin.

    Words are put on one line.
    """
    numeric = [bool(column.unit) for column in table.columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for column, has_origin in zip(table.columns, numeric, strict=True):
        header += [column.key, f"{column.key}_origin"] if has_origin else [column.key]
    writer.writerow(header)
    for row in table.rows:
        fields: list[object] = []
        for cell, has_origin in zip(row, numeric, strict=True):
            value = "" if cell.value is None else cell.value
            value = " ".join(value.split()) if isinstance(value, str) else value
            fields += [value, cell.origin] if has_origin else [value]
        writer.writerow(fields)
    return out.getvalue()


def values_from_table(table: Table) -> list[dict[str, Any]]:
    """The rows as JSON values: {"value", "origin"} for a number, the word itself for words."""
    return [
        {
            column.key: {"value": cell.value, "origin": cell.origin} if cell.origin else cell.value
            for cell, column in zip(row, table.columns, strict=True)
        }
        for row in table.rows
    ]


def html_from_table(table: Table) -> str:
    """The table as an HTML `<table>`, everything escaped; the origin of a number is a badge with its word."""
    lines = ["<table>", f"<caption>{html.escape(table.title)}</caption>", "<thead>", *_html_head(table), "</thead>"]
    lines.append("<tbody>")
    for row in table.rows:
        cells = []
        for index, (cell, column) in enumerate(zip(row, table.columns, strict=True)):
            text = html.escape(cell_text(cell, column))
            if index == 0:
                cells.append(f'<th scope="row">{text}</th>')
                continue
            classes = " ".join(name for name, on in (("number", column.unit), ("best", cell.best)) if on)
            badges = "".join(_badge(word) for word in cell.origin.split("+") if word)
            value = f"<b>{text}</b>" if cell.best else f"<span>{text}</span>"
            cells.append(f'<td class="{classes}">{value}{badges}</td>' if classes else f"<td>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>"]
    return "\n".join(lines)


def _badge(word: str) -> str:
    return f'<i class="origin {word}">{word}</i>'


def _html_head(table: Table) -> list[str]:
    """One header row, or two when columns are grouped: columns without a group span both."""
    grouped = any(column.group for column in table.columns)
    first: list[str] = []
    second: list[str] = []
    previous = ""
    for column in table.columns:
        unit = f" <small>{column.shown_unit}</small>" if column.shown_unit else ""
        number = ' class="number"' if column.unit else ""
        title = f"{html.escape(column.title)}{unit}"
        if grouped and column.group:
            second.append(f'<th scope="col"{number}>{title}</th>')
            if column.group != previous:
                span = sum(other.group == column.group for other in table.columns)
                first.append(f'<th scope="colgroup" colspan="{span}">{html.escape(column.group)}</th>')
        else:
            first.append(f'<th scope="col"{number}{" rowspan=2" if grouped else ""}>{title}</th>')
        previous = column.group
    return [f"<tr>{''.join(row)}</tr>" for row in (first, second) if row]
