"""The verb `bottlekit serve`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlekit.cli.common import QuietOption, say, set_quiet
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.server import Server


def serve(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="A bundle, or a folder of bundles.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 picks a free one and prints it.")] = 9090,
    engines: Annotated[
        Path | None,
        typer.Option(
            help="Folder of engines that `bottlekit build` wrote; without it the bundle's ONNX files run."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Which target's engines to take from --engines.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one tail; all cores without it.")] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON (host, port, pid, bundles) once clients can connect."),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Run the tails of a fleet for clients, until Ctrl-C or SIGTERM.

    Clients are `bottlekit infer` or `bottlekit.device.client.SplitClient`, with the same fleet on their side.
    Nothing encrypts or authenticates the connection: listen on addresses that only your own machines reach.

        bottlekit serve fleet/ --port 9090
    """
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.server import server_from_fleet
    from bottlekit.device.service import runner_from_engines, runner_from_onnx

    set_quiet(quiet)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be 0 (any free one) to 65535, not {port}")
    if (engines is None) != (target is None):
        raise UsageError("--engines and --target go together: the folder of engines, and whose engines to take")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")

    bundles = fleet_from_path(str(fleet))
    if engines is not None and target is not None:
        runner_for = runner_from_engines(str(engines), target, threads)
    else:
        runner_for = runner_from_onnx(threads)
    with server_from_fleet(bundles, host, port, runner_for, say=say) as server:
        _announce(server, as_json)
        server.run(until_signal=True)
    say("stopped")


def _announce(server: Server, as_json: bool) -> None:
    host, port = server.address
    if as_json:
        bundles = [
            {"name": bundle.name, "split": bundle.split["name"], "sha256": bundle.sha256}
            for bundle in server.bundles
        ]
        print(json.dumps({"host": host, "port": port, "pid": os.getpid(), "bundles": bundles}), flush=True)
    say(f"listening on {host}:{port}, serving {', '.join(bundle.name for bundle in server.bundles)}")
