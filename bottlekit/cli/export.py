"""The verb `bottlekit export`."""

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
    say,
    set_quiet,
    stderr_console,
    stdout_console,
)
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.device.bundle import Bundle

_CODEC_PANEL = "The codec, where it is to be another than the network was trained with"
_UNTRAINED_PANEL = "With --untrained"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="What `bottlekit train` wrote (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write: the bundle.")],
    split: Annotated[
        str | None, typer.Option(help="The split point, e.g. rb1. A trained checkpoint knows its own.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="dynamic: graphs take any number of images. 1: exactly one.")
    ] = "dynamic",
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data set lies now, if not where it was in training.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Measure on so many held-out images; without it, on all of them.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="The bundle's name; a fleet needs another for each.", show_default="backbone and split point"
        ),
    ] = None,
    force: ForceOption = False,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained",
            help="Put a bottleneck that nobody trained into a backbone, to study size and latency. "
            "The bundle then claims no accuracy.",
            rich_help_panel=_UNTRAINED_PANEL,
        ),
    ] = False,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Which network CHECKPOINT is, where it is a torchvision state dict.",
            rich_help_panel=_UNTRAINED_PANEL,
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Its input in pixels.", show_default="224", rich_help_panel=_UNTRAINED_PANEL),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="bottlenet or butterfly.", show_default="bottlenet", rich_help_panel=_UNTRAINED_PANEL),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels that cross the cut.", show_default="2", rich_help_panel=_UNTRAINED_PANEL),
    ] = None,
    spatial: Annotated[
        int | None,
        typer.Option(
            help="Factor of spatial reduction.",
            show_default="2; 1 for butterfly",
            rich_help_panel=_UNTRAINED_PANEL,
        ),
    ] = None,
    kernel: Annotated[
        int | None,
        typer.Option(
            help="Filter size of the spatial reduction.",
            show_default="spatial + 1, at least 3",
            rich_help_panel=_UNTRAINED_PANEL,
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="jpeg, jpeg-lean, learned, png, raw, webp, webp-lossless or zdict; auto: the one with the fewest "
            "bytes that is accurate enough.",
            show_default="as trained; untrained: jpeg, raw for butterfly",
            rich_help_panel=_CODEC_PANEL,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Bits per code, 1..8.", show_default="as trained, or 8", rich_help_panel=_CODEC_PANEL),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Of JPEG and lossy WebP, 1..100.", show_default="as trained, or 20", rich_help_panel=_CODEC_PANEL
        ),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            help="What the codes span. image: its own minimum and maximum, 8 bytes more in every payload. static: "
            "one range for all, calibrated on training images.",
            show_default="as trained, or image",
            rich_help_panel=_CODEC_PANEL,
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            help="With --codec auto: how far below the accuracy without a codec it may be, as a fraction.",
            show_default="0.01",
            rich_help_panel=_CODEC_PANEL,
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a bundle: both halves and the whole network as ONNX graphs, proved equal to the network in torch.

    [bold]bottlekit export resnet18-rb1.safetensors -o bundle/[/bold] also measures accuracy and payload on the
    held-out images, with the graphs that are shipped. If any graph computes something else, nothing is written.
    """
    for_untrained = {
        "--backbone": backbone,
        "--input-size": input_size,
        "--unit": unit,
        "--channels": channels,
        "--spatial": spatial,
        "--kernel": kernel,
    }
    given = [option for option, value in for_untrained.items() if value is not None]
    without_training = None
    if untrained:
        if split is None:
            raise UsageError(
                "--untrained needs --split, the place to put the bottleneck; bottlekit models NAME lists them"
            )
        from bottlekit.export.source import Untrained

        without_training = Untrained(
            bottleneck_from_options(split, unit, channels, spatial, kernel),
            codec_from_options(None if codec == "auto" else codec, unit, bits, quality),
            backbone,
            input_size,
        )
    elif given:
        raise UsageError(
            f"{', '.join(given)}: a trained checkpoint knows this itself; leave it out, or add --untrained"
        )
    if batch not in ("dynamic", "1"):
        raise UsageError(f"--batch must be dynamic or 1, not {batch}: one inference of a split is one image")
    if max_accuracy_drop is not None and codec != "auto":
        raise UsageError("--max-accuracy-drop is what --codec auto chooses by; name no codec, or leave it out")
    set_quiet(quiet)

    from bottlekit.export.bundle_writer import bundle_from_checkpoint
    from bottlekit.export.codec_fit import MAX_ACCURACY_DROP, CodecRequest

    drop = MAX_ACCURACY_DROP if max_accuracy_drop is None else max_accuracy_drop
    # The specs and the codec refuse what is no range and no codec.
    request = CodecRequest(codec, bits, quality, value_range, drop)  # type: ignore[arg-type]

    with stderr_console().status("") as status:
        bundle = bundle_from_checkpoint(
            checkpoint,
            out,
            split=split,
            dynamic_batch=batch == "dynamic",
            images=images,
            force=force,
            command=command_line(),
            data_root=data_root,
            untrained=without_training,
            codec=request,
            say=say,
            progress=status.update,
            name=name,
        )
    emit(
        {"path": bundle.path, "sha256": bundle.sha256, "manifest": bundle.manifest},
        lambda: _print(bundle),
        as_json,
    )


def _print(bundle: Bundle) -> None:
    from rich.table import Table

    manifest = bundle.manifest
    table = Table("graph", title=f"{bundle.name} in {bundle.path}")
    for heading in ("bytes", "opset", "million MACs", "largest difference", "allowed"):
        table.add_column(heading, justify="right")
    for part in bundle.parts:
        entry = manifest["files"][f"{part}.onnx"]
        compared = [one for one in manifest["equivalence"] if one["what"].startswith(f"{part}.onnx")]
        values = [one for one in compared if "codes_differing" not in one]
        worst = max(values, key=lambda one: float(one["max_abs"] / one["tolerance"]))
        macs = manifest["macs"].get(part)
        table.add_row(
            part,
            f"{entry['bytes']:,}",
            str(entry["opset"]),
            "" if macs is None else f"{macs / 1e6:.1f}",
            f"{worst['max_abs']:.2g}",
            f"{worst['tolerance']:.2g}",
        )
    console = stdout_console()
    console.print(table)
    payload = manifest["payload_bytes"]
    console.print(
        f"payload {payload['mean']:.0f} bytes on average, {payload['max']} at most "
        f"({payload['images']} images of {payload['data']})"
    )
    console.print(_accuracy(manifest))
    console.print(_codec(manifest))


def _codec(manifest: dict[str, Any]) -> str:
    codec, choice = manifest["codec"], manifest["codec_choice"]
    quality = f", quality {codec['quality']}" if codec["name"] in ("jpeg", "jpeg-lean", "webp") else ""
    chosen = "" if choice is None else f" (the smallest of {choice['measured']} that is accurate enough)"
    return f"codec {codec['name']}, {codec['bits']} bits{quality}, range {codec['range']}{chosen}"


def _accuracy(manifest: dict[str, Any]) -> str:
    accuracy = manifest["accuracy"]
    if accuracy is None:
        return "accuracy: none, because " + (
            "nobody trained this bottleneck" if manifest["untrained"] else "neither data set nor training told one"
        )
    baseline = "" if accuracy["baseline"] is None else f", uncompressed network {accuracy['baseline']:.2%}"
    where = "these graphs" if accuracy["measured_on"] == "onnx" else "the network in training"
    return f"accuracy {accuracy['split']:.2%}{baseline} (measured on {where}, {accuracy['data']})"
