"""The verb `bottlekit search`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottlekit.cli.bottleneck_options import codec_from_options
from bottlekit.cli.common import JsonOption, QuietOption, command_line, emit, is_quiet, say, set_quiet
from bottlekit.cli.search_report import fleet_from_search, print_search
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bottlekit.training.search.decisions import Trial
    from bottlekit.training.search.job import Job
    from bottlekit.training.search.run import Workforce

_GRID = "What is tried"
_HOW = "How to train"


def search(
    source: Annotated[Path, typer.Argument(help="The checkpoint of the uncompressed network.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The folder of the search; an interrupted one goes on from there."),
    ],
    max_accuracy_drop: Annotated[
        float,
        typer.Option(help="How far below the uncompressed network's accuracy is acceptable, as a fraction."),
    ] = 0.02,
    splits: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="The split points. Default all; bottlekit models NAME lists them.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="bottlenet (the default) or butterfly.", rich_help_panel=_GRID)
    ] = None,
    channels: Annotated[
        str, typer.Option(metavar="C,...", help="Numbers of channels, c' or D_r.", rich_help_panel=_GRID)
    ] = "1-5,10",
    spatial: Annotated[
        str | None,
        typer.Option(
            metavar="S,...",
            help="Reductions of height and width, s. Default 2, for butterfly 1.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="As for train. Default jpeg, for butterfly raw.", rich_help_panel=_GRID)
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits of the quantiser, 1 to 8. Default 8.", rich_help_panel=_GRID)
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="JPEG quality, 1 to 100. Default 20.", rich_help_panel=_GRID)
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Start each training from the one before, and stop it as soon as its outcome is clear.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    exhaustive: Annotated[
        bool,
        typer.Option(
            "--exhaustive",
            help="Train every width, also behind the smallest: a whole figure.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Train on a Ray cluster: auto, ray://host:10001 or host:6379.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data set lies now, if it has moved.", rich_help_panel=_HOW)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="As for train. Default by data set.", rich_help_panel=_HOW)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the recipe's.", rich_help_panel=_HOW)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate, instead of the recipe's.", rich_help_panel=_HOW)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.", rich_help_panel=_HOW)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every training.", rich_help_panel=_HOW)] = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the narrowest bottleneck that is accurate enough, at every split point: Algorithm 1's training phase.

    Widths are trained from the one that sends least on, until one is accurate enough:

        bottlekit search net.safetensors --unit butterfly --channels 1-5,10 -o search/

    Fewer epochs, by stopping a training whose outcome is clear:

        bottlekit search net.safetensors --splits rb1,rb2 --channels 1-8 --spatial 1,2 --fast -o search/

    OUTPUT holds every training, search.json, the accuracies as a picture, and fleet/ for build, plan and serve. The
    same command goes on after an interrupt; another --max-accuracy-drop or grid uses what is there.
    """
    set_quiet(quiet)
    if fast and exhaustive:
        raise UsageError("--fast stops trainings early and --exhaustive none; choose one")
    if not 0 <= max_accuracy_drop <= 1:
        raise UsageError(f"--max-accuracy-drop is a fraction from 0 to 1, 0.02 say, not {max_accuracy_drop}")
    from bottlekit.training.search.grid import numbers_from_text
    from bottlekit.training.search.outcome import require_something, run_search
    from bottlekit.training.search.request import request_from_checkpoint

    request = request_from_checkpoint(
        source,
        unit=unit or "bottlenet",
        splits=None if splits is None else [name.strip() for name in splits.split(",")],
        channels=numbers_from_text(channels, "--channels"),
        spatials=numbers_from_text(spatial or ("1" if unit == "butterfly" else "2"), "--spatial"),
        codec=codec_from_options(codec, unit, bits, quality),
        mode="fast" if fast else "exhaustive" if exhaustive else "linear",
        max_accuracy_drop=max_accuracy_drop,
        recipe=recipe,
        changes={"epochs": epochs, "learning_rate": lr, "batch_size": batch_size},
        seed=seed,
        data_root=data_root,
        command=command_line(),
    )
    try:
        with _workforce(cluster, source, request.job) as workforce:
            found = run_search(request, output, workforce, say)
    except KeyboardInterrupt:
        say(f"\nwhat was trained is in {output}; the same command goes on")
        raise
    fleet_from_search(found, output, data_root, command_line())
    require_something(found)
    emit(found, lambda: print_search(found, output), as_json)


def _workforce(
    cluster: str | None, source: Path, job_of: Callable[[Trial], Job]
) -> contextlib.AbstractContextManager[Workforce]:
    if cluster is None:
        from bottlekit.training.search.local import ThisMachine

        return contextlib.nullcontext(ThisMachine(source, job_of, is_quiet()))
    from bottlekit.training.search.cluster import Cluster

    return Cluster(cluster, source, job_of)
