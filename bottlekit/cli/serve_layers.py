"""The verb `bottlekit serve-layers`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import QuietOption, say, set_quiet
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.segments.server import WorkFor
    from bottlekit.device.segments.source import Span


def serve_layers(
    classifier: Annotated[
        Path | None,
        typer.Argument(metavar="CLASSIFIER", help="The classifier of the schedules: an ONNX file, or a bundle."),
    ] = None,
    training: Annotated[
        bool,
        typer.Option("--training", help="Train layers of networks that clients bring, instead of a classifier."),
    ] = False,
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

    With --training the client is `bottlekit train-layers`, which brings the weights:

        bottlekit serve-layers --training --port 9091
    """
    from bottlekit.device.access import Access
    from bottlekit.device.ort_runner import check_threads
    from bottlekit.device.segments.server import SegmentLimits, SegmentServer

    set_quiet(quiet)
    if (classifier is None) != training:
        raise UsageError(
            "serve-layers takes either a CLASSIFIER.onnx, or --training for networks that clients bring"
        )
    for option, value, least, most in (
        ("--port", port, 0, 65535),
        ("--max-clients", max_clients, 1, 1024),
        ("--max-mib", max_mib, 1, 1024),
    ):
        if not least <= value <= most:
            raise UsageError(f"{option} must be {least} to {most}, not {value}")
    check_threads(threads)
    limits = SegmentLimits(connections=max_clients, frame_bytes=max_mib << 20)
    access = Access(str(tls) if tls else None)
    with contextlib.ExitStack() as stack:
        work_for, model = _training(threads) if classifier is None else _inference(stack, classifier, threads)
        server = stack.enter_context(SegmentServer(work_for, host, port, limits, say, access, insecure))
        where, number = server.address
        if as_json:
            print(json.dumps({"host": where, "port": number, "pid": os.getpid(), "model": model}), flush=True)
        what = "training" if model is None else f"{model['layers']} layers of {model['name']}"
        say(f"listening on {where}:{number}, {what}")
        server.run(until_signal=True)
    say("stopped")


def _inference(
    stack: contextlib.ExitStack, classifier: Path, threads: int | None
) -> tuple[WorkFor, dict[str, Any] | None]:
    """What runs the classifier's layers, and what there is to say of it."""
    from bottlekit.build.onnx_segments import OnnxSegments, classifier_file
    from bottlekit.device.segments.work import Inference

    segments = stack.enter_context(OnnxSegments(classifier_file(classifier), threads))

    def work_for(network: str, spans: list[Span], settings: dict[str, str]) -> Inference:
        return Inference(segments, network, spans, settings.get("exact") == "1")

    return work_for, {"name": classifier.stem, "sha256": segments.sha256, "layers": segments.count}


def _training(threads: int | None) -> tuple[WorkFor, dict[str, Any] | None]:
    from bottlekit.training.together.work import TrainingWork, use_threads

    use_threads(threads)
    return TrainingWork, None
