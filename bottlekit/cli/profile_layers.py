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
from bottlekit.errors import UnknownNameError, UsageError


def profile_layers(
    out: Annotated[Path, typer.Option("--out", "-o", help="The layer profile to write; replaced if it exists.")],
    classifier: Annotated[
        Path | None,
        typer.Argument(metavar="CLASSIFIER", help="Any ONNX classifier; of a bundle, its uncompressed network."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Profile training steps of this network instead: forward and backward.")
    ] = None,
    classes: Annotated[int, typer.Option(help="With --backbone: how many classes.")] = 10,
    input_size: Annotated[int, typer.Option(help="With --backbone: side of the input in pixels.")] = 64,
    batch_size: Annotated[int, typer.Option(help="With --backbone: images of a step.")] = 32,
    cuts: Annotated[
        str | None,
        typer.Option(metavar="MODULE,...", help="With --backbone: where to cut. Default: its split points."),
    ] = None,
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

    For schedules of training, a network by its name; its layers are what lies between its split points:

        bottlekit profile-layers --backbone resnet18 --batch-size 64 -o layers.json
    """
    import bottlekit
    from bottlekit.device.environment import environment
    from bottlekit.device.files import write_json

    set_quiet(quiet)
    if (classifier is None) == (backbone is None):
        raise UsageError("profile-layers takes either a CLASSIFIER.onnx, or --backbone for steps of training")
    if codec not in ("none", "png", "jpeg"):
        raise UnknownNameError("codec", codec, ("none", "png", "jpeg"))
    with stderr_console().status("reading") as status:

        def progress(done: int, of: int) -> None:
            if not is_quiet():
                status.update(f"group {done + 1} of {of}")

        if classifier is None:
            from bottlekit.specs import ModelSpec
            from bottlekit.training.together.profile import training_layers

            if codec != "none":
                raise UsageError(
                    "--codec is for inference; activations and gradients of training cross as they are"
                )
            profile = training_layers(
                ModelSpec(str(backbone), classes, input_size),
                batch_size,
                None if cuts is None else cuts.split(","),
                sample=sample,
                samples=samples,
                threads=threads,
                progress=progress,
            )
        else:
            from bottlekit.build.layer_profile import layers_from_classifier
            from bottlekit.build.onnx_segments import classifier_file

            profile = layers_from_classifier(
                classifier_file(classifier),
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
