"""The verb `bottlekit serve-layers`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import QuietOption, say, set_quiet
from bottlekit.errors import UsageError


def serve_layers(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER.onnx", help="The classifier of the schedules.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --tls.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 picks a free one and prints it.")] = 9091,
    threads: Annotated[int | None, typer.Option(help="Threads for one segment; all cores without it.")] = None,
    max_clients: Annotated[int, typer.Option(help="Most clients at once.")] = 16,
    max_mib: Annotated[int, typer.Option(help="The largest message, in MiB.")] = 64,
    tls: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Encrypt, and let in only devices with a certificate of the same CA."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen for other machines although nothing keeps anybody out.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON (host, port, pid, model) once clients can connect."),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Run any layers of an ONNX classifier for clients with schedules, until Ctrl-C or SIGTERM.

    Which layers, the client's schedule says. The client is `bottlekit infer --plan`, with the same file.

        bottlekit serve-layers classifier.onnx --port 9091
    """
    from bottlekit.build.onnx_segments import OnnxSegments
    from bottlekit.device.access import Access
    from bottlekit.device.segments.server import SegmentLimits, SegmentServer
    from bottlekit.device.segments.source import Span
    from bottlekit.device.segments.work import Inference

    set_quiet(quiet)
    for option, value, least, most in (
        ("--port", port, 0, 65535),
        ("--max-clients", max_clients, 1, 1024),
        ("--max-mib", max_mib, 1, 1024),
    ):
        if not least <= value <= most:
            raise UsageError(f"{option} must be {least} to {most}, not {value}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    limits = SegmentLimits(connections=max_clients, frame_bytes=max_mib << 20)
    access = Access(str(tls) if tls else None)
    with OnnxSegments(classifier, threads) as segments:

        def work_for(network: str, spans: list[Span], settings: dict[str, str]) -> Inference:
            return Inference(segments, network, spans, settings.get("exact") == "1")

        with SegmentServer(work_for, host, port, limits, say, access, insecure) as server:
            where, number = server.address
            if as_json:
                model = {"name": classifier.stem, "sha256": segments.sha256, "layers": segments.count}
                print(json.dumps({"host": where, "port": number, "pid": os.getpid(), "model": model}), flush=True)
            say(f"listening on {where}:{number}, {segments.count} layers of {classifier.name}")
            server.run(until_signal=True)
    say("stopped")
