"""The verb `bottlekit train-layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import ForceOption, JsonOption, QuietOption, command_line, is_quiet, say, set_quiet
from bottlekit.cli.server_options import ServerNameOption, TlsOption
from bottlekit.cli.train_report import report_checkpoint
from bottlekit.errors import UsageError


def train_layers(
    plan: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="A schedule of training: what runs where.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")],
    server: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="The server that `bottlekit serve-layers --training` announced."),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights, as `bottlekit train` does.")
    ] = None,
    data: Annotated[
        str, typer.Option(help="As `bottlekit train` takes it: digits, folder, cifar10 ...")
    ] = "digits",
    data_root: Annotated[Path | None, typer.Option(help="Where the files are.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe or a .toml file. Default by data set.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="As on one machine, the same seed gives the same weights.")] = 0,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for one answer.")] = 60.0,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to look for a server that was lost.")
    ] = 60.0,
    tls: TlsOption = None,
    server_name: ServerNameOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that was interrupted.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network with a server: layers forward and backward where a schedule says.

    The images, the labels and the loss stay here; activations and gradients cross, and after every step the weights
    that the server changed. A server that dies takes at most the step in flight with it.

        bottlekit serve-layers --training

        bottlekit train-layers schedule.json --server localhost:9091 -o net.safetensors
    """
    set_quiet(quiet)
    for option, value in (("--timeout", timeout), ("--patience", patience)):
        if not 0 < value < float("inf"):
            raise UsageError(f"{option} must be more than 0 seconds, not {value:g}")
    if server_name is not None and tls is None:
        raise UsageError("--server-name is the name in a certificate: give --tls FOLDER as well")
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; choose another name or pass --force to replace it")
    from bottlekit.device.wire.addresses import address_from_text
    from bottlekit.training.data import dataset_from_name
    from bottlekit.training.recipe import default_recipe_name, recipe_from_name
    from bottlekit.training.together.plan import training_plan_from_file
    from bottlekit.training.together.train import train_backbone_together

    address = address_from_text(server)
    schedule = training_plan_from_file(str(plan))
    images = dataset_from_name(data, data_root, schedule.model.input_size, seed, is_quiet())
    changes = {"epochs": epochs, "learning_rate": lr, "batch_size": batch_size, "amp": None}
    how = recipe_from_name(recipe or default_recipe_name(images.name), "backbone", **changes)
    checkpoint, crossed = train_backbone_together(
        output,
        schedule,
        images,
        how,
        address,
        seed,
        weights,
        resume,
        command_line(),
        is_quiet(),
        timeout_s=timeout,
        patience_s=patience,
        tls_folder=str(tls) if tls else None,
        server_name=server_name,
        say=say,
    )
    report_checkpoint(output, checkpoint, as_json)
    say(
        f"{crossed['sent_bytes']} bytes sent, {crossed['received_bytes']} received, "
        f"{crossed['steps_redone']} attempts at a step lost"
    )
