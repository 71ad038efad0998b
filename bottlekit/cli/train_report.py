"""What `bottlekit train` says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import emit, stdout_console

if TYPE_CHECKING:
    from pathlib import Path

    from bottlekit.models.checkpoint import Checkpoint


def report_checkpoint(output: Path, checkpoint: Checkpoint, as_json: bool) -> None:
    """What was written and how good it is."""
    from bottlekit.device.files import sha256_of_file
    from bottlekit.specs import to_dict
    from bottlekit.training.loop import is_main_process

    if not is_main_process():
        return
    result = {
        "checkpoint": str(output),
        "sha256": sha256_of_file(str(output)),
        "model": to_dict(checkpoint.model),
        "bottleneck": checkpoint.bottleneck and to_dict(checkpoint.bottleneck),
        "codec": checkpoint.codec and to_dict(checkpoint.codec),
        "data": checkpoint.data,
        "accuracy": checkpoint.accuracy,
        "recipe": checkpoint.training["recipe"]["name"],
        "seed": checkpoint.training["seed"],
        "epochs": len(checkpoint.training["history"]),
    }
    emit(result, lambda: _print_report(output, checkpoint), as_json)


def _print_report(output: Path, checkpoint: Checkpoint) -> None:
    measured = checkpoint.accuracy
    out = stdout_console()
    out.print(f"{output}: {checkpoint.model.backbone}, measured on {measured['images']} held-out images")
    out.print(f"  accuracy of the uncompressed network   {measured['baseline']:7.2%}")
    if checkpoint.bottleneck is not None:
        out.print(f"  accuracy with the bottleneck           {measured['split']:7.2%}")
        out.print(f"  the same without its codec             {measured['split_without_codec']:7.2%}")
        out.print(f"  mean payload                           {measured['payload_bytes_mean']:7} bytes")
        for rate in measured.get("rates", []):
            name = "quality" if "quality" in rate else "bits"
            out.print(f"  at {name} {rate[name]:3}   {rate['split']:7.2%}   {rate['payload_bytes_mean']:7} bytes")


def report_sweep(output: Path, swept: dict[str, Any], as_json: bool) -> None:
    """What a sweep found, and where it was written."""
    from bottlekit.training.loop import is_main_process

    if is_main_process():
        emit(swept, lambda: _print_sweep(output, swept), as_json)


def _print_sweep(output: Path, swept: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"Accuracy on {swept['held_out_images']} held-out images, mean payload in bytes")
    for column in ("JPEG quality", "naive", "bytes", "compression-aware", "bytes"):
        table.add_column(column, justify="right")
    for point in swept["points"]:
        cells = [str(point["quality"])]
        for way in ("naive", "aware"):
            cells += [f"{point[way]['accuracy']:.2%}", str(point[way]["payload_bytes_mean"])]
        table.add_row(*cells)
    out = stdout_console()
    out.print(table)
    out.print(
        f"uncompressed network {swept['baseline_accuracy']:.2%}; "
        f"naive without its codec {swept['naive_accuracy_without_codec']:.2%}"
    )
    out.print(f"written: {output} and {output.with_suffix('.csv')}")
