"""The verb `bottlekit targets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import JsonOption, emit, stdout_console

if TYPE_CHECKING:
    from bottlekit.targets.availability import Availability
    from bottlekit.targets.loader import TargetSpec


def targets(
    name: Annotated[str | None, typer.Argument(help="A target; without it, all of them are listed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the kinds of machine that engines can be built for, and what this machine can build and run.

    [bold]bottlekit targets tx2[/bold] shows all facts of one: versions, abilities, peak figures, notes.
    """
    from bottlekit.targets.availability import availability
    from bottlekit.targets.loader import all_targets, target_from_name

    if name is None:
        every = [(target, availability(target)) for target in all_targets()]
        emit({"targets": [_row(*one) for one in every]}, lambda: _print_all(every), as_json)
    else:
        target = target_from_name(name)
        here = availability(target)
        emit(_row(target, here), lambda: _print_one(target, here), as_json)


def _row(target: TargetSpec, here: Availability) -> dict[str, Any]:
    return {**target.to_dict(), "here": here.to_dict()}


def _print_all(every: list[tuple[TargetSpec, Availability]]) -> None:
    from rich.table import Table

    table = Table("target", "machine", "SM", "compiler", "precisions", "built", "builds here", "runs here")
    for target, here in every:
        table.add_row(
            target.name,
            target.title,
            target.sm or "-",
            target.tensorrt or "ONNX Runtime",
            ", ".join(target.precisions),
            target.built,
            "yes" if here.builds else "no",
            "yes" if here.runs else "no",
        )
    table.caption = "bottlekit targets NAME shows its facts, and why this machine cannot build for it or run it"
    stdout_console().print(table)


def _print_one(target: TargetSpec, here: Availability) -> None:
    from rich.table import Table

    table = Table(title=f"{target.name}: {target.title}", show_header=False, title_justify="left")
    for what, value in _facts(target, here):
        table.add_row(what, value)
    stdout_console().print(table)


def _facts(target: TargetSpec, here: Availability) -> list[tuple[str, str]]:
    """Everything about a target as pairs of words; what does not apply to it is left out."""
    facts: list[tuple[str, str | None]] = [
        ("compute capability", target.sm),
        ("newest TensorRT", target.tensorrt),
        ("CUDA", target.cuda),
        ("Python", target.python),
        ("newest ONNX opset", str(target.opset)),
        ("precisions", ", ".join(target.precisions) + " (the first one, unless told otherwise)"),
        ("FP16", target.abilities.fp16),
        ("INT8", target.abilities.int8),
        ("deep-learning accelerator", "yes" if target.abilities.dla else "no"),
    ]
    if target.memory is not None:
        facts.append(
            ("memory", f"{target.memory.gib:g} GiB{', shared with the CPU' if target.memory.shared else ''}")
        )
    facts += [
        (
            f"peak, {peak.mode}",
            f"FP32 {peak.fp32_gflops:g}, FP16 {peak.fp16_gflops:g} GFLOP/s, {peak.memory_gbytes_per_s:g} GB/s",
        )
        for peak in target.peaks
    ]
    facts += [("note", note) for note in target.notes]
    facts += [
        ("built", target.built),
        ("builds here", f"yes, with {here.compiler}" if here.builds else f"no: {here.why_not_build}"),
        ("runs here", "yes" if here.runs else f"no: {here.why_not_run}"),
    ]
    return [(what, value) for what, value in facts if value is not None]
