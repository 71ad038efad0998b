"""The verbs `bottlekit hybrid train`, `hybrid export` and `hybrid search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.bottleneck_options import bottleneck_from_options, codec_from_options
from bottlekit.cli.common import (
    ForceOption,
    JsonOption,
    QuietOption,
    command_line,
    emit,
    is_quiet,
    say,
    set_quiet,
)
from bottlekit.cli.hybrid_search import search
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.bundle import Bundle
    from bottlekit.models.hybrid.checkpoint import HybridCheckpoint

hybrid = typer.Typer(
    name="hybrid",
    help="Networks with low-bit blocks and an early exit on the device, and full precision in the cloud: train and "
    "export them. `bottlekit serve` and `bottlekit infer` run them as they run any bundle.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

hybrid.command()(search)

_EDGE = "The device's part"
_LEAVING = "When an image leaves early"
_UNIT = "The bottleneck (with --unit)"
_HOW = "How to train"


@hybrid.command()
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")],
    source: Annotated[
        Path, typer.Option("--from", help="The full-precision network: a checkpoint of `bottlekit train`.")
    ],
    last_block: Annotated[str, typer.Option(help="The last block on the device: rb8, say.", rich_help_panel=_EDGE)],
    edge_bits: Annotated[
        int, typer.Option(help="1, 2, 4 or 8; 32 leaves the blocks as they are.", rich_help_panel=_EDGE)
    ] = 1,
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="BLOCK,...",
            help="Blocks with an exit behind them; the last one decides on the device.",
            show_default="the last block",
            rich_help_panel=_EDGE,
        ),
    ] = None,
    exit_pool: Annotated[
        int, typer.Option(help="Side of the windows that an exit averages.", rich_help_panel=_EDGE)
    ] = 3,
    exit_weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,...",
            help="What each exit's loss weighs; the cloud's has the rest of 1.",
            show_default="0.5 in equal parts",
            rich_help_panel=_HOW,
        ),
    ] = None,
    way: Annotated[
        str,
        typer.Option(help="joint, or two-step: the network first, then its exits alone.", rich_help_panel=_HOW),
    ] = "joint",
    rule: Annotated[
        str, typer.Option(help="entropy (in nats) or max-probability.", rich_help_panel=_LEAVING)
    ] = "entropy",
    allowed_drop: Annotated[
        float,
        typer.Option(
            help="The threshold lets as many images leave as cost at most so much accuracy below the "
            "full-precision network, on images set aside to choose it.",
            rich_help_panel=_LEAVING,
        ),
    ] = 0.01,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights.", rich_help_panel=_HOW)
    ] = False,
    taught: Annotated[
        float,
        typer.Option(
            help="How much of each loss is the distance from the full-precision network's answers instead of the "
            "labels, 0 to 1.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0,
    unit: Annotated[
        str | None,
        typer.Option(help="bottlenet or butterfly; without it the feature is not reduced.", rich_help_panel=_UNIT),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Channels that are sent.", show_default="2", rich_help_panel=_UNIT)
    ] = None,
    spatial: Annotated[
        int | None,
        typer.Option(help="Factor of spatial reduction.", show_default="2; 1 for butterfly", rich_help_panel=_UNIT),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="As in `bottlekit train`.", show_default="raw; jpeg for bottlenet", rich_help_panel=_UNIT
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Bits of what is sent.", show_default="8", rich_help_panel=_UNIT)
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="JPEG quality.", show_default="20", rich_help_panel=_UNIT)
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where the data lies now.", rich_help_panel=_HOW)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="As in `bottlekit train`; its table [backbone].",
            show_default="by data set",
            rich_help_panel=_HOW,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.", rich_help_panel=_HOW)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate, instead of the recipe's.", rich_help_panel=_HOW)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the recipe's.", rich_help_panel=_HOW)] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a hybrid network of a trained one: low-bit blocks up to --last-block, exits, the rest in the cloud.

        bottlekit train --data digits --backbone cifar_resnet14 --input-size 32 -o net.safetensors

        bottlekit hybrid train --from net.safetensors --last-block rb4 --edge-bits 4 -o hybrid.safetensors

    A third of the held-out images chooses the threshold, the others are reported. Energies are modelled.
    """
    set_quiet(quiet)
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; choose another name or pass --force to replace it")
    from bottlekit.models.checkpoint import load_checkpoint
    from bottlekit.models.hybrid.spec import HybridSpec
    from bottlekit.training.hybrid import HybridPlan, train_hybrid
    from bottlekit.training.recipe import default_recipe_name, recipe_from_name
    from bottlekit.training.train import data_of_checkpoint

    names = tuple(exits.split(",")) if exits is not None else (last_block,)
    bottleneck = None if unit is None else bottleneck_from_options(last_block, unit, channels, spatial, None)
    if unit is None and (channels is not None or spatial is not None):
        raise UsageError("--channels and --spatial describe a bottleneck: name its kind with --unit")
    coder = codec_from_options(codec or ("jpeg" if unit == "bottlenet" else "raw"), unit, bits, quality)
    spec = HybridSpec(last_block, edge_bits, names, exit_pool, bottleneck, coder)
    weights = _weights(exit_weights, len(names))
    plan = HybridPlan(weights, way, rule, allowed_drop, from_scratch, taught)  # type: ignore[arg-type]  # it checks
    images = data_of_checkpoint(load_checkpoint(source), data_root, seed)
    changes = {"epochs": epochs, "learning_rate": lr, "batch_size": batch_size}
    how = recipe_from_name(recipe or default_recipe_name(images.name), "backbone", **changes)
    trained = train_hybrid(output, source, spec, plan, how, images, seed, command_line(), is_quiet())
    report = report_of_checkpoint(trained)
    emit({"output": str(output), **report}, lambda: _show_checkpoint(output, report), as_json)


@hybrid.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="What `bottlekit hybrid train` wrote (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write: the bundle.")],
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="BLOCK,...",
            help="Which of its exits the device decides by: the first that is sure answers.",
            show_default="the last",
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="dynamic: graphs take any number of images. 1: exactly one.")
    ] = "dynamic",
    data_root: Annotated[Path | None, typer.Option(help="Where the data set lies now.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many held-out images; without it, on all.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a bundle whose head also answers by itself, proved equal to the network in torch.

    2 to 8 bits are QuantizeLinear and DequantizeLinear around each low-bit convolution, binary layers are plain
    convolutions; every runtime that runs a bundle runs it.
    """
    set_quiet(quiet)
    if batch not in ("dynamic", "1"):
        raise UsageError(f"--batch must be dynamic or 1, not {batch}")
    from bottlekit.export.hybrid import bundle_from_hybrid

    bundle = bundle_from_hybrid(
        checkpoint,
        out,
        batch == "dynamic",
        images,
        force,
        command_line(),
        data_root,
        say,
        None if exits is None else exits.split(","),
    )
    emit(bundle.manifest, lambda: _show_bundle(bundle), as_json)


def report_of_checkpoint(checkpoint: HybridCheckpoint) -> dict[str, Any]:
    """What a checkpoint measured, and its modelled energy at the share that leaves early."""
    from bottlekit.planning.hybrid_energy import hybrid_energy, layers_from_records

    accuracy = {name: value for name, value in checkpoint.accuracy.items() if not name.startswith("curve")}
    energy = hybrid_energy(layers_from_records(checkpoint.work), accuracy["early_share"])
    return {
        "backbone": checkpoint.model.backbone,
        "last_block": checkpoint.spec.last_block,
        "bits": checkpoint.spec.bits,
        "exits": list(checkpoint.spec.exits),
        "rule": checkpoint.rule,
        "threshold": checkpoint.threshold,
        "accuracy": accuracy,
        "calibration": checkpoint.calibration,
        "energy": energy.to_dict(),
    }


def _weights(text: str | None, exits: int) -> tuple[float, ...]:
    if text is None:
        return (0.5 / exits,) * exits
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--exit-weights takes numbers with commas between them, not '{text}'") from None


def _show_checkpoint(output: Path, report: dict[str, Any]) -> None:
    accuracy, energy = report["accuracy"], report["energy"]
    print(f"{output}: {report['backbone']}, {report['bits']} bit up to {report['last_block']}")
    print(
        f"  accuracy  {accuracy['hybrid']:.2%} with {accuracy['early_share']:.1%} leaving early (exit alone "
        f"{accuracy['exit']:.2%}, cloud {accuracy['split']:.2%}, full precision {accuracy['baseline']:.2%}; "
        f"{accuracy['images']} images)"
    )
    print(f"  threshold {report['threshold']:.4f} ({report['rule']}), chosen on {report['calibration']['images']}")
    print(
        f"  energy    {energy['ratio']:.2f} times less than full precision (modelled multiply-accumulates, 45 nm)"
    )


def _show_bundle(bundle: Bundle) -> None:
    found = bundle.manifest["exit"]
    accuracy, sent = found["accuracy"], found["payload_bytes"]
    blocks = ", ".join(one["block"] for one in found["exits"])
    print(f"{bundle.path}: {bundle.name}, exit behind {blocks}, {found['rule']} {found['threshold']:.4f}")
    print(
        f"  {accuracy['early_share']:.1%} leave early; accuracy {accuracy['hybrid']:.2%}; "
        f"{sent['mean_over_all']:.1f} bytes an image on average, {sent['always_offloading']:.1f} when all are sent "
        f"({accuracy['images']} images)"
    )
