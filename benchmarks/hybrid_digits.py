"""Accuracy against modelled energy of hybrid networks on the digits: binary and 4-bit edges, every threshold.

    python benchmarks/hybrid_digits.py --folder F    adds to results/hybrid_digits.jsonl and draws it; what F has
                                                     of an interrupted run is not trained again

How to train the binary edge is chosen without any held-out image: each of WAYS is trained on four fifths of the
*training* images, and judged on the last fifth. With what was chosen, for each seed a full-precision network is
trained on all training images, and from it one hybrid network a bit width. The threshold is chosen on a third of
the held-out images (never trained on); accuracy, shares and bytes are those of the other 240. 120 images know a
point of accuracy as one image, so none may be lost to the threshold. The curves need one pass: the images in order
of the exit's doubt.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, record

from bottlekit.export.hybrid import bundle_from_hybrid
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.hybrid.checkpoint import load_hybrid_checkpoint
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.planning.hybrid_energy import Traffic, hybrid_energy, layers_from_records
from bottlekit.specs import BottleneckSpec, CodecSpec, ModelSpec
from bottlekit.training.data import DataSet, LabelledImages, dataset_from_name
from bottlekit.training.digits import held_out_mask
from bottlekit.training.hybrid import HybridPlan, answers, fit_hybrid, train_hybrid
from bottlekit.training.loop import own_dice
from bottlekit.training.recipe import Recipe
from bottlekit.training.sources import ArrayImages
from bottlekit.training.train import train_backbone

CLAIM = (
    "On the digits, within one point of the accuracy of full precision, a hybrid network with a binary or 4-bit "
    "edge needs at least 4 times less modelled energy, and sends fewer bytes than offloading every image."
)
BACKBONE, LAST_BLOCK = "cifar_resnet14", "rb4"
BITS = (1, 4)
UNIT = BottleneckSpec("bottlenet", LAST_BLOCK, channels=4)
# What is tried for the binary edge: the paper's joint loss, and the same taught by the full-precision network.
WAYS = {"labels alone": 0.0, "taught": 0.9}
# Of the training images of each class (about 144), those that choose among WAYS.
INNER_PER_CLASS = 28


def main() -> None:
    """Choose, train, export, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the networks are kept")
    parser.add_argument("--input-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=12, help="of every network but the binary ones")
    parser.add_argument("--binary-epochs", type=int, default=24)
    parser.add_argument("--choice-epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--pool", type=int, default=3, help="the exit's windows: the paper's 3; 16 averages everything"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    choice = choice_of_way(arguments)
    runs = []
    for seed in range(arguments.seeds):
        data = dataset_from_name("digits", input_size=arguments.input_size, seed=seed)
        source = arguments.folder / f"net{seed}.safetensors"
        if not source.exists():
            train_backbone(source, BACKBONE, data, recipe(arguments.epochs), seed)
        for bits in BITS:
            path = arguments.folder / f"hybrid{seed}-{bits}.safetensors"
            spec = spec_of(bits, arguments.pool)
            if not path.exists():
                taught = choice["taught"] if bits == 1 else 0.0
                plan = HybridPlan((0.5,), allowed_drop=0.0, taught=taught)
                epochs = arguments.binary_epochs if bits == 1 else arguments.epochs
                train_hybrid(path, source, spec, plan, recipe(epochs), data, seed)
            runs.append(result_of(path, arguments.folder / f"bundle{seed}-{bits}", seed, bits))
            print(json.dumps({key: runs[-1][key] for key in ("seed", "bits", "at_threshold", "exit")}, indent=1))
    result = {
        "network": f"{BACKBONE} at {arguments.input_size} pixels, low-bit up to {LAST_BLOCK}, "
        f"exit pool {arguments.pool}",
        "recipe": dataclasses.asdict(recipe(arguments.epochs)),
        "binary_epochs": arguments.binary_epochs,
        "choice": choice,
        "allowed_drop": 0.0,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "runs": runs,
    }
    print(f"recorded in {record(CLAIM, result, torch.get_num_threads())}")
    draw(result, RESULTS / f"hybrid_digits-pool{arguments.pool}.svg")


def recipe(epochs: int) -> Recipe:
    """What every network here is trained with."""
    return Recipe(
        epochs=epochs, batch_size=32, learning_rate=3e-3, optimizer="adamw", weight_decay=0.05, warmup_epochs=0.5
    )


def spec_of(bits: int, pool: int) -> HybridSpec:
    """The network of one bit width."""
    return HybridSpec(LAST_BLOCK, bits, (LAST_BLOCK,), pool, UNIT, CodecSpec("raw", 4))


def choice_of_way(arguments: argparse.Namespace) -> dict[str, Any]:
    """Which of WAYS gives the binary edge the better exit and cloud, judged on a fifth of the training images."""
    path = arguments.folder / "choice.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    data = without_held_out(dataset_from_name("digits", input_size=arguments.input_size))
    source = arguments.folder / "choice-net.safetensors"
    if not source.exists():
        train_backbone(source, BACKBONE, data, recipe(arguments.epochs))
    teacher = load_checkpoint(source).network()
    tried = {}
    for name, taught in WAYS.items():
        with own_dice(0):
            network = HybridNetwork(
                ModelSpec(BACKBONE, 10, arguments.input_size),
                spec_of(1, arguments.pool),
                load_checkpoint(source).network(),
            )
        fit_hybrid(
            network, data, HybridPlan((0.5,), taught=taught), recipe(arguments.choice_epochs), 0, False, teacher
        )
        judged = answers(network, data.val)
        tried[name] = {
            "exit_right": int((judged.exit_logits.argmax(1) == judged.labels).sum()),
            "cloud_right": int((judged.cloud_logits.argmax(1) == judged.labels).sum()),
        }
        print(name, tried[name])
    # The first of equals: labels alone.
    chosen = max(tried, key=lambda name: tried[name]["exit_right"] + tried[name]["cloud_right"])
    result = {"images": len(data.val), "epochs": arguments.choice_epochs, "tried": tried, "chosen": chosen,
              "taught": WAYS[chosen]}  # fmt: skip
    path.write_text(json.dumps(result), "utf-8")
    return result


def without_held_out(data: DataSet) -> DataSet:
    """The training images alone, a part of them in the place of the held-out ones."""
    source = data.train.source
    assert isinstance(source, ArrayImages)
    labels = np.asarray(source.labels)
    inner = held_out_mask(labels, INNER_PER_CLASS)

    def part(mask: Any) -> ArrayImages:
        return ArrayImages(source.images[mask], labels[mask].tolist())

    return dataclasses.replace(
        data,
        train=LabelledImages(part(~inner), data.preprocessing, data.train.augment, data.train.seed),
        val=LabelledImages(part(inner), data.preprocessing),
    )


def result_of(path: Path, bundle_folder: Path, seed: int, bits: int) -> dict[str, Any]:
    """One network: its curve with energies, what its threshold gives, and the bytes of its bundle's graphs."""
    checkpoint = load_hybrid_checkpoint(path)
    bundle = bundle_from_hybrid(path, bundle_folder, force=True)
    layers = layers_from_records(checkpoint.work)
    accuracy = checkpoint.accuracy
    early = accuracy["early_share"]
    energy, moved = hybrid_energy(layers, early), hybrid_energy(layers, early, Traffic())
    curve = [
        {
            "threshold": point["threshold"],
            "early_share": point["early_share"],
            "accuracy": point["accuracy"],
            "energy_ratio": hybrid_energy(layers, point["early_share"]).ratio,
        }
        for point in accuracy["curve"]
    ]
    within = [point for point in curve if point["accuracy"] >= accuracy["baseline"] - 0.01]
    return {
        "seed": seed,
        "bits": bits,
        "full_precision_accuracy": accuracy["baseline"],
        "exit": accuracy["exit"],
        "cloud": accuracy["split"],
        "at_threshold": {
            "threshold": checkpoint.threshold,
            "accuracy": accuracy["hybrid"],
            "early_share": early,
            "early_accuracy": accuracy["early_accuracy"],
            "offloaded_accuracy": accuracy["offloaded_accuracy"],
            "energy_ratio": energy.ratio,
            "energy_ratio_with_memory_traffic": moved.ratio,
            "device_energy_ratio": energy.device_ratio,
            "payload_bytes": bundle.manifest["exit"]["payload_bytes"],
            "decisions_unlike_torch": bundle.manifest["exit"]["accuracy"]["decisions_unlike_torch"],
        },
        # Chosen on the reported images themselves: what the curve holds, not what a user can know beforehand.
        "best_within_one_point": max(within, key=lambda point: point["energy_ratio"]) if within else None,
        "curve": curve,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy against modelled energy, one line a network, its threshold marked."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    colours = {1: "#1b6ca8", 4: "#c4501b"}
    for run in result["runs"]:
        first = run["seed"] == 0
        name = {1: "binary", 4: "4-bit"}[run["bits"]]
        x = [1 / point["energy_ratio"] for point in run["curve"]]
        y = [100 * point["accuracy"] for point in run["curve"]]
        axes.plot(
            x, y, color=colours[run["bits"]], linewidth=1.6 if first else 0.8, alpha=1.0 if first else 0.5,
            label=f"{name} edge, every threshold" if first else None,
        )  # fmt: skip
        chosen = run["at_threshold"]
        axes.plot(
            1 / chosen["energy_ratio"], 100 * chosen["accuracy"], "o", color=colours[run["bits"]],
            markersize=7 if first else 4, label=f"{name}: the threshold chosen beforehand" if first else None,
        )  # fmt: skip
    full = 100 * float(np.mean([run["full_precision_accuracy"] for run in result["runs"]]))
    axes.axhline(full, color="#555555", linewidth=1, label=f"full precision ({full:.1f} %)")
    axes.axhline(full - 1, color="#555555", linewidth=1, linestyle=":", label="one point below")
    axes.axvline(0.25, color="#999999", linewidth=1, linestyle="--", label="a quarter of the energy")
    axes.set_xlabel("modelled energy an image, device and cloud together (full precision = 1)")
    axes.set_ylabel("accuracy on 240 held-out digits [%]")
    axes.set_title(result["network"], fontsize=10)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
