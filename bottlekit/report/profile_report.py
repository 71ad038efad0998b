"""The report of a profile: tables and pictures for people, made from the raw samples.

    profile.json (+ links) -> ProfileReport -> folder/report.html   one page that carries everything
                                               folder/report.md     the same in Markdown
                                               folder/*.csv         one a table, numbers in full
                                               folder/pictures/*    SVG and PNG

The profile stays the truth: all of this can be made from it again. What the links' models add is marked as
modelled; where a phase was emulated, titles, tables and pictures say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottlekit.report.blocks import blocks_picture, blocks_table
from bottlekit.report.bundles_table import bundles_table
from bottlekit.report.drawing import Picture
from bottlekit.report.energies import energy_table, has_energies
from bottlekit.report.html import page_environment, safe_pictures
from bottlekit.report.latency_picture import latency_pictures
from bottlekit.report.pictures import accuracy_picture, bytes_picture
from bottlekit.report.power_picture import power_pictures
from bottlekit.report.profiles import emulated_words, phases_of_profile
from bottlekit.report.render import csv_from_table, html_from_table, markdown_from_table
from bottlekit.report.setups import Values, emulation_words, phases_table
from bottlekit.report.table import MARKS, ORIGINS, Table


@dataclasses.dataclass(frozen=True)
class ProfileReport:
    """Everything that is shown of a profile.

    `tables` and `pictures` are by the name of their file, without its ending; `remarks` are sentences to know
    before reading the numbers; `environment` is what was measured on.
    """

    title: str
    remarks: Sequence[str]
    tables: Mapping[str, Table]
    pictures: Mapping[str, Picture]
    environment: Mapping[str, str]
    command: str


def report_from_profile(profile: Values, plans: Mapping[str, Values], why_no_plans: str = "") -> ProfileReport:
    """The report of a profile. `plans` are plan.json by link; `why_no_plans` says why there are none."""
    where = profile["environment"].get("cpu") or profile["environment"].get("machine")
    emulated = emulated_words(profile)
    trust = emulation_words(profile.get("emulation"))
    tables = {"phases": phases_table(profile, f"{emulated}Latency of each phase")}
    pictures = _named("latency", latency_pictures(profile))
    if has_energies(profile):
        tables["energy"] = energy_table(profile, f"{emulated}Energy of one inference")
        pictures.update(_named("power", power_pictures(profile)))
    if plans:
        tables["blocks"] = blocks_table(profile, plans, f"{emulated}What an inference is made of", trust)
        pictures["blocks"] = blocks_picture(profile, plans, trust)
    tables["bundles"] = bundles_table(profile)
    pictures["bytes"] = bytes_picture(profile)
    if any(entry["accuracy"] for entry in profile["bundles"]):
        pictures["accuracy"] = accuracy_picture(profile)
    return ProfileReport(
        title=f"{emulated}{profile['target']}{f' on {where}' if where else ''}",
        remarks=_remarks(profile, emulated, why_no_plans),
        tables=tables,
        pictures=pictures,
        environment={
            "bottlekit": str(profile["bottlekit"]),
            **{
                name.replace("_", " "): _words(value)
                for name, value in profile["environment"].items()
                if value is not None
            },
        },
        command=str(profile["command"]),
    )


def _named(kind: str, pictures: Sequence[Picture]) -> dict[str, Picture]:
    return {f"{kind}-{number}": picture for number, picture in enumerate(pictures, start=1)}


def _words(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _remarks(profile: Values, emulated: str, why_no_plans: str) -> list[str]:
    """What to know before reading the numbers."""
    remarks = []
    if profile.get("partial"):
        remarks.append("Partial: the measurement was interrupted, and what follows is what there was by then.")
    if emulated:
        remarks.append(
            f"Emulated ({MARKS['emulated']}) means: {ORIGINS['emulated']}. Nothing emulated was measured."
        )
    trust = emulation_words(profile.get("emulation"))
    if trust:
        remarks.append(f"{trust[0].upper()}{trust[1:]}.")
    unstable = [
        f"{phase} of {bundle}"
        for bundle, phase, timed in phases_of_profile(profile)
        if timed["summary"].get("stable") is False
    ]
    if unstable:
        remarks.append(f"Not stable, the thirds of the run differ by more than a tenth: {', '.join(unstable)}.")
    if not has_energies(profile):
        why = "nothing ran" if emulated == "Emulated: " else "bench ran without --power"
        remarks.append(f"Energy: none, {why}.")
    if why_no_plans:
        remarks.append(f"No blocks of an inference are shown: {why_no_plans}.")
    return remarks


def write_report(report: ProfileReport, folder: Path) -> list[str]:
    """Write the report's files into an existing folder; returns their names, the page first."""
    files: dict[str, bytes] = {
        "report.html": html_from_report(report).encode("utf-8"),
        "report.md": markdown_from_report(report).encode("utf-8"),
    }
    for name, table in report.tables.items():
        files[f"{name}.csv"] = csv_from_table(table).encode("utf-8")
    for name, picture in report.pictures.items():
        # An SVG of its own has no page whose colours it could take: dark ink on white.
        alone = picture.svg.replace('style="', 'color="#16181d" style="background:#ffffff;', 1)
        files[f"pictures/{name}.svg"] = alone.encode("utf-8")
        files[f"pictures/{name}.png"] = picture.png()
    (folder / "pictures").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return list(files)


def html_from_report(report: ProfileReport) -> str:
    """The report as one HTML page that loads nothing. Raises ReportError for a picture that is no plain drawing."""
    from markupsafe import Markup

    environment = page_environment()
    return environment.get_template("profile.html.j2").render(
        report=report,
        tables=[
            {"name": name, "title": table.title, "note": table.note, "html": Markup(html_from_table(table))}
            for name, table in report.tables.items()
        ],
        pictures=safe_pictures(list(report.pictures.values())),
        origins=[{"word": word, "mark": MARKS[word], "meaning": meaning} for word, meaning in ORIGINS.items()],
        style=Markup(environment.get_template("report.css").render()),
    )


def markdown_from_report(report: ProfileReport) -> str:
    """The report as Markdown; pictures are links to its files."""
    parts = [f"# {_line(report.title)}", *report.remarks]
    for table in report.tables.values():
        parts += [f"## {_line(table.title)}", markdown_from_table(table).strip()]
    for name, picture in report.pictures.items():
        parts += [f"## {_line(picture.title)}", f"![{_line(picture.title)}](pictures/{name}.svg)", picture.caption]
    told = "\n".join(f"* {_line(name)}: {_line(value)}" for name, value in report.environment.items())
    parts += ["## What it was measured on", told, "```text\n" + _line(report.command) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())
