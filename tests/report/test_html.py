"""The page as text: complete, self-contained, and deaf to what names contain."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from bottlekit.errors import ReportError
from bottlekit.report.drawing import Picture
from bottlekit.report.html import DemoReport, ReportFile, html_report
from bottlekit.report.table import Cell, Column, Table

VOID = {"meta", "link", "br", "img", "use", "path", "image", "rect"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_well_formed_and_complete(report: DemoReport) -> None:
    page = Page(html_report(report))
    assert page.open == []
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {str(attributes["href"]) for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{name}" for name in ("table", "pictures", "plans", "origins", "run", "files", "repeat")}
    assert {link[1:] for link in links} <= ids
    text = " ".join(" ".join(page.words).split())
    for expected in (
        report.title, report.summary, report.command, *report.environment.values(), *report.steps,
        *(picture.caption for picture in report.pictures), "3G", "4G", "Wi-Fi", "collaborative at rb2",
        "ab" * 32, "123,456", report.table.note,
    ):  # fmt: skip
        assert " ".join(expected.split()) in text
    assert sum(tag == "svg" for tag, _ in page.tags) == len(report.pictures)


def test_the_page_is_the_same_each_time(report: DemoReport) -> None:
    assert html_report(report) == html_report(report)


def test_the_page_runs_and_loads_nothing(report: DemoReport) -> None:
    text = html_report(report)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "img", "form"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), target
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "default-src 'none'" in text


BAD = "<script>alert('x')</script>\"'&{{ 1234*5 }}"


def test_whatever_comes_from_outside_is_escaped(report: DemoReport) -> None:
    bad = dataclasses.replace(
        report,
        title=BAD,
        summary=BAD,
        command=BAD,
        environment={BAD: BAD},
        files=[ReportFile(BAD, BAD, 1, BAD)],
        steps=[BAD],
        table=Table(BAD, (Column("a", BAD),), ((Cell(BAD),),), note=BAD),
        pictures=[Picture(BAD, BAD, report.pictures[0].svg)],
    )
    text = html_report(bad)
    assert "<script" not in text
    assert (
        "49"
        not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).partition("</style>")[2].partition("<h2>P")[0]
    )
    assert Page(text).words.count(BAD) >= 10


def test_names_inside_plans_are_escaped(report: DemoReport) -> None:
    plan = {**report.plans["3g"], "assumptions": {BAD: BAD}, "objective": BAD}
    plan["link"] = {**plan["link"], "name": BAD}
    assert "<script" not in html_report(dataclasses.replace(report, plans={"3g": plan}))


def test_a_picture_with_a_script_is_refused(report: DemoReport) -> None:
    picture = Picture("bad", "", "<svg><script>1</script></svg>")
    with pytest.raises(ReportError, match="picture 'bad' is no plain SVG drawing"):
        html_report(dataclasses.replace(report, pictures=[picture]))


def test_optional_sections_can_be_empty(report: DemoReport) -> None:
    least = dataclasses.replace(report, pictures=(), plans={}, files=(), steps=(), profile=None, environment={})
    assert Page(html_report(least)).open == []
