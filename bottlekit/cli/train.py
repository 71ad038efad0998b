"""The verb `bottlekit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.bottleneck_options import at_the_finest, bottleneck_from_options, codec_from_options
from bottlekit.cli.common import (
    ForceOption,
    JsonOption,
    QuietOption,
    command_line,
    is_quiet,
    set_quiet,
)
from bottlekit.cli.server_options import ServerNameOption, TlsOption
from bottlekit.cli.train_layers import train_layers
from bottlekit.cli.train_parts import images_for, numbers_from_text, recipe_for, refuse, resume_advice
from bottlekit.cli.train_report import report_checkpoint, report_sweep
from bottlekit.errors import UsageError

_NETWORK = "The network"
_BOTTLENECK = "The bottleneck (with --from)"
_DATA = "The data"
_HOW = "How to train"
_TOGETHER = "With a server (with --plan)"


def train(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The checkpoint to write (.safetensors); the JSON file of a sweep."),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="The network to train; [bold]bottlekit models[/bold] lists them.", rich_help_panel=_NETWORK
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from your own weights, a torchvision state dict (.pt, .pth or .safetensors) of that "
            "backbone. With --epochs 0 they are taken as they are.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A checkpoint to put a bottleneck into.", rich_help_panel=_BOTTLENECK),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="The split point the bottleneck goes behind: rb1, say.", rich_help_panel=_BOTTLENECK),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="bottlenet (the default) or butterfly.", rich_help_panel=_BOTTLENECK),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels that are sent, c'; 0 keeps all. Default 2.", rich_help_panel=_BOTTLENECK),
    ] = None,
    spatial: Annotated[
        int | None,
        typer.Option(
            help="Reduction of height and width, s; 1 keeps them. Default 2, for butterfly 1.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    kernel: Annotated[
        int | None,
        typer.Option(
            help="Filter size of the spatial reduction, larger than s. Default s + 1, at least 3.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="jpeg, jpeg-lean, learned, png, raw, webp, webp-lossless or zdict; what loses nothing behind the "
            "quantiser trains alike. Default jpeg, for butterfly raw.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits of the quantiser, 1 to 8. Default 8.", rich_help_panel=_BOTTLENECK)
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="JPEG quality, 1 to 100. Default 20.", rich_help_panel=_BOTTLENECK)
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="image|static",
            help="What the codes span: each image's own minimum and maximum (the default), or one range for all, "
            "calibrated before training and not sent.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="One network for several settings of the codec, each with a share of every batch: qualities for "
            "jpeg, jpeg-lean and webp (5,20,60, say), bits for the others (1,2,4). Export it with any of them.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    naive: Annotated[
        bool,
        typer.Option(
            "--naive",
            help="Leave the codec out of training and only evaluate with it.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = False,
    rate_weight: Annotated[
        float | None,
        typer.Option(
            help="What one estimated byte of a payload adds to the loss (0.003 to 0.03, say): fewer bytes, and in "
            "the end less accuracy. Goes with --codec learned, which is then the default.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    distill_epochs: Annotated[
        int | None,
        typer.Option(
            help="Before training everything, so many epochs in which the unit alone learns to imitate the network "
            "without it.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep-quality",
            metavar="Q,Q,...",
            help="Compare naive and compression-aware training at these JPEG qualities (1,5,10,20,50,90, say); "
            "-o is the JSON file, the CSV file is written beside it.",
            rich_help_panel=_BOTTLENECK,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits (needs no files), fractals (drawn here; fractals:100x600 are 100 classes of 600 images), "
            "folder, cifar10, cifar100 or miniimagenet. Default digits; with --from what the checkpoint was "
            "trained on.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(
            help="Where the files are. folder: a folder with train/<class>/*.jpg and val/<class>/*.jpg.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the input in pixels. Default by data set.", rich_help_panel=_DATA)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits, cifar, fractals, miniimagenet or a .toml file. Default by data set.", rich_help_panel=_HOW
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.", rich_help_panel=_HOW)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate, instead of the recipe's.", rich_help_panel=_HOW)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.", rich_help_panel=_HOW)] = None,
    amp: Annotated[
        bool | None,
        typer.Option(
            "--amp/--no-amp", help="Half precision on GPUs, instead of the recipe's.", rich_help_panel=_HOW
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, help="The same seed gives the same weights on one processor.", rich_help_panel=_HOW),
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that was interrupted.", rich_help_panel=_HOW)
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="SCHEDULE",
            help="A schedule of training: what runs where, forward and backward. As `bottlekit train-layers`.",
            rich_help_panel=_TOGETHER,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The server that `bottlekit serve-layers --training` announced.",
            rich_help_panel=_TOGETHER,
        ),
    ] = None,
    tls: TlsOption = None,
    server_name: ServerNameOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a network, or put a bottleneck into one and train it with the codec in the loop.

    First the uncompressed network, then one bottleneck for every place you may want to cut it at:

        bottlekit train --data digits --backbone resnet18 -o net.safetensors

        bottlekit train --from net.safetensors --split rb1 --channels 2 --quality 20 -o split.safetensors

    Your own images, and your own weights without training them any more:

        bottlekit train --data folder --data-root photos --backbone resnet50 -o net.safetensors

        bottlekit train --data folder --data-root photos --weights my.pt --epochs 0 -o net.safetensors

    Is it worth training with the codec in the loop?

        bottlekit train --from net.safetensors --split rb1 --sweep-quality 1,5,20,90 -o sweep.json

    Fewer bytes: pay for each of them in training.

        bottlekit train --from net.safetensors --split rb1 --rate-weight 0.01 -o split.safetensors

    One network for several rates, of which each export takes one:

        bottlekit train --from net.safetensors --split rb1 --codec learned --rates 1,2,4 -o split.safetensors

    Together with a server, each layer where a schedule of `bottlekit plan --switches` says:

        bottlekit train --plan schedule.json --server localhost:9091 -o net.safetensors

    Ctrl-C keeps the finished epochs (of a sweep, the finished trainings) in OUTPUT.resume; the same command with
    --resume goes on from there.
    """
    set_quiet(quiet)
    bottleneck_options = {
        "--split": split, "--unit": unit, "--channels": channels, "--spatial": spatial, "--kernel": kernel,
        "--codec": codec, "--bits": bits, "--quality": quality, "--naive": naive or None,
        "--rate-weight": rate_weight, "--distill-epochs": distill_epochs, "--sweep-quality": sweep,
        "--range": value_range, "--rates": rates,
    }  # fmt: skip
    if plan is not None:
        fixed = {"--backbone": backbone, "--from": source, "--input-size": input_size, "--amp": amp}
        refuse(
            {**fixed, **bottleneck_options}, "does not go with --plan: the schedule names network and input size"
        )
        if server is None:
            raise UsageError(
                "--server HOST:PORT is missing: --plan trains with the server that serve-layers starts"
            )
        train_layers(
            plan, output, server, weights, data or "digits", data_root, recipe, epochs, lr, batch_size, seed,
            tls=tls, server_name=server_name, resume=resume, force=force, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    refuse(
        {"--server": server, "--tls": tls, "--server-name": server_name}, "is for a schedule: add --plan SCHEDULE"
    )
    command, quiet = command_line(), is_quiet()
    changes = {"epochs": epochs, "learning_rate": lr, "batch_size": batch_size, "amp": amp}
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; choose another name or pass --force to replace it")
    if source is None:
        refuse(bottleneck_options, "is about a bottleneck, which is put into a checkpoint: add --from CHECKPOINT")
        from bottlekit.training.data import dataset_from_name
        from bottlekit.training.train import train_backbone

        images = dataset_from_name(data or "digits", data_root, input_size, seed, quiet)
        how = recipe_for(recipe, images, "backbone", changes)
        with resume_advice(output):
            checkpoint = train_backbone(
                output, backbone or "resnet18", images, how, seed, weights, resume, command=command, quiet=quiet
            )
        report_checkpoint(output, checkpoint, as_json)
        return

    network_options = {"--backbone": backbone, "--weights": weights, "--input-size": input_size}
    refuse(network_options, "is fixed by the checkpoint that --from names; leave it out")
    images = images_for(source, split, data, data_root, seed, quiet)
    how = recipe_for(recipe, images, "bottleneck", changes)
    bottleneck = bottleneck_from_options(split or "", unit, channels, spatial, kernel)
    coder = codec_from_options(codec or ("learned" if rate_weight else None), unit, bits, quality, value_range)
    if sweep is None:
        from bottlekit.training.bottleneck import BottleneckTraining
        from bottlekit.training.train import train_bottleneck

        several = () if rates is None else numbers_from_text("--rates", rates)
        coder = at_the_finest(coder, several, bits, quality)
        training = BottleneckTraining(naive, rate_weight or 0.0, distill_epochs or 0, several)
        with resume_advice(output):
            checkpoint = train_bottleneck(
                output, source, bottleneck, coder, how, images, seed, training, resume, command=command, quiet=quiet
            )
        report_checkpoint(output, checkpoint, as_json)
    else:
        others = {
            "--naive": naive or None, "--rate-weight": rate_weight, "--distill-epochs": distill_epochs,
            "--rates": rates, "--range": value_range,
        }  # fmt: skip
        refuse(others, "does not go with --sweep-quality")
        from bottlekit.training.sweep import sweep_quality

        with resume_advice(output):
            qualities = list(numbers_from_text("--sweep-quality", sweep))
            swept = sweep_quality(
                output, source, bottleneck, coder, qualities, how, images, seed, command=command, quiet=quiet,
                resume=resume,
            )  # fmt: skip
        report_sweep(output, swept, as_json)
