"""The verb `bottlekit report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bottlekit.cli.common import ForceOption, JsonOption, QuietOption, emit, say, set_quiet
from bottlekit.errors import ReportError


def report(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="What `bottlekit bench` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the report.")] = Path("report"),
    link: Annotated[
        list[str] | None,
        typer.Option(
            help="Networks to show the blocks of an inference for: 3g, 4g or wifi; again for more. "
            "Without it, all three.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make tables and pictures of a profile: one self-contained page, Markdown, CSV, SVG and PNG.

    Latency of every phase with all its samples and percentiles, power traces with what was done when, energies, and
    what an inference is made of: head, encode, uplink, decode, tail. Everything says whether it was measured,
    modelled or emulated.

        bottlekit report profile.json -o report/
    """
    from bottlekit.device.files import sha256_of_file, whole_folder
    from bottlekit.planning import LINKS, link_from_name
    from bottlekit.report.profile_report import report_from_profile, write_report
    from bottlekit.report.profiles import profile_from_file

    set_quiet(quiet)
    links = [link_from_name(name) for name in dict.fromkeys(link or LINKS)]
    values = profile_from_file(profile)
    plans, why_no_plans = _plans(values, links, profile)
    made = report_from_profile(values, plans, why_no_plans)
    with whole_folder(str(out), force) as temporary:
        names = write_report(made, Path(temporary))
    result = {
        "profile": str(profile),
        "profile_sha256": sha256_of_file(str(profile)),
        "folder": str(out),
        "files": [{"path": name, "bytes": (out / name).stat().st_size} for name in names],
    }
    emit(result, lambda: print("\n".join(str(out / name) for name in names)), as_json)
    for remark in made.remarks:
        say(remark)
    say(f"wrote {out}; open {out / 'report.html'} in a browser")


def _plans(values: dict[str, Any], links: list[Any], where: Path) -> tuple[dict[str, Any], str]:
    """A plan for each link, or none and why: a profile of some phases only cannot be planned with."""
    from bottlekit.planning import plan_from_profile

    try:
        return {link.name: plan_from_profile(values, link, where=str(where)) for link in links}, ""
    except ReportError as error:
        return {}, str(error)
