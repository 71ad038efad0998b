"""The verb `bottlekit build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, QuietOption, command_line, emit, say, set_quiet, stdout_console

if TYPE_CHECKING:
    from bottlekit.build.build import Step


def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a fleet: a folder of bundles.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="A kind of machine; `bottlekit targets` lists them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that the engines go to.")] = Path("engines"),
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="head, tail, full or baseline; may be given again. Without it, all of them."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32; without it, what suits the target best.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="The most images at once, where the target sets a limit (TensorRT).", show_default="8"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compile a bundle's parts for a kind of machine: one engine and one JSON sidecar for each.

    [bold]bottlekit build bundle/ --target cpu[/bold] optimises the graphs for ONNX Runtime and compares what they
    compute with the bundle's golden outputs. [bold]--target rtx-ada[/bold] compiles real TensorRT-RTX plans, with
    no GPU on this machine. What is there already and would come out the same is kept; what differs is named.
    """
    from bottlekit.build.build import build_bundle
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.targets.loader import target_from_name

    set_quiet(quiet)
    spec = target_from_name(target)
    steps: list[Step] = []

    def watch(step: Step) -> None:
        say(_words(step))
        if step.engine is not None:
            steps.append(step)

    for one in fleet_from_path(str(bundle)):
        build_bundle(one, spec, out, part, precision, max_batch, force, watch, command_line())
    emit({"engines": [_row(step) for step in steps]}, lambda: _print_table(steps), as_json)


def _words(step: Step) -> str:
    """A step for people, one line."""
    what = f"{step.job} for {step.job.target.name}"
    if step.engine is None:
        return f"{what}: {step.why or 'building'}"
    if step.state == "cached":
        return f"{what}: nothing changed, kept {step.engine.path}"
    return f"{what}: built in {step.engine.sidecar['build_ms']:.0f} ms, {_compared(step.engine.sidecar)}"


def _compared(sidecar: dict[str, Any]) -> str:
    golden = sidecar["golden"]
    if golden["compared"]:
        return f"equals the golden outputs within {golden['max_abs']:.1g}"
    return f"outputs not compared ({golden['why_not']})"


def _row(step: Step) -> dict[str, Any]:
    assert step.engine is not None
    sidecar = step.engine.sidecar
    names = ("part", "target", "kind", "precision", "engine_sha256", "engine_bytes", "build_ms", "golden")
    return {
        "path": step.engine.path,
        "bundle": sidecar["bundle"]["name"],
        "cached": step.state == "cached",
        **{name: sidecar[name] for name in names},
        **({"lowered": sidecar["lowered"]} if "lowered" in sidecar else {}),
    }


def _print_table(steps: list[Step]) -> None:
    from rich.table import Table

    table = Table("engine", "precision")
    for heading in ("bytes", "build ms"):
        table.add_column(heading, justify="right")
    table.add_column("golden outputs")
    for step in steps:
        row = _row(step)
        table.add_row(
            row["path"],
            row["precision"],
            f"{row['engine_bytes']:,}",
            "kept" if row["cached"] else f"{row['build_ms']:.0f}",
            f"within {row['golden']['max_abs']:.1g}" if row["golden"]["compared"] else "not compared",
        )
    stdout_console().print(table)
