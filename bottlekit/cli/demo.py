"""The verb `bottlekit demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import (
    ForceOption,
    JsonOption,
    QuietOption,
    command_line,
    emit,
    say,
    set_quiet,
    stdout_console,
)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for everything it makes.")] = Path(
        "bottlekit-demo"
    ),
    split: Annotated[
        list[str] | None,
        typer.Option(help="Where to cut; may be given again. Without it: rb1 and rb3.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of data split and training.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two epochs and few samples: to see it run, not for its numbers.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the whole pipe on real images, on this machine, and print what came of it.

    Trains a ResNet-18 on scikit-learn's handwritten digits, puts a bottleneck behind residual blocks, exports,
    builds for the CPU and compiles with TensorRT-RTX, benchmarks, runs the tail in a server process and the head
    as its client over a socket, and plans for 3G, 4G and Wi-Fi. It needs no network and no GPU, and takes a few
    minutes on two cores.

    The folder holds all it made, the commands to repeat it one by one, and [bold]report.html[/bold].
    """
    from bottlekit.demo.page import summary_from_run, table_from_run, write_page
    from bottlekit.demo.pipe import DemoOptions, run_pipe
    from bottlekit.device.files import whole_folder
    from bottlekit.report.render import rich_from_table, values_from_table

    set_quiet(quiet)
    started = time.monotonic()
    with whole_folder(str(out), force) as folder:
        splits = tuple(split) if split else ("rb1", "rb3")
        run = run_pipe(DemoOptions(Path(folder), splits, seed, quick), say, quiet)
        write_page(run, command_line())
    table, summary = table_from_run(run), summary_from_run(run)

    def show() -> None:
        console = stdout_console()
        console.print(rich_from_table(table, console.width))
        print(summary)
        if run.not_compiled is not None:
            print(f"Nothing was compiled with TensorRT-RTX: {run.not_compiled}")
        print(f"{time.monotonic() - started:.0f} s. Everything is in {out}/ ; open {out}/report.html")

    emit(
        {
            "summary": summary,
            "rows": values_from_table(table),
            "compiled": run.compiled,
            "not_compiled": run.not_compiled,
            "server": run.server,
            "folder": str(out),
        },
        show,
        as_json,
    )
