"""The verb `bottlekit infer`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import EnginesOption, EnginesTargetOption, JsonOption, QuietOption, emit, say, set_quiet
from bottlekit.cli.infer_adaptive import infer_adaptively
from bottlekit.cli.infer_exits import decides_here, exit_classifier, exit_options, show_exit_report
from bottlekit.cli.infer_plan import infer_with_plan
from bottlekit.cli.infer_show import show
from bottlekit.cli.server_options import ServerNameOption, TlsOption, TokenFileOption
from bottlekit.errors import DataError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bottlekit.device.bundle import Bundle
    from bottlekit.device.service import RunnerFor

# Files in a folder that are taken for images; a file named by itself may be called anything.
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# What a cloud-only client sends for an image that is no JPEG file yet.
_JPEG_QUALITY = 90


def infer(
    fleet: Annotated[
        Path,
        typer.Argument(metavar="FLEET", help="A bundle, or a folder of bundles; with --plan an ONNX classifier."),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server that `bottlekit serve` announced.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Where to cut; the fleet's first split without it.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Run both halves here, codec in between.")] = False,
    mobile_only: Annotated[
        bool, typer.Option("--mobile-only", help="Run the whole uncompressed network here.")
    ] = False,
    cloud_only: Annotated[
        bool, typer.Option("--cloud-only", help="Send the image as JPEG; the server runs the whole network.")
    ] = False,
    top: Annotated[int, typer.Option(help="How many classes to show, best first.")] = 5,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for an answer, connecting again included.")
    ] = 10.0,
    engines: EnginesOption = None,
    target: EnginesTargetOption = None,
    no_fused: Annotated[
        bool,
        typer.Option(
            "--no-fused", help="Quantise on the host, where a head on the GPU could do it in one kernel behind it."
        ),
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads for one operator; all cores without it.")] = None,
    tls: TlsOption = None,
    server_name: ServerNameOption = None,
    token_file: TokenFileOption = None,
    exit_threshold: Annotated[
        str | None,
        typer.Option(
            metavar="T,...",
            help="For a bundle with an exit: below which entropy (in nats), or above which probability, the device "
            "answers itself. One number, or one for each exit.",
            show_default="as calibrated",
        ),
    ] = None,
    exit_policy: Annotated[
        str | None,
        typer.Option(
            metavar="BOUND=VALUE,...",
            help="For a bundle with an exit: move the threshold so that this holds at the best accuracy. bytes, "
            "latency-ms (means), deadline-ms (each image), server-per-s with or without images-per-s.",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="SCHEDULE", help="Run the layers where this schedule of `plan --switches` says."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With --plan: the same bits wherever the network is cut; slower.")
    ] = False,
    never_alone: Annotated[
        bool, typer.Option("--never-alone", help="With --plan: fail when the server is lost, do not finish here.")
    ] = False,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="For every image the split that is quickest now, or all of it here.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(help="With --adaptive: what `bottlekit bench` measured of the fleet here.")
    ] = None,
    server_profile: Annotated[
        Path | None, typer.Option(help="With --adaptive: what it measured on the server; --profile without it.")
    ] = None,
    pin: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="With --adaptive: this one, or mobile-only, in any case.")
    ] = None,
    memory_mb: Annotated[
        float | None, typer.Option(metavar="MB", help="With --adaptive: what all loaded graphs may have together.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Classify images: the head here, the tail on a server.

    Start a server with the same fleet first, in another terminal or on another machine:

        bottlekit serve fleet/ --port 9090

        bottlekit infer fleet/ photo.jpg --server localhost:9090

    A schedule of layers runs with the classifier itself, and `bottlekit serve-layers` on the other side:

        bottlekit infer classifier.onnx photo.jpg --plan schedule.json --server localhost:9091

    Every time shown was measured in this run, the first image's includes what happens only once.
    """
    set_quiet(quiet)
    from bottlekit.device.ort_runner import check_threads
    from bottlekit.device.wire.addresses import address_from_text

    if plan is not None:
        if split or local or mobile_only or cloud_only or engines or target or threads or token_file:
            raise UsageError("--plan says what runs where; it goes with --server, --top, --timeout and --tls alone")
        paths = [path for image in images for path in _image_files(image)]
        infer_with_plan(fleet, paths, plan, server, top, timeout, exact, never_alone, tls, server_name, as_json)
        return
    if exact or never_alone:
        raise UsageError("--exact and --never-alone are for a schedule: give --plan SCHEDULE with them")
    if not adaptive and (profile or server_profile or pin or memory_mb):
        raise UsageError("--profile, --server-profile, --pin and --memory-mb are for --adaptive: give it as well")
    threshold, bounds = exit_options(exit_threshold, exit_policy)
    if adaptive and (split or local or mobile_only or cloud_only):
        raise UsageError("--adaptive picks the split itself; hold it to one with --pin SPLIT or --pin mobile-only")
    setup = _setup(local, mobile_only, cloud_only)
    remote = setup in ("collaborative", "cloud-only")
    if remote and server is None:
        raise UsageError("--server HOST:PORT is missing; or pass --local or --mobile-only to run without a server")
    if not remote and server is not None:
        raise UsageError(f"--{setup} runs on this machine: leave out --server, or leave out --{setup}")
    address = address_from_text(server) if server is not None else None
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}")
    if (engines is None) != (target is None):
        raise UsageError("--engines and --target go together: the folder of engines, and whose engines to take")
    if not remote and (tls is not None or token_file is not None):
        raise UsageError(f"--tls and --token-file are for a server; --{setup} runs on this machine")
    if server_name is not None and tls is None:
        raise UsageError("--server-name is the name in a certificate: give --tls FOLDER as well")
    check_threads(threads)
    if not 0 < timeout < float("inf"):
        raise UsageError(f"--timeout must be more than 0 seconds, not {timeout:g}")

    from bottlekit.device.bundle import fleet_from_path

    paths = [path for image in images for path in _image_files(image)]
    runner_for = _runner_for(engines, target, threads, not no_fused)
    client = {
        "timeout_s": timeout,
        "tls_folder": str(tls) if tls else None,
        "server_name": server_name,
        "token": _token(token_file),
    }
    if adaptive:
        how = (server, profile, server_profile, pin, memory_mb, top, (engines, target), client, runner_for)
        infer_adaptively(fleet, paths, *how, (threshold, bounds), _result, as_json)
        return
    bundle = _bundle_for_split(fleet_from_path(str(fleet)), split)
    results = []
    classify: Callable[[Path], dict[str, Any]]
    with contextlib.ExitStack() as stack:
        leaving = None
        if decides_here(bundle, setup, threshold is not None or bounds is not None):
            opened = exit_classifier(bundle, address, client, runner_for, threshold, bounds, top, _result)
            classify = leaving = stack.enter_context(opened)
        else:
            classify = stack.enter_context(_classifier(setup, bundle, address, client, runner_for, top))
        for path in paths:
            result = {"image": str(path), **classify(path)}
            results.append(result)
            if not as_json:
                show(result)
    report: dict[str, Any] = {
        "setup": setup,
        "server": server,
        "bundle": {"name": bundle.name, "split": bundle.split["name"], "sha256": bundle.sha256},
        "images": results,
    }
    if leaving is not None:
        report["exit"] = leaving.report()
    emit(report, lambda: None if leaving is None else show_exit_report(report["exit"]), as_json)


def _runner_for(engines: Path | None, target: str | None, threads: int | None, fused: bool) -> RunnerFor | None:
    from bottlekit.device.service import runner_from_engines, runner_from_onnx

    if engines is not None and target is not None:
        return runner_from_engines(str(engines), target, threads, fused)
    return None if threads is None else runner_from_onnx(threads)


def _token(token_file: Path | None) -> bytes | None:
    if token_file is None:
        return None
    from bottlekit.device.access import token_from_file

    return token_from_file(str(token_file))


def _setup(local: bool, mobile_only: bool, cloud_only: bool) -> str:
    chosen = [
        name
        for name, asked in (("local", local), ("mobile-only", mobile_only), ("cloud-only", cloud_only))
        if asked
    ]
    if len(chosen) > 1:
        raise UsageError(f"choose one of {', '.join('--' + name for name in chosen)}")
    return chosen[0] if chosen else "collaborative"


def _image_files(path: Path) -> list[Path]:
    """The image file itself, or all image files below a folder, in order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not found:
        raise DataError(f"no image in the folder {path}; it needs files ending in {', '.join(sorted(_SUFFIXES))}")
    return found


def _bundle_for_split(bundles: list[Bundle], split: str | None) -> Bundle:
    names = [bundle.split["name"] for bundle in bundles]
    if split is None:
        if len(bundles) > 1:
            say(f"cutting at {names[0]}, the first of {', '.join(names)}; choose with --split")
        return bundles[0]
    for bundle in bundles:
        if bundle.split["name"] == split:
            return bundle
    raise UnknownNameError("split", split, names, "Choose one of this fleet's with --split.")


@contextlib.contextmanager
def _classifier(
    setup: str,
    bundle: Bundle,
    address: tuple[str, int] | None,
    client_options: dict[str, Any],
    runner_for: RunnerFor | None,
    top: int,
) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """What classifies one image file in the chosen setup, ready to run."""
    from bottlekit.device.client import SplitClient
    from bottlekit.device.images import image_from_file, input_from_image
    from bottlekit.device.pipeline import local_split_from_bundle, local_whole_from_bundle

    if address is not None:
        with contextlib.ExitStack() as stack:
            head = None
            if runner_for is not None and setup == "collaborative":
                head = stack.enter_context(runner_for(bundle, "head"))
            client = stack.enter_context(SplitClient(bundle, *address, head, **client_options))
            if setup == "cloud-only":
                yield lambda path: _remote_result(bundle, client.infer_cloud_only(_jpeg(path), top), top)
            else:
                client.load_head()
                yield lambda path: _remote_result(bundle, client.infer_image(image_from_file(str(path)), top), top)
        return

    local_from_bundle = local_split_from_bundle if setup == "local" else local_whole_from_bundle
    opened = local_from_bundle(bundle, runner_for=runner_for)
    with opened as network:

        def classify(path: Path) -> dict[str, Any]:
            image = input_from_image(image_from_file(str(path)), bundle.preprocessing)
            outcome = network.infer(image[None])
            ranked = [(index, float(outcome.logits[index])) for index in (-outcome.logits).argsort(kind="stable")]
            result = _result(bundle, ranked[:top], outcome.times_ms)
            if setup == "local":
                result["payload_bytes"] = outcome.payload_bytes
            return result

        yield classify


def _jpeg(path: Path) -> bytes:
    """The bytes of a JPEG file as they are; any other image as JPEG."""
    from bottlekit.device.images import image_from_file, jpeg_from_image

    image = image_from_file(str(path))
    data = path.read_bytes()
    return data if data.startswith(b"\xff\xd8\xff") else jpeg_from_image(image, _JPEG_QUALITY)


def _remote_result(bundle: Bundle, answer: Any, top: int) -> dict[str, Any]:
    return {
        **_result(bundle, answer.top(top), answer.times_ms),
        "payload_bytes": answer.payload_bytes,
        "framed_bytes": answer.framed_bytes,
        "response_bytes": answer.response_bytes,
    }


def _result(bundle: Bundle, ranked: list[tuple[int, float]], times_ms: dict[str, float]) -> dict[str, Any]:
    best = [{"class": bundle.classes[index], "index": int(index), "logit": logit} for index, logit in ranked]
    return {
        "class": best[0]["class"],
        "class_index": best[0]["index"],
        "top": best,
        "times_ms": {name: round(value, 4) for name, value in times_ms.items()},
    }
