"""The whole pipe on scikit-learn's handwritten digits.

::

    digits --train--> network --train--> bottleneck at each split --export--> fleet --build--> engines (cpu, RTX)
                                                                                       |
        report.html <-- table, pictures <-- plans <--plan-- profile.json <-----bench---+
                             ^
        held-out images --infer--> head here, tail in the server's process (serve), over a socket
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottlekit.demo.verbs import Verbs
from bottlekit.device.files import read_json, write_json
from bottlekit.errors import BottlekitError, TargetError
from bottlekit.targets.availability import availability
from bottlekit.targets.loader import target_from_name

LINKS = ("3g", "4g", "wifi")
RTX_TARGET = "rtx-ada"
# Widths that keep the digits within two points of the uncompressed network: the maps shrink with depth, so the
# deeper splits need more channels for the same number of values.
CHANNELS = {"rb1": 4, "rb2": 4}
DEEPER_CHANNELS = 8
SPATIAL = 2


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What the demo can be told: where to write, which splits to train, and how much patience there is."""

    folder: Path
    splits: Sequence[str] = ("rb1", "rb3")
    seed: int = 0
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class DemoRun:
    """Everything a run left behind, for the page and the table.

    `answers` holds what `infer` reported, by setup: "mobile-only", "cloud-only", or a split's name; `labels` the
    true class of each held-out image, by path; `server` what the server's process announced of itself.
    """

    folder: Path
    profile: dict[str, Any]
    plans: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]]
    labels: dict[str, str]
    compiled: list[dict[str, Any]]
    not_compiled: str | None
    server: dict[str, Any]
    lines: list[str]


def run_pipe(options: DemoOptions, say: Callable[[str], None], quiet: bool = False) -> DemoRun:
    """Run every verb of the pipe; BottlekitError when one fails, or when the split and the reference disagree."""
    folder = options.folder
    verbs = Verbs(folder, say, quiet)
    labels = write_held_out_images(folder / "images", options.seed)

    epochs = ["--epochs", "2"] if options.quick else []
    seed = ["--seed", str(options.seed)]
    verbs.run("train", "--data", "digits", "--backbone", "resnet18", "-o", "network.safetensors", *seed, *epochs)
    for split in options.splits:
        width = CHANNELS.get(split, DEEPER_CHANNELS)
        unit = ["--split", split, "--channels", str(width), "--spatial", str(SPATIAL)]
        checkpoint = f"{split}.safetensors"
        verbs.run("train", "--from", "network.safetensors", *unit, "-o", checkpoint, *seed, *epochs)
        verbs.run("export", checkpoint, "--split", split, "-o", f"fleet/resnet18-{split}")

    verbs.run("build", "fleet", "--target", "cpu", "-o", "engines")
    compiled, not_compiled = _compile_rtx(verbs)
    effort = ["--quick"] if options.quick else []
    verbs.run("bench", "fleet", "--target", "cpu", "--engines", "engines", "-o", "profile.json", *effort)
    server, answers = _infer_everywhere(verbs, options.splits)
    for link in LINKS:
        verbs.run("plan", "profile.json", "--link", link, "-o", f"plan-{link}.json")
    return DemoRun(
        folder=folder,
        profile=read_json(str(folder / "profile.json"), "profile"),
        plans={link: read_json(str(folder / f"plan-{link}.json"), "plan") for link in LINKS},
        answers=answers,
        labels=labels,
        compiled=compiled,
        not_compiled=not_compiled,
        server=server,
        lines=verbs.lines,
    )


def write_held_out_images(folder: Path, seed: int) -> dict[str, str]:
    """Write the held-out digits as PNG files, one folder a class; returns the class of each, by path."""
    from PIL import Image

    from bottlekit.training.data import dataset_from_name

    data = dataset_from_name("digits", seed=seed)
    labels = {}
    for index in range(len(data.val)):
        name = data.classes[int(data.val[index][1])]
        path = folder / name / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image_uint8(index)).save(path)
        labels[str(path.relative_to(folder.parent))] = name
    return labels


def _compile_rtx(verbs: Verbs) -> tuple[list[dict[str, Any]], str | None]:
    """Both halves through the real TensorRT compiler; or why this machine cannot (it runs on Linux x86-64)."""
    able = availability(target_from_name(RTX_TARGET))
    if not able.builds:
        return [], able.why_not_build
    built = verbs.run("build", "fleet", "--target", RTX_TARGET, "--part", "head", "--part", "tail", "-o", "engines")
    engines: list[dict[str, Any]] = built["engines"]
    if not engines:
        raise TargetError(f"{RTX_TARGET}: the build reported no engine")
    return engines, None


def _infer_everywhere(verbs: Verbs, splits: Sequence[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Classify the held-out images in every setup; the split's answers must equal the one-process reference.

    Returns what the server announced of itself, and the answers by setup.
    """
    answers = {"mobile-only": verbs.run("infer", "fleet", "images", "--mobile-only")}
    with verbs.background("serve", "fleet", "--port", "0") as server:
        address = f"{server['host']}:{server['port']}"
        for split in splits:
            answers[split] = verbs.run("infer", "fleet", "images", "--split", split, "--server", address)
        answers["cloud-only"] = verbs.run("infer", "fleet", "images", "--cloud-only", "--server", address)
    for split in splits:
        reference = verbs.run("infer", "fleet", "images", "--split", split, "--local")
        _require_equal(split, answers[split]["images"], reference["images"])
    for name, report in answers.items():
        write_json(str(verbs.folder / f"answers-{name}.json"), report)
    return server, answers


def _require_equal(split: str, remote: Sequence[Mapping[str, Any]], local: Sequence[Mapping[str, Any]]) -> None:
    compared = ("image", "class", "top", "payload_bytes")
    for there, here in zip(remote, local, strict=True):
        if any(there[name] != here[name] for name in compared):
            raise BottlekitError(
                f"the demo stopped: the split at {split} answers {there['top'][:1]} for {there['image']}, and both "
                f"halves in one process {here['top'][:1]}"
            )


def observed(run: DemoRun) -> dict[tuple[str, str], dict[str, float]]:
    """What was measured while the setups really ran, in the form the setups' table takes."""
    figures = {}
    for name, report in run.answers.items():
        key = (name, "") if name in ("mobile-only", "cloud-only") else ("collaborative", name)
        images = report["images"]
        right = [image["class"] == run.labels[image["image"]] for image in images]
        figures[key] = {
            "accuracy": statistics.fmean(right),
            "loopback_ms": statistics.median(_device_clock_ms(image["times_ms"]) for image in images),
        }
        for size in ("payload_bytes", "framed_bytes"):
            if all(size in image for image in images):
                figures[key][size] = statistics.fmean(image[size] for image in images)
    return figures


def _device_clock_ms(times_ms: Mapping[str, float]) -> float:
    """What one inference took on the device's clock: its own phases and the round trip, if there was one."""
    here = {name: value for name, value in times_ms.items() if name in ("head", "encode", "round_trip")}
    return sum(here.values()) if "round_trip" in here else sum(times_ms.values())
