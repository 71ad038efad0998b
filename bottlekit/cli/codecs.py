"""The verb `bottlekit codecs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bottlekit.cli.common import (
    JsonOption,
    QuietOption,
    emit,
    say,
    set_quiet,
    stderr_console,
    stdout_console,
)


def codecs(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    codec: Annotated[str | None, typer.Option(help="Measure this one only.", show_default="all of them")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits per code, 1..8.", show_default="the bundle's")] = None,
    quality: Annotated[
        int | None, typer.Option(help="Of JPEG and lossy WebP, 1..100.", show_default="the bundle's")
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", help="image or static.", show_default="the bundle's")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Measure on so many held-out images.")] = 256,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data set lies now, if it is read from files.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure every codec on a bundle's features: bytes of the payloads, microseconds to encode and decode.

    What a codec learns, it learns from training images; what is measured are held-out ones, on this machine.
    [bold]bottlekit export --codec NAME[/bold] writes a bundle with another codec.
    """
    set_quiet(quiet)

    from bottlekit.device.bundle import Bundle
    from bottlekit.export.codec_fit import CodecRequest
    from bottlekit.export.codec_table import codec_table

    # The request refuses what is no range.
    request = CodecRequest(codec, bits, quality, value_range)  # type: ignore[arg-type]
    with stderr_console().status("") as status:
        table = codec_table(Bundle.load(str(bundle)), request, data_root, images, say, status.update)
    emit(table, lambda: _print(table), as_json)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    c, h, w = found["feature"]
    table = Table("codec", title=f"{found['bundle']['name']}, feature {c} x {h} x {w}: bytes of a payload")
    for heading in ("bits", "quality", "range", "mean", "p50", "p99", "max", "encode us", "decode us", "exact"):
        table.add_column(heading, justify="right")
    for one in found["codecs"]:
        quality = str(one["quality"]) if one["name"] in ("jpeg", "jpeg-lean", "webp") else ""
        if "why_not" in one:
            table.add_row(one["name"], str(one["bits"]), quality, one["range"])
            continue
        sizes = one["payload_bytes"]
        table.add_row(
            one["name"] + (" (the bundle's)" if one["in_bundle"] else ""),
            str(one["bits"]),
            quality,
            one["range"],
            f"{sizes['mean']:.1f}",
            *(str(sizes[name]) for name in ("p50", "p99", "max")),
            f"{one['encode_us']:.0f}",
            f"{one['decode_us']:.0f}",
            "yes" if one["lossless"] else "no",
        )
    console = stdout_console()
    console.print(table)
    for one in found["codecs"]:
        if "why_not" in one:
            console.print(f"{one['name']}: {one['why_not']}")
    console.print(
        f"measured on {found['measured_on']}; learned from {found['calibrated_on']}; "
        "times are medians on this machine; exact: only the quantiser loses anything"
    )
