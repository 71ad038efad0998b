"""The verb `bottlekit hybrid search`."""

from __future__ import annotations

import dataclasses
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
    say,
    set_quiet,
    stdout_console,
)
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bottlekit.training.hybrid_search import HybridJob


def search(
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write: every point, the front.")],
    source: Annotated[
        Path, typer.Option("--from", help="The full-precision network: a checkpoint of `bottlekit train`.")
    ],
    folder: Annotated[
        Path, typer.Option(help="Where the networks are kept; those that are there are not trained again.")
    ],
    last_blocks: Annotated[str, typer.Option(metavar="BLOCK,...", help="Last blocks on the device to try.")],
    edge_bits: Annotated[str, typer.Option(metavar="BITS,...", help="Bits to try, of 1, 2, 4, 8, 32.")] = "1,4",
    exit_weights: Annotated[str, typer.Option(metavar="W,...", help="Weights of the exit's loss to try.")] = "0.5",
    exits: Annotated[
        str,
        typer.Option(
            metavar="WHERE,...",
            help="Exits to try: last, one behind the last block; all, one behind each block up to it.",
        ),
    ] = "last",
    exit_pool: Annotated[int, typer.Option(help="Side of the windows that an exit averages.")] = 3,
    rule: Annotated[str, typer.Option(help="entropy or max-probability.")] = "entropy",
    unit: Annotated[str | None, typer.Option(help="A bottleneck behind the last block: its kind.")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels that are sent.", show_default="2")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Train on a Ray cluster: auto, ray://host:10001 or host:6379."),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where the data lies now.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same networks.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a hybrid network for each combination, and find those that none beats in everything.

        bottlekit hybrid search --from net.safetensors --last-blocks rb2,rb4 --folder tried/ -o front.json

    Accuracy, share leaving early, modelled energy and bytes an image count. Every threshold is a point and costs no
    training. Who chooses from the front by the accuracies in it has used those images: measure on others.
    The same command goes on with what an interrupted search has not trained.
    """
    set_quiet(quiet)
    if output.exists() and not force:
        raise UsageError(f"{output} exists already; choose another name or pass --force to replace it")
    blocks = tuple(last_blocks.split(","))
    bits, weights = _numbers(edge_bits, "--edge-bits", int), _numbers(exit_weights, "--exit-weights", float)
    from bottlekit.device.files import write_json
    from bottlekit.models.checkpoint import load_checkpoint
    from bottlekit.models.hybrid.spec import HybridSpec, exit_splits
    from bottlekit.planning.hybrid_energy import layers_from_records
    from bottlekit.planning.hybrid_front import front, points_of_network
    from bottlekit.training.hybrid import HybridPlan
    from bottlekit.training.hybrid_search import HybridGrid, search_hybrid
    from bottlekit.training.recipe import default_recipe_name, recipe_from_name
    from bottlekit.training.train import data_of_checkpoint

    bottleneck = None if unit is None else bottleneck_from_options(blocks[0], unit, channels, None, None)
    coder = codec_from_options("jpeg" if unit == "bottlenet" else "raw", unit, None, None)
    grid = HybridGrid(
        blocks,
        bits,
        weights,
        HybridSpec(blocks[0], bits[0], (blocks[0],), exit_pool, bottleneck, coder),
        tuple(exits.split(",")),
    )
    plans = [HybridPlan((weight,), rule=rule) for weight in weights]
    checkpoint = load_checkpoint(source)
    for _, spec, _ in grid.candidates(checkpoint.model):
        exit_splits(checkpoint.model, spec)  # all are checked before the first is trained
    images = data_of_checkpoint(checkpoint, data_root, seed)
    how = recipe_from_name(default_recipe_name(images.name), "backbone", epochs=epochs)
    tried = search_hybrid(
        folder,
        source,
        grid,
        plans[0],
        how,
        images,
        seed,
        command_line(),
        say,
        _elsewhere(cluster, source, data_root),
    )
    points = [
        point
        for one in tried
        for point in points_of_network(
            one.name,
            layers_from_records(one.checkpoint.work),
            one.curve,
            one.payload_bytes,
        )
    ]
    result = {
        "format": "bottlekit-hybrid-search",
        "version": 1,
        "command": command_line(),
        "full_precision_accuracy": tried[0].checkpoint.accuracy["baseline"],
        "images": tried[0].checkpoint.accuracy["images"],
        "networks": [{"name": one.name, "payload_bytes": one.payload_bytes} for one in tried],
        "origins": {"energy_mj": "modelled", "accuracy": "measured", "payload_bytes": "measured"},
        "points": [dataclasses.asdict(point) for point in points],
        "front": [dataclasses.asdict(point) for point in front(points)],
    }
    write_json(str(output), result)
    emit(result, lambda: _show(result), as_json)


def _elsewhere(
    cluster: str | None, source: Path, data_root: Path | None
) -> Callable[[list[HybridJob]], None] | None:
    if cluster is None:
        return None
    from bottlekit.training.hybrid_cluster import train_on_cluster

    return lambda jobs: train_on_cluster(cluster, jobs, source, data_root, say)


def _numbers(text: str, option: str, kind: type[Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes numbers with commas between them, not '{text}'") from None


def _show(result: dict[str, Any]) -> None:
    """The front as a table."""
    from rich.table import Table

    table = Table()
    for heading in ("network", "threshold", "accuracy", "leave early", "energy, times less", "bytes"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for point in result["front"]:
        table.add_row(
            point["network"],
            f"{point['threshold']:.4f}",
            f"{point['accuracy']:.2%}",
            f"{point['early_share']:.1%}",
            f"{point['energy_ratio']:.2f}",
            f"{point['payload_bytes']:.1f}",
        )
    stdout_console().print(table)
    print(
        f"full precision {result['full_precision_accuracy']:.2%} on {result['images']} images; energy is modelled"
    )
