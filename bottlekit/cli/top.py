"""The verb `bottlekit top`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from bottlekit.cli.common import JsonOption, emit, stdout_console
from bottlekit.errors import UsageError


def top(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where `bottlekit serve --http` answers.")
    ] = "127.0.0.1:9091",
    every: Annotated[float, typer.Option(metavar="SECONDS", help="How often to look.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once and end; rates are then those since the start.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a server: clients, splits in use, queue, latencies, bytes a second. Ctrl-C ends it.

    The server must have been started with --http:

        bottlekit serve fleet/ --http 127.0.0.1:9091

        bottlekit top 127.0.0.1:9091
    """
    if not 0.1 <= every <= 3600:
        raise UsageError(f"--every must be 0.1 to 3600 seconds, not {every:g}")
    from bottlekit.device.wire.addresses import address_from_text
    from bottlekit.serving.top import status_from_server, view

    host, port = address_from_text(address, "the address")
    status = status_from_server(host, port)
    if as_json or once:
        emit(status, lambda: stdout_console().print(view(status, None)), as_json)
        return
    from rich.live import Live

    with Live(view(status, None), console=stdout_console(), screen=False, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            before, status = status, status_from_server(host, port)
            live.update(view(status, before), refresh=True)
