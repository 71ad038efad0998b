"""Tables: what they accept, and that every rendering keeps every number and its label."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bottlekit.errors import ReportError
from bottlekit.report.render import (
    csv_from_table,
    html_from_table,
    markdown_from_table,
    number_text,
    rich_from_table,
    values_from_table,
)
from bottlekit.report.table import MARKS, ORIGINS, Cell, Column, Table, combined_origin, with_best

TABLE = Table(
    "Three setups",
    (
        Column("setup", "setup"),
        Column("accuracy", "accuracy", "%"),
        Column("latency_3g_ms", "latency", "ms", "3G"),
        Column("energy_3g_mj", "energy", "mJ", "3G"),
    ),
    with_best(
        [
            (Cell("mobile-only"), Cell(0.9861, "measured"), Cell(15.7, "measured"), Cell(None)),
            (
                Cell("collaborative"),
                Cell(0.97, "measured"),
                Cell(3.125, "modelled+measured"),
                Cell(0.25, "emulated"),
            ),
        ],
        (2,),
    ),
    note="on 360 images",
)


def printed(table: Table, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(rich_from_table(table, width))
    return out.getvalue()


@given(st.lists(st.sampled_from(list(ORIGINS)), min_size=1))
def test_combined_origin_names_each_once_in_order(words: list[str]) -> None:
    combined = combined_origin(words).split("+")
    assert set(combined) == set(words)
    assert combined == [word for word in ORIGINS if word in combined]
    assert combined_origin(reversed(words)) == combined_origin(["+".join(words)]) == "+".join(combined)


@pytest.mark.parametrize("words", [[], ["guessed"], ["measured", "simulated"], [""], ["measured+"]])
def test_combined_origin_refuses_other_words(words: list[str]) -> None:
    with pytest.raises(ReportError, match="measured, modelled, emulated"):
        combined_origin(words)


@pytest.mark.parametrize("value", [1, 1.5, 0, -3.0])
def test_a_number_needs_an_origin(value: float) -> None:
    with pytest.raises(ReportError, match="its origin must be"):
        Cell(value)


@pytest.mark.parametrize("value", ["words", None])
def test_words_have_no_origin(value: str | None) -> None:
    with pytest.raises(ReportError, match="is no number"):
        Cell(value, "measured")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_is_finite(value: float) -> None:
    with pytest.raises(ReportError, match="finite"):
        Cell(value, "measured")


def test_a_column_has_a_known_unit() -> None:
    with pytest.raises(ReportError, match="'seconds'; there are: %, .%, B, ms, mJ, mW, each"):
        Column("latency", "latency", "seconds")


def test_rows_are_as_long_as_the_columns() -> None:
    with pytest.raises(ReportError, match="2 columns and a row of 1"):
        Table("t", (Column("a", "a"), Column("b", "b")), ((Cell("x"),),))


def test_columns_have_different_keys() -> None:
    with pytest.raises(ReportError, match="two columns of one name: a, a"):
        Table("t", (Column("a", "a"), Column("a", "b")), ())


def test_best_is_the_lowest_and_ties_are_all_best() -> None:
    rows = [(Cell("a"), Cell(2, "measured")), (Cell("b"), Cell(1.0, "measured")), (Cell("c"), Cell(1, "modelled"))]
    assert [row[1].best for row in with_best(rows, [1])] == [False, True, True]
    assert not any(row[0].best for row in with_best(rows, [1]))
    assert with_best([(Cell(None),)], [0]) == ((Cell(None),),)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9861, "%", "98.6"),
        (1, "%", "100.0"),
        (26766.4, "B", "26,766"),
        (0.0423, "ms", "0.042"),
        (3.125, "ms", "3.12"),
        (15.74, "mJ", "15.7"),
        (196.2, "ms", "196"),
        (0, "ms", "0.000"),
    ],
)
def test_numbers_are_written_for_people(value: float, unit: str, text: str) -> None:
    assert number_text(value, unit) == text


def test_markdown() -> None:
    assert markdown_from_table(TABLE) == (
        "| setup | accuracy % | 3G latency ms | 3G energy mJ |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| mobile-only | 98.6 ● | 15.7 ● | – |\n"
        "| collaborative | 97.0 ● | **3.12** ●○ | 0.250 ◇ |\n"
        "\n"
        "● measured · ○ modelled · ◇ emulated\n"
        "\n"
        "on 360 images\n"
    )


def test_markdown_cannot_be_broken_by_names() -> None:
    table = Table("t", (Column("name", "a|b"),), ((Cell("x|y\n**bold** <script>"),),))
    assert markdown_from_table(table).splitlines()[2] == "| x\\|y \\*\\*bold\\*\\* &lt;script&gt; |"


def test_csv_keeps_full_numbers_and_the_words() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_from_table(TABLE))))
    assert rows[1] == {
        "setup": "collaborative",
        "accuracy": "0.97",
        "accuracy_origin": "measured",
        "latency_3g_ms": "3.125",
        "latency_3g_ms_origin": "measured+modelled",
        "energy_3g_mj": "0.25",
        "energy_3g_mj_origin": "emulated",
    }
    assert rows[0]["energy_3g_mj"] == rows[0]["energy_3g_mj_origin"] == ""


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
)
def test_csv_reads_back_what_was_put_in(number: float, name: str) -> None:
    table = Table("t", (Column("n", "n"), Column("x_ms", "x", "ms")), ((Cell(name), Cell(number, "measured")),))
    rows = list(csv.reader(io.StringIO(csv_from_table(table), newline="")))
    assert rows[0] == ["n", "x_ms", "x_ms_origin"]
    assert rows[1:] == [[" ".join(name.split()), repr(number), "measured"]]


def test_csv_puts_words_on_one_line() -> None:
    table = Table("t", (Column("n", "n"),), ((Cell("two\r\nlines"),),))
    assert csv_from_table(table) == "n\ntwo lines\n"


def test_values_for_json() -> None:
    assert values_from_table(TABLE)[0] == {
        "setup": "mobile-only",
        "accuracy": {"value": 0.9861, "origin": "measured"},
        "latency_3g_ms": {"value": 15.7, "origin": "measured"},
        "energy_3g_mj": None,
    }


def test_html_labels_every_number_in_words() -> None:
    page = html_from_table(TABLE)
    for word in ORIGINS:
        cells = sum(word in cell.origin for row in TABLE.rows for cell in row)
        assert page.count(f'<i class="origin {word}">{word}</i>') == cells > 0
    assert page.count("<tr>") == 4
    assert '<th scope="colgroup" colspan="2">3G</th>' in page
    assert '<td class="number best"><b>3.12</b>' in page


def test_html_escapes() -> None:
    bad = "<script>alert('x')</script>&"
    page = html_from_table(Table(bad, (Column("a", bad), Column("b", "b", "ms", bad)), ((Cell(bad), Cell(None)),)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_the_terminal_shows_every_number_at_every_width(width: int) -> None:
    text = printed(TABLE, width)
    for expected in ("98.6 ●", "15.7 ●", "3.12 ●○", "0.250 ◇", "● measured   ○ modelled   ◇ emulated"):
        assert expected in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_narrow_terminal_gets_more_tables_not_folded_ones() -> None:
    assert printed(TABLE, 200).count("collaborative") == 1
    assert printed(TABLE, 40).count("collaborative") == 2


def test_the_terminal_takes_names_as_they_are() -> None:
    table = Table("[red]t", (Column("a", "a"),), ((Cell("[bold]x"),),), note="[blink]n")
    assert {"[red]t", "[bold]x", "[blink]n"} <= {line.strip() for line in printed(table, 80).splitlines()}


def test_the_legend_explains_every_mark_that_occurs() -> None:
    assert TABLE.legend == "● measured   ○ modelled   ◇ emulated"
    assert set(MARKS) == set(ORIGINS)
    assert Table("t", (Column("a", "a"),), ((Cell("x"),),)).legend == ""
