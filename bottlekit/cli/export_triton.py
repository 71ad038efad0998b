"""The verb `bottlekit export-triton`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import (
    EnginesOption,
    EnginesTargetOption,
    ForceOption,
    JsonOption,
    QuietOption,
    command_line,
    emit,
    say,
    set_quiet,
)
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.bundle import Bundle
    from bottlekit.device.engine import Engine


def export_triton(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="A bundle, or a folder of bundles.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the model repository.")] = Path("triton"),
    engines: EnginesOption = None,
    target: EnginesTargetOption = None,
    backend: Annotated[
        str,
        typer.Option(
            help="What runs ONNX files: Triton's own onnxruntime, or python, for a Triton that has only the Python "
            "backend (ONNX Runtime must be installed there)."
        ),
    ] = "onnxruntime",
    max_batch: Annotated[int, typer.Option(help="Most requests of one split that are computed together.")] = 16,
    queue_delay_us: Annotated[
        int, typer.Option(help="How long the first request of a batch waits for others, in microseconds.")
    ] = 0,
    decoders: Annotated[int, typer.Option(help="Processes that decode, for each split.")] = 2,
    tails: Annotated[int, typer.Option(help="Instances of each tail, on each GPU.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one tail on the processor; all cores without it.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole/--no-whole", help="Whole networks too, for cloud-only requests.")
    ] = True,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a fleet as a model repository of NVIDIA Triton.

    Each bundle becomes an ensemble: bottlekit's own decoder, then the tail, with dynamic batching.
    `bottlekit serve FLEET --triton grpc://HOST:8001` then has Triton do the work.

        bottlekit export-triton fleet/ -o triton/

        tritonserver --model-repository=triton/
    """
    from bottlekit.build.agent_pack import pack_agent
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.serving.triton_repository import RepositoryOptions, repository_from_fleet

    set_quiet(quiet)
    if (engines is None) != (target is None):
        raise UsageError("--engines and --target go together: the folder of engines, and whose engines to take")
    bundles = fleet_from_path(str(fleet))
    options = RepositoryOptions(max_batch, queue_delay_us, backend, decoders, tails, threads, whole)
    built = None if engines is None or target is None else _engines(bundles, engines, target)
    written = repository_from_fleet(bundles, out, pack_agent, options, built, force, command_line())
    emit({"path": str(out), **written}, lambda: _show(out, written), as_json)
    say(f"serve it: tritonserver --model-repository={out}")


def _engines(bundles: list[Bundle], engines: Path, target: str) -> dict[str, dict[str, Engine]]:
    from bottlekit.device.engine import engines_for_bundle

    return {bundle.name: engines_for_bundle(str(engines), bundle, target) for bundle in bundles}


def _show(out: Path, written: dict[str, Any]) -> None:
    from rich.table import Table

    from bottlekit.cli.common import stdout_console

    table = Table("split", "bundle", "Triton's model", "cloud-only", title=str(out), title_justify="left")
    for bundle in written["bundles"]:
        table.add_row(bundle["split"], bundle["name"], bundle["model"], bundle.get("whole", "-"))
    stdout_console().print(table)
