"""The verbs `bottlekit agent pack` and `bottlekit agent jobs`: for devices that no ssh reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import JsonOption, QuietOption, command_line, emit, say, set_quiet

agent = typer.Typer(
    help="bottlekit as one file for a device, and build jobs for it: for devices that no ssh reaches.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@agent.command()
def pack(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; replaced if it exists.")] = Path(
        "bottlekit-agent.pyz"
    ),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write bottlekit's device part as one file that Python 3.6 runs, with numpy and what it is asked to use.

    bottlekit agent pack

    scp bottlekit-agent.pyz nvidia@tx2:

    ssh nvidia@tx2 python3 bottlekit-agent.pyz doctor
    """
    from bottlekit.build.agent_pack import pack_agent

    set_quiet(quiet)
    sha256 = pack_agent(out)
    written = {"path": str(out), "bytes": out.stat().st_size, "sha256": sha256}
    emit(written, lambda: print(f"{out}: {written['bytes']:,} bytes, SHA-256 {sha256}"), as_json)
    say(f"copy it to the device, and type there: python3 {out.name} --help")


@agent.command()
def jobs(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a fleet: a folder of bundles.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The kind of machine that will build them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that the jobs go to.")] = Path("jobs"),
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="head, tail, full or baseline; may be given again. Without it, all of them."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp16 or fp32; without it, what suits the target best.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(help="The most images at once, where the target sets a limit.", show_default="8"),
    ] = None,
    tensorrt: Annotated[
        str | None,
        typer.Option(
            help="The device's TensorRT, like 8.2.1.8: it decides how FP16 is said.", show_default="by target"
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write build jobs: a folder for each engine, that the agent builds on the device.

        bottlekit agent jobs fleet/ --target tx2 -o jobs/

        python3 bottlekit-agent.pyz build jobs/resnet50-rb1-head -o engines/

    The second command is for the device. It compiles, compares with the golden outputs, and writes the engine with
    its sidecar, which [bold]bottlekit[/bold] reads on any machine.
    """
    from bottlekit.build.build import jobs_for
    from bottlekit.build.check import require_clean
    from bottlekit.build.job_folder import job_folder_from_job
    from bottlekit.device.bundle import fleet_from_path
    from bottlekit.targets.loader import target_from_name

    set_quiet(quiet)
    spec = target_from_name(target)
    todo = [
        job for one in fleet_from_path(str(bundle)) for job in jobs_for(one, spec, out, part, precision, max_batch)
    ]
    folders = []
    for job in todo:
        require_clean(job)
        folder = out / f"{job.bundle.name}-{job.part}"
        job_folder_from_job(job, folder, tensorrt, command=command_line())
        folders.append(str(folder))
    emit({"target": spec.name, "jobs": folders}, lambda: print("\n".join(folders)), as_json)
    say("copy them to the device, and type there for each: python3 bottlekit-agent.pyz build FOLDER -o engines/")
