"""`bottlekit bench --emulate`: a profile of a machine that is not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bottlekit.cli.common import command_line, emit, say, stdout_console
from bottlekit.errors import UsageError


def bench_emulated(
    bundle: Path,
    target: str,
    out: Path,
    phases: Sequence[str] | None,
    emulate: bool,
    mode: str | None,
    precision: str | None,
    measuring: Sequence[str],
    csv: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Write and show the emulated profile of a bundle or fleet; `measuring` names options given that only measure.

    UsageError for --emulate-mode or --emulate-precision without --emulate, and for an option that measures.
    """
    from bottlekit import __version__
    from bottlekit.build.emulation import emulated_profile, emulation_of
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.files import whole_file, write_json
    from bottlekit.report.render import csv_from_table, markdown_from_table, rich_from_table
    from bottlekit.report.setups import phases_table
    from bottlekit.targets.loader import target_from_name

    if not emulate:
        option = "--emulate-precision" if mode is None else "--emulate-mode"
        raise UsageError(f"{option} is for --emulate, which computes times for a target that is not here")
    if measuring:
        raise UsageError(f"--emulate runs nothing, so {', '.join(measuring)} has no meaning with it; leave it out")
    emulation = emulation_of(target_from_name(target), mode, precision)
    profile = emulated_profile(fleet_from_path(str(bundle)), emulation, phases, __version__, command_line())
    table = phases_table(profile, f"Phases on an emulated {target}, {emulation.mode}, {emulation.precision}")
    write_json(str(out), profile)
    for path, text in ((csv, csv_from_table(table)), (markdown, markdown_from_table(table))):
        if path is not None:
            with whole_file(str(path)) as temporary:
                Path(temporary).write_text(text, encoding="utf-8")
    emit(profile, lambda: stdout_console().print(rich_from_table(table, stdout_console().width)), as_json)
    unknown = sorted(
        {name for entry in profile["bundles"] for p in entry["phases"].values() for name in p["bytes_only"]}
    )
    if unknown:
        say(f"counted by the bytes they move only, their operations are not known: {', '.join(unknown)}")
    say(f"wrote {out}; next: bottlekit plan {out} --link wifi")
