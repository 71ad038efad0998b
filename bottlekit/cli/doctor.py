"""The verb `bottlekit doctor`."""

from __future__ import annotations

from typing import Any

import typer

from bottlekit.cli.common import JsonOption, emit, stdout_console
from bottlekit.cli.host_options import DEFAULT_PYTHON, HostOption, HostPythonOption, machine_from_options


def doctor(
    host: HostOption = None, host_python: HostPythonOption = DEFAULT_PYTHON, as_json: JsonOption = False
) -> None:
    """Tell what a machine has for building and running engines, what it lacks, and what to type there.

    Without [bold]--host[/bold] it looks at this machine. Ends with exit status 1 if something is missing.
    """
    from bottlekit.device.doctor import report

    machine = machine_from_options(host, host_python)
    found = report() if machine is None else machine.doctor()
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
