"""The options of verbs that work on another machine, and that machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bottlekit.cli.common import say

if TYPE_CHECKING:
    from bottlekit.build.remote import RemoteMachine

HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="USER@HOST",
        help="Do it on that machine, over ssh: what one types after `ssh`. It needs Python 3.6 and numpy; "
        "bottlekit's agent is sent.",
    ),
]
HostPythonOption = Annotated[
    str, typer.Option("--host-python", metavar="COMMAND", help="The Python of that machine, with --host.")
]
DEFAULT_PYTHON = "python3"


def machine_from_options(
    host: str | None, python: str = DEFAULT_PYTHON, timeout_s: float | None = None
) -> RemoteMachine | None:
    """The machine that --host names; None for this one."""
    if host is None:
        return None
    from bottlekit.build.remote import BUILD_TIMEOUT_S, RemoteMachine
    from bottlekit.build.ssh import SshHost

    return RemoteMachine(SshHost(host), say, python, BUILD_TIMEOUT_S if timeout_s is None else timeout_s)
