"""The HTML report: one page that carries everything and loads nothing.

    DemoReport -> html_report -> one HTML text: style, table and drawings inside, no script, no network

The page's content security policy forbids the browser to load anything, so a report is safe to pass on.
Whatever comes from a user (names of files, classes, commands) is escaped by the template engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bottlekit.report.drawing import Picture, checked_svg
from bottlekit.report.render import html_from_table
from bottlekit.report.setups import Values, chosen_sentence, link_title, phases_table, plan_table
from bottlekit.report.table import MARKS, ORIGINS, Table

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclasses.dataclass(frozen=True)
class ReportFile:
    """A file the run left behind: path relative to the report, what it is, size, SHA-256 in hex."""

    path: str
    what: str
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class DemoReport:
    """Everything the page shows.

    `command` is the line that made it, `steps` the lines that make it again verb by verb; `environment` are
    names and versions in the order to print them; `plans` are plan.json by link name; `profile` is
    profile.json, for the table of phases (None leaves it out); `summary` is what to take away, one sentence.
    """

    title: str
    summary: str
    command: str
    environment: Mapping[str, str]
    table: Table
    pictures: Sequence[Picture]
    plans: Mapping[str, Values]
    files: Sequence[ReportFile] = ()
    steps: Sequence[str] = ()
    profile: Values | None = None


def html_report(report: DemoReport) -> str:
    """The report as one HTML page. Raises ReportError for a picture that is no plain drawing."""
    from markupsafe import Markup

    environment = page_environment()
    return environment.get_template("report.html.j2").render(
        report=report,
        table=Markup(html_from_table(report.table)),
        pictures=safe_pictures(report.pictures),
        plans=[_plan_section(plan) for plan in report.plans.values()],
        phases=None if report.profile is None else Markup(html_from_table(phases_table(report.profile))),
        origins=[{"word": word, "mark": MARKS[word], "meaning": meaning} for word, meaning in ORIGINS.items()],
        style=Markup(environment.get_template("report.css").render()),
    )


def page_environment() -> Environment:
    """The template engine, with the templates of this package; whatever is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("bottlekit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def safe_pictures(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """The pictures for a template: only what this package draws and checks itself is marked as safe."""
    from markupsafe import Markup

    return [
        {
            "title": picture.title,
            "caption": picture.caption,
            "svg": Markup(checked_svg(picture.svg, f"picture '{picture.title}'")),
        }
        for picture in pictures
    ]


def _plan_section(plan: Values) -> dict[str, Any]:
    from markupsafe import Markup

    link = plan["link"]
    return {
        "title": link_title(plan),
        "link": f"{link['uplink_mbps']:g} Mbit/s up, {link['downlink_mbps']:g} Mbit/s down",
        "objective": plan["objective"],
        "chosen": chosen_sentence(plan),
        "table": Markup(html_from_table(plan_table(plan))),
        "assumptions": {
            name.replace("_", " "): value
            for name, value in plan.get("assumptions", {}).items()
            if value is not None
        },
    }
