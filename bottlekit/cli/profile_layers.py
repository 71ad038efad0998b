"""The verb `bottlekit profile-layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bottlekit.cli.common import (
    JsonOption,
    QuietOption,
    command_line,
    emit,
    is_quiet,
    say,
    set_quiet,
    stderr_console,
    stdout_console,
)
from bottlekit.errors import UnknownNameError


def profile_layers(
    classifier: Annotated[Path, typer.Argument(metavar="CLASSIFIER.onnx", help="Any ONNX classifier.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The layer profile to write; replaced if it exists.")],
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Measure 3 n groups of the n layers, not all n (n + 1) / 2; plan fills in."),
    ] = False,
    samples: Annotated[int, typer.Option(help="Timed runs of each group, at least 5.")] = 7,
    codec: Annotated[
        str, typer.Option(help="How features are sent: none (float32), png or jpeg (8 bits, tiled).")
    ] = "none",
    threads: Annotated[int | None, typer.Option(help="Threads of ONNX Runtime. Without it, all cores.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure groups of layers of any ONNX classifier here, for `plan --switches`.

    Every contiguous group of layers is cut out, compared with the whole network, and run in ONNX Runtime, because
    the times of layers do not add up (JointDNN). Do this on the device and on the server.

        bottlekit profile-layers classifier.onnx --sample -o layers.json
    """
    import bottlekit
    from bottlekit.build.layer_profile import layers_from_classifier
    from bottlekit.device.environment import environment
    from bottlekit.device.files import write_json

    set_quiet(quiet)
    if codec not in ("none", "png", "jpeg"):
        raise UnknownNameError("codec", codec, ("none", "png", "jpeg"))
    with stderr_console().status("reading") as status:

        def progress(done: int, of: int) -> None:
            if not is_quiet():
                status.update(f"group {done + 1} of {of}")

        profile = layers_from_classifier(
            classifier,
            sample=sample,
            samples=samples,
            codec=None if codec == "none" else codec,
            threads=threads,
            progress=progress,
        )
    document = {
        **profile,
        "bottlekit": bottlekit.__version__,
        "command": command_line(),
        "environment": environment(threads),
    }
    write_json(str(out), document)
    count = len(document["layers"])
    words = f"{count} layers, {len(document['groups'])} of {count * (count + 1) // 2} groups measured"
    emit(document, lambda: stdout_console().print(words), as_json)
    say(f"wrote {out}")
