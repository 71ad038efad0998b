"""The verb `bottlekit build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, QuietOption, command_line, emit, say, set_quiet, stdout_console
from bottlekit.cli.host_options import DEFAULT_PYTHON, HostOption, HostPythonOption, machine_from_options
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.build.build import Step
    from bottlekit.build.check import Checked


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
        str | None, typer.Option(help="fp16, fp32 or int8; without it, what suits the target best.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="The most images at once, where the target sets a limit (TensorRT).", show_default="8"),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="For int8: a folder of images like those to classify. Without it, the training images of the "
            "bundle's data set."
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="For int8: where that data set lies, if it is read from files.")
    ] = None,
    plugin: Annotated[
        bool,
        typer.Option(
            "--plugin",
            help="Quantise inside the head's engine and undo it inside the tail's: bottlekit's TensorRT plugins.",
        ),
    ] = False,
    plugin_library: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --plugin: where the plugin library lies on the machine that builds.",
            show_default="~/.cache/bottlekit/plugins/libbottlekit_plugins.so",
        ),
    ] = None,
    workspace_mb: Annotated[
        int | None,
        typer.Option(help="The most scratch memory in MiB that TensorRT may plan with.", show_default="by target"),
    ] = None,
    check_only: Annotated[
        bool,
        typer.Option(
            "--check-only", help="Only say what the target would choke on; works for every target on any machine."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
    host: HostOption = None,
    host_python: HostPythonOption = DEFAULT_PYTHON,
    timeout: Annotated[
        float | None,
        typer.Option(help="With --host: seconds that one engine may take there.", show_default="3600"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compile a bundle's parts for a kind of machine: one engine and one JSON sidecar for each.

    [bold]bottlekit build bundle/ --target cpu[/bold] optimises the graphs for ONNX Runtime and compares what they
    compute with the bundle's golden outputs. [bold]--target rtx-ada[/bold] compiles real TensorRT-RTX plans, with
    no GPU on this machine. What is there already and would come out the same is kept; what differs is named.

    [bold]--target tx2 --host nvidia@tx2[/bold] builds over there, compares the engines with the golden outputs on
    the device, and brings them back. After a dropped connection the same command goes on.

    [bold]--target tx2 --check-only[/bold] reads the graphs as TensorRT 8.2 would, without having it, and ends with
    exit status 1 if it finds something.
    """
    from bottlekit.build.build import build_bundle, jobs_for
    from bottlekit.build.check import check_jobs
    from bottlekit.build.job import CalibrationSource, PluginRequest
    from bottlekit.build.precision import advice_for, precision_for
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.targets.loader import target_from_name

    set_quiet(quiet)
    spec = target_from_name(target)
    machine = machine_from_options(host, host_python, timeout)
    images = CalibrationSource(calibration, data_root)
    if plugin_library is not None and not plugin:
        raise UsageError("--plugin-library names the library of --plugin; give that as well")
    asked = PluginRequest(plugin_library) if plugin else None
    if check_only:
        jobs = [
            job
            for one in fleet_from_path(str(bundle))
            for job in jobs_for(one, spec, out, part, precision, max_batch, workspace_mb, images, asked)
        ]
        _report_check(check_jobs(jobs), spec.name, as_json, any(job.has_plugin for job in jobs))
        return
    advice = advice_for(spec, precision_for(spec, precision))
    if advice is not None:
        say(advice)
    steps: list[Step] = []

    def watch(step: Step) -> None:
        say(_words(step))
        if step.engine is not None:
            steps.append(step)

    for one in fleet_from_path(str(bundle)):
        told = (watch, command_line())
        build_bundle(one, spec, out, part, precision, max_batch, force, *told, workspace_mb, images, machine, asked)
    emit({"engines": [_row(step) for step in steps]}, lambda: _print_table(steps), as_json)


def _report_check(checked: list[Checked], target: str, as_json: bool, plugin: bool) -> None:
    """Print what the lint found, one line each; exit status 1 if it found anything."""
    from bottlekit.device.plugins import LIBRARY

    needs = [LIBRARY] if plugin else []
    emit(
        {"target": target, "checked": [one.to_dict() for one in checked], "needs": needs},
        lambda: _print_check(checked, target, needs),
        as_json,
    )
    if any(one.findings for one in checked):
        raise typer.Exit(1)


def _print_check(checked: list[Checked], target: str, needs: list[str]) -> None:
    for one in checked:
        for finding in one.findings:
            print(f"{one.bundle} {one.part} for {target}: {finding}")
    if not any(one.findings for one in checked):
        also = "".join(f"; to build and to run, head and tail need {name}" for name in needs)
        print(f"{target}: nothing to object ({len(checked)} graphs){also}")


def _words(step: Step) -> str:
    """A step for people, one line."""
    what = f"{step.job} for {step.job.target.name}"
    if step.engine is None:
        return f"{what}: {step.why or 'building'}"
    if step.state == "cached":
        return f"{what}: nothing changed, kept {step.engine.path}"
    built = f"{what}: built in {step.engine.sidecar['build_ms']:.0f} ms, {_compared(step.engine.sidecar)}"
    lowered = step.engine.sidecar.get("lowered") or {}
    told = [words for words in (_kept_fp32(lowered), _calibrated(lowered)) if words]
    return "\n".join([built, *(f"{what}: {words}" for words in told)])


def _kept_fp32(lowered: dict[str, Any]) -> str | None:
    """Which layers FP16 would have broken, for people; None where there were none."""
    layers = lowered.get("fp32_layers")
    if not layers:
        return None
    if len(layers) == lowered["layers"]:
        return f"no layer survives FP16, so all {len(layers)} stay FP32, as with --precision fp32"
    return f"{len(layers)} of {lowered['layers']} layers stay FP32, FP16 would break them: {', '.join(layers)}"


def _calibrated(lowered: dict[str, Any]) -> str | None:
    """What INT8 was calibrated on and what it costs, for people; None for other precisions."""
    if "calibration" not in lowered:
        return None
    images = lowered["calibration"]
    words = f"INT8, calibrated on {images['images']} images ({images['source']})"
    accuracy = lowered["accuracy"]
    if not accuracy["measured"]:
        return f"{words}; accuracy not measured: {accuracy['why_not']}"
    return (
        f"{words}; accuracy {accuracy['int8']:.1%}, {accuracy['fp32']:.1%} in FP32 "
        f"({accuracy['images']} held-out images of {accuracy['data']})"
    )


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
