"""The verb `bottlekit models`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, emit, stdout_console


def models(
    name: Annotated[str | None, typer.Argument(help="A backbone; without it, all of them are listed.")] = None,
    input_size: Annotated[int, typer.Option(help="Height and width of the input, in pixels.")] = 224,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """List the backbones, or one backbone's split points with their shapes.

    [bold]bottlekit models resnet50[/bold] shows at each split point how large the feature tensor is, as float32 and
    compared with the input as an 8-bit RGB image, and how much of the work lies before it.
    """
    from bottlekit.models.overview import all_backbones, one_backbone
    from bottlekit.specs import ModelSpec

    if name is None:
        every = all_backbones()
        emit(every, lambda: _print_all(every), as_json)
    else:
        one = one_backbone(ModelSpec(name, classes, input_size))
        emit(one, lambda: _print_one(one), as_json)


def _print_all(backbones: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("backbone", "split points", caption="bottlekit models NAME shows their shapes")
    for backbone in backbones:
        splits = backbone["splits"]
        table.add_row(backbone["backbone"], f"{splits[0]}..{splits[-1]}")
    stdout_console().print(table)


def _print_one(backbone: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"{backbone['backbone']} at {backbone['input_size']}x{backbone['input_size']}: "
        f"{backbone['parameters'] / 1e6:.1f} M parameters, {backbone['macs'] / 1e6:,.0f} M multiply-accumulates, "
        f"input {backbone['input_bytes']:,} bytes",
    )
    table.add_column("split")
    table.add_column("module")
    for heading in ("c x h x w", "stride", "float32 bytes", "x input", "head MMAC", "of all work"):
        table.add_column(heading, justify="right")
    for split in backbone["splits"]:
        table.add_row(
            split["name"],
            split["module"],
            f"{split['channels']} x {split['height']} x {split['width']}",
            str(split["stride"]),
            f"{split['feature_bytes']:,}",
            f"{split['feature_to_input']:.2f}",
            f"{split['head_macs'] / 1e6:,.1f}",
            f"{100 * split['head_macs'] / backbone['macs']:.0f} %",
        )
    stdout_console().print(table)
