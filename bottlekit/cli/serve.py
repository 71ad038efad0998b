"""The verb `bottlekit serve`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import EnginesOption, EnginesTargetOption, QuietOption, is_quiet, say, set_quiet
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bottlekit.device.bundle import Bundle
    from bottlekit.device.limits import ServerLimits
    from bottlekit.device.server import Server
    from bottlekit.device.service import RunnerFor
    from bottlekit.serving.triton_connection import TritonServer
    from bottlekit.serving.triton_front import ForwardingServer


def serve(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="A bundle, or a folder of bundles.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --tls or --tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 picks a free one and prints it.")] = 9090,
    engines: EnginesOption = None,
    target: EnginesTargetOption = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one tail; all cores without it.")] = None,
    triton: Annotated[
        str | None,
        typer.Option(
            metavar="grpc://HOST:PORT[,...]",
            help="Have these Triton servers compute, which serve what `bottlekit export-triton` wrote; grpcs:// "
            "with TLS.",
        ),
    ] = None,
    triton_tls: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For grpcs://: ca.pem, the CA of Triton's certificate; cert.pem and key.pem, if it asks for ours.",
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Most requests of one split that are computed together.")] = 16,
    max_wait_ms: Annotated[
        float, typer.Option(help="How long an idle tail waits for more requests before it begins.")
    ] = 0.0,
    queue: Annotated[
        int, typer.Option(help="Most requests that wait for a tail; the next is told to come later.")
    ] = 256,
    max_clients: Annotated[int, typer.Option(help="Most clients at once.")] = 256,
    max_per_client: Annotated[
        int, typer.Option(help="Most connections of one device, token or address; 0: no such limit.")
    ] = 0,
    rate: Annotated[
        float, typer.Option(metavar="PER_SECOND", help="Most requests a second of one client; 0: no such limit.")
    ] = 0.0,
    tls: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Encrypt, and let in only devices with a certificate of the same CA."),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let in only who has one of these tokens: lines of NAME TOKEN."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen for other machines although nothing keeps anybody out.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Answer /health, /status and Prometheus's /metrics there."),
    ] = None,
    log_json: Annotated[
        bool,
        typer.Option("--log-json", help="Log on standard error as JSON, one object a line, refusals included."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON (host, port, pid, bundles) once clients can connect."),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Run the tails of a fleet for clients, until Ctrl-C or SIGTERM.

    Clients are `bottlekit infer` or `bottlekit.device.client.SplitClient`, with the same fleet on their side.
    SIGHUP reads the fleet, the certificates and the tokens again, without dropping a request.

        bottlekit serve fleet/ --port 9090

        bottlekit serve fleet/ --host 0.0.0.0 --tls pki/servers/lab --http 127.0.0.1:9091

        bottlekit serve fleet/ --triton grpc://gpu1:8001,grpc://gpu2:8001
    """
    from bottlekit.device.access import Access
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.device.journal import Journal
    from bottlekit.device.ort_runner import check_threads
    from bottlekit.device.server import Server

    set_quiet(quiet)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be 0 (any free one) to 65535, not {port}")
    if (engines is None) != (target is None):
        raise UsageError("--engines and --target go together: the folder of engines, and whose engines to take")
    check_threads(threads)
    limits = _limits(max_batch, max_wait_ms, queue, max_clients, max_per_client, rate)
    pages_address = _pages_address(http)
    access = Access(str(tls) if tls else None, str(tokens) if tokens else None)

    bundles = fleet_from_path(str(fleet))
    journal = Journal(_silent if log_json else say, _log_json if log_json else _silent)
    common: dict[str, Any] = {
        "host": host,
        "port": port,
        "limits": limits,
        "journal": journal,
        "access": access,
        "insecure": insecure,
        "fleet": lambda: fleet_from_path(str(fleet)),
        "http": pages_address,
    }
    server: Server
    tritons: Callable[[], Sequence[TritonServer]] = tuple
    if triton is not None:
        belongs_there = engines is not None or threads is not None or (max_batch, max_wait_ms) != (16, 0.0)
        forwarding = _forwarding_server(bundles, triton, triton_tls, belongs_there, common)
        server, tritons = forwarding, forwarding.tritons
    elif triton_tls is not None:
        raise UsageError("--triton-tls does nothing without --triton")
    else:
        server = Server(bundles, _runner_for(engines, target, threads), **common)
    if pages_address is not None:
        _add_metrics(server, tritons)
    with server:
        _announce(server, as_json, log_json)
        server.run(until_signal=True)
    _tell("stopped", "stopped", log_json)


def _runner_for(engines: Path | None, target: str | None, threads: int | None) -> RunnerFor:
    from bottlekit.device.service import runner_from_engines, runner_from_onnx

    if engines is not None and target is not None:
        return runner_from_engines(str(engines), target, threads)
    return runner_from_onnx(threads)


def _forwarding_server(
    bundles: list[Bundle], triton: str, tls_folder: Path | None, belongs_there: bool, common: dict[str, Any]
) -> ForwardingServer:
    """A server that has Triton compute; `belongs_there`: options were given that are Triton's to keep."""
    from bottlekit.serving.triton_front import ForwardingServer, ready_page, status_page
    from bottlekit.serving.triton_pool import addresses_from_text

    if belongs_there:
        raise UsageError(
            "--engines, --threads, --max-batch and --max-wait-ms do nothing with --triton; "
            "give them to bottlekit export-triton"
        )
    addresses, encrypted = addresses_from_text(triton)
    if encrypted != (tls_folder is not None):
        raise UsageError(
            "grpcs:// and --triton-tls go together: Triton with TLS, and the folder with the CA of its certificate"
        )
    server = ForwardingServer(bundles, addresses, tls_folder=tls_folder, **common)
    server.pages["/ready"] = ready_page(server)
    server.pages["/status"] = status_page(server)
    return server


def _limits(
    max_batch: int, max_wait_ms: float, queue: int, max_clients: int, max_per_client: int, rate: float
) -> ServerLimits:
    from bottlekit.device.limits import ServerLimits

    for option, value, least, most in (
        ("--max-batch", max_batch, 1, 1024),
        ("--max-wait-ms", max_wait_ms, 0, 10000),
        ("--queue", queue, 1, 1 << 20),
        ("--max-clients", max_clients, 1, 1 << 16),
        ("--max-per-client", max_per_client, 0, 1 << 16),
        ("--rate", rate, 0, 1e6),
    ):
        if not least <= value <= most:
            raise UsageError(f"{option} must be {least} to {most:g}, not {value:g}")
    return ServerLimits(
        connections=max_clients,
        connections_per_client=max_per_client,
        requests_per_s=rate,
        queue=queue,
        max_batch=max_batch,
        max_wait_s=max_wait_ms / 1e3,
    )


def _pages_address(http: str | None) -> tuple[str, int] | None:
    if http is None:
        return None
    from bottlekit.device.wire.addresses import address_from_text

    return address_from_text(http, "--http", least_port=0)


def _add_metrics(server: Server, tritons: Callable[[], Sequence[TritonServer]]) -> None:
    """Prometheus is an extra: without it there are the other pages."""
    from bottlekit.serving.metrics import metrics_page

    try:
        server.pages["/metrics"] = metrics_page(server.statistics, tritons)
    except UsageError as error:
        say(f"no /metrics: {error}")


def _announce(server: Server, as_json: bool, log_json: bool) -> None:
    host, port = server.address
    if as_json:
        announced: dict[str, Any] = {"host": host, "port": port, "pid": os.getpid()}
        announced["bundles"] = [
            {"name": bundle.name, "split": bundle.split["name"], "sha256": bundle.sha256}
            for bundle in server.bundles
        ]
        if server.http_address is not None:
            announced["http"] = "{}:{}".format(*server.http_address)
        print(json.dumps(announced), flush=True)
    names = ", ".join(bundle.name for bundle in server.bundles)
    _tell("listening", f"listening on {host}:{port}, serving {names}", log_json)
    if server.http_address is not None:
        _tell("listening", "health, status and metrics: http://{}:{}/".format(*server.http_address), log_json)


def _tell(event: str, message: str, log_json: bool) -> None:
    if log_json:
        _log_json({"event": event, "message": message})
    else:
        say(message)


def _log_json(fields: dict[str, Any]) -> None:
    """One object a line, with the time first."""
    if is_quiet():
        return
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, **fields}), file=sys.stderr, flush=True)


def _silent(_words: object) -> None:
    """For who does not want this kind of log."""
