"""From a finished run to the table and the page."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import bottlekit
from bottlekit.demo.pipe import DemoRun, observed
from bottlekit.device.bundle import fleet_from_path
from bottlekit.device.files import sha256_of_file, whole_file
from bottlekit.device.images import image_from_file, input_from_image
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.report.drawing import Picture
from bottlekit.report.examples import Example, canvases_from_features, examples_picture
from bottlekit.report.html import DemoReport, ReportFile, html_report
from bottlekit.report.pictures import accuracy_picture, bytes_picture, phases_picture, terms_picture
from bottlekit.report.setups import setups_table
from bottlekit.report.table import Table

_EXAMPLES = 6
_PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "tensorrt-rtx", "numpy", "thrift")
# What a file is, by how its name ends; the first that fits.
_WHAT = {
    "network.safetensors": "the uncompressed network",
    ".safetensors": "the network with a bottleneck",
    "bundle.json": "what a bundle is: settings, accuracy, hashes",
    "golden.npz": "golden inputs and outputs",
    "codec.npz": "what the codec learned",
    "profile.json": "every raw sample of the benchmark",
    ".onnx.json": "an engine's sidecar",
    ".plan.json": "an engine's sidecar",
    ".plan": "a TensorRT-RTX plan",
    "-cpu.onnx": "an ONNX Runtime engine",
    ".onnx": "a graph of the bundle",
    ".json": "what a verb reported",
}


def table_from_run(run: DemoRun) -> Table:
    """The three setups per network: accuracy, bytes, latency, energy, each with where it comes from."""
    return setups_table(run.profile, run.plans, observed(run), title="Handwritten digits, ResNet-18 at 64x64")


def summary_from_run(run: DemoRun) -> str:
    """What to take away, in one sentence of measured numbers."""
    figures = observed(run)
    whole, cloud = figures[("mobile-only", "")], figures[("cloud-only", "")]
    key = max((key for key in figures if key[0] == "collaborative"), key=lambda key: figures[key]["accuracy"])
    best = figures[key]
    gain = 100 * (best["accuracy"] - whole["accuracy"])
    compared = (
        "as many as" if round(gain, 1) == 0 else f"{abs(gain):.1f} points {'more' if gain > 0 else 'fewer'} than"
    )
    return (
        f"Cut at {key[1]}, the network answers {best['accuracy']:.1%} of {len(run.labels)} held-out images right, "
        f"{compared} the uncompressed network, and sends {best['payload_bytes']:.0f} bytes for each, where the "
        f"JPEG input takes {cloud['payload_bytes']:.0f}."
    )


def write_page(run: DemoRun, command: str) -> Path:
    """Write report.html, one self-contained page, into the run's folder."""
    pictures = [
        terms_picture(run.profile, run.plans),
        terms_picture(run.profile, run.plans, "energy"),
        bytes_picture(run.profile),
        accuracy_picture(run.profile),
        phases_picture(run.profile),
        _examples(run),
    ]
    report = DemoReport(
        title="bottlekit demo",
        summary=summary_from_run(run),
        command=command,
        environment=_environment(run),
        table=table_from_run(run),
        pictures=pictures,
        plans=run.plans,
        files=_files(run.folder),
        steps=run.lines,
        profile=run.profile,
    )
    path = run.folder / "report.html"
    with whole_file(str(path)) as temporary:
        Path(temporary).write_text(html_report(report), encoding="utf-8")
    return path


def _environment(run: DemoRun) -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    measured_on = run.profile["environment"]
    compiled = ", ".join(f"{engine['bundle']} {engine['part']}" for engine in run.compiled)
    return {
        "bottlekit": bottlekit.__version__,
        "Python": platform.python_version(),
        "CPU": str(measured_on["cpu"] or platform.machine()),
        **versions,
        "compiled by TensorRT-RTX": compiled or f"nothing: {run.not_compiled}",
    }


def _examples(run: DemoRun) -> Picture:
    """Some held-out images on their way through the first split, run again on the bundle's own graphs."""
    bundle = fleet_from_path(str(run.folder / "fleet"))[0]
    paths = sorted(run.labels)
    examples = []
    with OnnxRuntimeRunner(bundle.onnx_path("head")) as head, OnnxRuntimeRunner(bundle.onnx_path("tail")) as tail:
        for index in range(_EXAMPLES):
            path = paths[index * len(paths) // _EXAMPLES]
            image = image_from_file(str(run.folder / path))
            feature = head.run({"image": input_from_image(image, bundle.preprocessing)[None]})["feature"][0]
            payload = bundle.codec.encode(feature)
            decoded = bundle.codec.decode(payload)
            logits = tail.run({"feature": decoded[None]})["logits"][0]
            sent, received = canvases_from_features(feature, decoded)
            predicted = bundle.classes[int(logits.argmax())]
            examples.append(Example(image, sent, received, len(payload), predicted, run.labels[path]))
    return examples_picture(examples)


def _files(folder: Path) -> list[ReportFile]:
    """Everything the run left behind but the images, with its hash."""
    return [
        ReportFile(str(path.relative_to(folder)), _what(path), path.stat().st_size, sha256_of_file(str(path)))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".png" and path.name != "report.html"
    ]


def _what(path: Path) -> str:
    """What a file is, in words."""
    for suffix, words in _WHAT.items():
        if path.name.endswith(suffix):
            return words
    return path.suffix.lstrip(".")
