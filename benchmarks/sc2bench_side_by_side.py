"""Claim: at equal accuracy bottlekit's learned codec sends no more bytes than sc2bench's entropic bottleneck.

    backbone, batches of every epoch, held-out images --> folder: plain arrays and weights
      --> here: a bottleneck with the codec `learned`, trained at each weight of a byte
      --> sc2bench_trainer.py in sc2bench's environment: its networks, on the same arrays from the same weights
    --> bytes and right answers for each held-out image --> results/*.jsonl, a picture, ratios at equal accuracy
    --> what both methods' codes take in one coder after the other (sc2bench_gap.py)

Split, backbone, images, number of epochs, optimizer and learning rates are the same for all, and so is the order of
the images but for that of bottlekit's warm-up; a seed is one order and one set of new weights. sc2bench needs an
environment of its own (numpy below 2):

    python3.11 -m venv sc2env && sc2env/bin/pip install "numpy<2" sc2bench==0.1.1 compressai==1.2.8
    python benchmarks/sc2bench_side_by_side.py --other sc2env/bin/python

Finished trainings are kept in --folder and not repeated: delete it to start anew. `--stop-after training` with one
of the --seeds each lets several processes share the work once the first of them has prepared the folder;
`--stop-after times` measures the times, which are kept, too: on a machine that has nothing else to do for a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bytes_points import CALIBRATION_IMAGES, features, right
from phase_times import phases_in_turns
from record import RESULTS, record
from sc2bench_gap import bytes_of_codes
from sc2bench_report import Run, comparison, draw, report

from bottlekit.device.codecs import Codec
from bottlekit.device.files import read_json, write_json
from bottlekit.export.codec_fit import fitted
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.macs import macs
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.batches import EpochOrder
from bottlekit.training.bottleneck import BottleneckTraining, warm_up_path
from bottlekit.training.data import DataSet, LabelledImages, dataset_from_name
from bottlekit.training.recipe import Recipe, default_recipe_name, learning_rate_at, recipe_from_name
from bottlekit.training.resume import resume_path
from bottlekit.training.train import train_backbone, train_bottleneck

CLAIM = "at equal accuracy, the learned codec sends no more bytes than sc2bench's entropic bottleneck"
TRAINER = Path(__file__).with_name("sc2bench_trainer.py")
ROUNDS = 3
OURS, UNWARMED = "bottlekit", "bottlekit, no warm-up"


def main() -> None:
    """Prepare and train what is missing; measure, compare, record and draw."""
    options = arguments()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data = dataset_from_name(options.data, input_size=options.input_size)
    source = folder / "network.safetensors"
    if not source.exists():
        recipe = recipe_from_name(default_recipe_name(data.name), "backbone", epochs=options.backbone_epochs)
        train_backbone(source, options.backbone, data, recipe, quiet=True)
    recipe = recipe_from_name(default_recipe_name(data.name), "bottleneck", epochs=options.epochs)
    runs = [run for seed in options.seeds for run in runs_of_sc2bench(options, seed)]
    prepare(options, data, source, recipe, runs)
    if not all(result_of(options, run).exists() for run in runs):
        subprocess.run([options.other, TRAINER, plan_path(options)], check=True)
    ours = [
        trained_and_measured(options, data, source, recipe, method, channels, weight, seed)
        for seed in options.seeds
        for method, settings in ((OURS, options.ours), (UNWARMED, options.unwarmed))
        for channels, weight in settings
    ]
    if options.stop_after == "training":
        return
    theirs: list[Run] = [read_json(str(result_of(options, run)), "a run") for run in runs]
    times = times_in_turns(options, data, ours, theirs)
    if options.stop_after == "times":
        return
    write_latents(options, theirs)
    points = [point | {"codes": codes_of(options, data, point)} for point in ours + theirs]
    baseline = load_checkpoint(source).accuracy["baseline"]
    figures = {
        "data": data.name, "backbone": options.backbone, "input_size": data.input_size, "split": options.split,
        "baseline": baseline, "training_images": len(data.train), "held_out_images": len(data.val),
        "epochs": options.epochs, "warm_up_epochs": options.distill_epochs,
        "comparison": comparison(points, OURS),
        "times_ms": times, "points": points,
    }  # fmt: skip
    report(figures)
    picture = RESULTS / f"sc2bench_side_by_side-{data.name.replace(':', '-')}-{data.input_size}.svg"
    draw(figures, picture)
    print(f"written: {record(CLAIM, figures, 1)} and {picture}")


def arguments() -> argparse.Namespace:
    """What is trained and measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", required=True, help="the Python of sc2bench's environment")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="cifar_resnet8")
    parser.add_argument("--split", default="rb1", help="the last block of layer1, where sc2bench's bottleneck ends")
    parser.add_argument("--spatial", type=int, default=2, choices=(1, 2))
    parser.add_argument("--input-size", type=int, default=32)
    parser.add_argument("--backbone-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=16, help="all of a training, the warm-up included")
    parser.add_argument("--distill-epochs", type=int, default=4, help="those of bottlekit's that are its warm-up")
    parser.add_argument("--bits", type=int, default=2)
    settings = {
        "ours": (("1:0.001", "1:0.003", "1:0.01"), "bottlekit's, a byte's weight in the loss"),
        "unwarmed": (("1:0.003",), "the same without its warm-up"),
        "same": (("1:0.0001", "1:0.0002", "1:0.0004"), "sc2bench's with the same encoder, a bit's weight"),
        "student": (("1:0.5",), "the same, trained in two stages"),
        "own": ((), "sc2bench's own encoder, trained in two stages; for torchvision's networks"),
        "crbq": (("1:0",), "CR+BQ, which has no weight"),
    }
    for name, (default, what) in settings.items():
        found = [pair(text) for text in default]
        parser.add_argument(f"--{name}", type=pair, nargs="*", default=found, metavar="CHANNELS:WEIGHT", help=what)
    parser.add_argument(
        "--density-times", type=float, default=5.0, help="how much faster sc2bench's density learns"
    )
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--timed-images", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("sc2bench-side-by-side"))
    parser.add_argument("--stop-after", choices=("training", "times"), help="go no further, record nothing")
    return parser.parse_args()


def pair(text: str) -> tuple[int, float]:
    """Channels and weight from their text."""
    channels, weight = text.split(":")
    return int(channels), float(weight)


def runs_of_sc2bench(options: argparse.Namespace, seed: int) -> list[Run]:
    """The trainings of a seed in the other environment."""
    ways = {
        "same": ("same", "end-to-end"),
        "student": ("same", "two-stage"),
        "own": ("own", "two-stage"),
        "crbq": ("crbq", "two-stage"),
    }
    wanted = [(kind, *ways[kind], *one) for kind in ways for one in getattr(options, kind)]
    return [
        {
            "name": f"sc2bench-{kind}-{channels}-{weight:g}-seed{seed}",
            "method": f"sc2bench {kind}", "bottleneck": bottleneck, "way": way,
            "channels": channels, "spatial": options.spatial, "weight": weight, "seed": seed,
        }
        for kind, bottleneck, way, channels, weight in wanted
    ]  # fmt: skip


def result_of(options: argparse.Namespace, run: Run) -> Path:
    """Where the other environment writes what it measured."""
    path: Path = options.folder / f"{run['name']}.json"
    return path


def plan_path(options: argparse.Namespace) -> Path:
    """Where this process tells the other environment what to train."""
    path: Path = options.folder / f"plan-{os.getpid()}.json"
    return path


def prepare(options: argparse.Namespace, data: DataSet, source: Path, recipe: Recipe, runs: list[Run]) -> None:
    """Write what the other environment reads: the plan of this process, and once the arrays and weights."""
    folder: Path = options.folder
    steps = len(data.train) // recipe.batch_size
    lengths = {options.epochs, options.epochs // 2, options.epochs - options.epochs // 2}
    of_length = {epochs: dataclasses.replace(recipe, epochs=epochs) for epochs in lengths}
    rates = {
        str(epochs): [learning_rate_at(one, step, steps) for step in range(steps * epochs)]
        for epochs, one in of_length.items()
    }
    plan = {
        "backbone": options.backbone, "classes": len(data.classes), "epochs": options.epochs,
        "batch_size": recipe.batch_size, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay,
        "density_times": options.density_times, "learning_rates": rates, "timed_images": options.timed_images,
        "runs": runs,
    }  # fmt: skip
    write_json(str(plan_path(options)), plan)
    if (folder / "logits.npy").exists():
        return
    backbone = load_checkpoint(source).network()
    torch.save(backbone.state_dict(), folder / "weights.pt")
    shape = (options.epochs, len(data.train), 3, data.input_size, data.input_size)
    inputs = np.lib.format.open_memmap(folder / "inputs.npy", mode="w+", dtype=np.float32, shape=shape)
    for epoch in range(options.epochs):
        data.train.set_epoch(epoch)
        for index in range(len(data.train)):
            inputs[epoch, index] = data.train[index][0].numpy()
    inputs.flush()
    np.save(folder / "labels.npy", np.asarray(data.train.labels))
    np.save(folder / "orders.npy", [orders(len(data.train), seed, options.epochs) for seed in range(10)])
    np.save(folder / "calibration.npy", torch.stack([calibration(data)[0][i][0] for i in calibration(data)[1]]))
    held_out = torch.stack([data.val[index][0] for index in range(len(data.val))])
    np.save(folder / "held_out.npy", held_out)
    np.save(folder / "held_out_labels.npy", np.asarray(data.val.labels))
    with torch.inference_mode():
        np.save(folder / "logits.npy", backbone(held_out))


def orders(count: int, seed: int, epochs: int) -> list[list[int]]:
    """The order of the images in each epoch, as bottlekit's training draws it."""
    order = EpochOrder(count, seed)
    found = []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        found.append(list(order))
    return found


def calibration(data: DataSet) -> tuple[LabelledImages, list[int]]:
    """Training images as a device sees them, and which of them a codec learns from."""
    places = [place * len(data.train) // CALIBRATION_IMAGES for place in range(CALIBRATION_IMAGES)]
    return LabelledImages(data.train.source, data.preprocessing), list(dict.fromkeys(places))


def trained_and_measured(
    options: argparse.Namespace,
    data: DataSet,
    source: Path,
    recipe: Recipe,
    method: str,
    channels: int,
    weight: float,
    seed: int,
) -> Run:
    """One of bottlekit's networks, from the folder if it is there."""
    name = f"{method.replace(', ', '-').replace(' ', '-')}-{channels}-{weight:g}-seed{seed}"
    path = options.folder / f"{name}.safetensors"
    result = path.with_suffix(".json")
    if not result.exists():
        warm_up = options.distill_epochs if method == OURS else 0
        if not path.exists():
            unit = BottleneckSpec("bottlenet", options.split, channels, options.spatial)
            codec = CodecSpec("learned", options.bits, range="static")
            how = BottleneckTraining(rate_weight=weight, distill_epochs=warm_up)
            shorter = dataclasses.replace(recipe, epochs=options.epochs - warm_up)
            interrupted = any(state.exists() for state in (resume_path(path), warm_up_path(resume_path(path))))
            train_bottleneck(path, source, unit, codec, shorter, data, seed, how, interrupted, quiet=True)
        measured = {
            "name": name, "method": method, "bottleneck": "same",
            "way": "warm-up and labels" if warm_up else "labels",
            "channels": channels, "bits": options.bits, "weight": weight, "seed": seed,
        } | of_held_out(path, data)  # fmt: skip
        write_json(str(result), measured)
        print(name, f"{np.mean(measured['sizes']):.1f} B", f"{measured['accuracy']:.2%}", flush=True)
    found: Run = read_json(str(result), "a run")
    return found


@torch.inference_mode()
def of_held_out(path: Path, data: DataSet) -> Run:
    """Bytes and right answers for each held-out image, and MACs, of one of bottlekit's networks."""
    network, codec = network_and_codec(path, data)
    payloads = [codec.encode(feature) for feature in features(network, data.val, list(range(len(data.val))))]
    answers = right(network, codec, payloads, data.val.labels)
    return {
        "sizes": [len(payload) for payload in payloads], "right": "".join(map(str, answers)),
        "accuracy": float(np.mean(answers)), "shape": list(network.feature_shape),
        "head_macs": macs(network.head, (1, 3, data.input_size, data.input_size)),
    }  # fmt: skip


@torch.inference_mode()
def network_and_codec(path: Path, data: DataSet) -> tuple[SplitNetwork, Codec]:
    """A trained network, and its codec with tables learned from training images."""
    network: Any = load_checkpoint(path).network()
    assert isinstance(network, SplitNetwork)
    known = {"range": np.array(network.codec_layer.codec.value_range, dtype=np.float32)}
    return network, fitted(network.codec, features(network, *calibration(data)), known).codec


def write_latents(options: argparse.Namespace, theirs: list[Run]) -> None:
    """Have the other environment write what its networks code, where it is not in the folder."""
    coding = [point["name"] for point in theirs if point["ideal_bits"]]
    missing = [name for name in coding if not (options.folder / f"{name}.latents.npz").exists()]
    if missing:
        subprocess.run([options.other, TRAINER, plan_path(options), "--latents", *missing], check=True)


@torch.inference_mode()
def codes_of(options: argparse.Namespace, data: DataSet, point: Run) -> dict[str, float] | None:
    """What the codes of a network take in each coder (see sc2bench_gap.py); None where it codes nothing."""
    kept: Path = options.folder / f"{point['name']}.codes.json"
    if not kept.exists():
        if point["method"] in (OURS, UNWARMED):
            network, codec = network_and_codec(options.folder / f"{point['name']}.safetensors", data)
            places = list(range(len(data.val)))
            some = (features(network, *calibration(data)), features(network, data.val, places))
            training, held_out = (np.stack([codec.codes(one) for one in images]) for images in some)
        elif point["ideal_bits"]:
            with np.load(options.folder / f"{point['name']}.latents.npz") as arrays:
                training, held_out = arrays["calibration"], arrays["held_out"]
        else:
            return None
        write_json(str(kept), bytes_of_codes(training, held_out))
    found: dict[str, float] = read_json(str(kept), "bytes of codes")
    return found


def times_in_turns(
    options: argparse.Namespace, data: DataSet, ours: list[Run], theirs: list[Run]
) -> dict[str, dict[str, list[float]]]:
    """Raw milliseconds of head, encode and decode, on one thread: the first network of each method in turns.

    By the networks' names; from the folder if they are there.
    """
    kept: Path = options.folder / "times.json"
    if kept.exists():
        known: dict[str, dict[str, list[float]]] = read_json(str(kept), "times")
        return known
    firsts = {run["method"]: run["name"] for run in reversed(ours + theirs) if run["method"] != UNWARMED}
    torch.set_num_threads(1)
    network, codec = network_and_codec(options.folder / f"{firsts[OURS]}.safetensors", data)
    images = torch.stack([data.val[index][0] for index in range(min(options.timed_images, len(data.val)))])
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(ROUNDS):
        for method, name in firsts.items():
            if method == OURS:
                samples = timed(network, codec, images)
            else:
                command = [options.other, TRAINER, plan_path(options), "--time", name]
                samples = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            for phase, values in samples.items():
                found.setdefault(name, {}).setdefault(phase, []).extend(values)
    write_json(str(kept), found)
    return found


@torch.inference_mode()
def timed(network: SplitNetwork, codec: Codec, images: torch.Tensor) -> dict[str, list[float]]:
    """Milliseconds of each phase for images (n, 3, h, w), one at a time."""
    phases: dict[str, Callable[[Any], Any]] = {
        "head": lambda image: network.head(image)[0].numpy(),
        "encode": codec.encode,
        "decode": codec.decode,
    }
    return phases_in_turns(phases, images.split(1))


if __name__ == "__main__":
    sys.exit(main())
