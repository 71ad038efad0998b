"""The verb `bottlekit doctor`."""

from __future__ import annotations

from typing import Any

import typer

from bottlekit.cli.common import JsonOption, emit, stdout_console


def doctor(as_json: JsonOption = False) -> None:
    """Tell what this machine has for building and running engines, what it lacks, and what to type.

    Ends with exit status 1 if something is missing.
    """
    from bottlekit.device.doctor import report

    found = report()
    emit(found, lambda: _show(found), as_json)
    if not found["complete"]:
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("what", "state", "found", "to do")
    colours = {"ok": "green", "warning": "yellow", "missing": "red"}
    for check in found["checks"]:
        state = f"[{colours[check['state']]}]{check['state']}[/]"
        table.add_row(check["name"], state, check["found"], check["advice"])
    stdout_console().print(table)
