"""Accuracy against modelled energy of hybrid networks on the digits: binary and 4-bit edges, every threshold.

    python benchmarks/hybrid_digits.py            adds to results/hybrid_digits.jsonl and draws it, in minutes

For each seed a full-precision network is trained, and from it one hybrid network a bit width. The threshold is
chosen on a third of the held-out images (never trained on); accuracy, shares and bytes are those of the other 240.
The curves need one pass: the images in order of the exit's doubt.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, record

from bottlekit.export.hybrid import bundle_from_hybrid
from bottlekit.models.hybrid.checkpoint import load_hybrid_checkpoint
from bottlekit.models.hybrid.spec import HybridSpec
from bottlekit.planning.hybrid_energy import Traffic, hybrid_energy, layers_from_records
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import HybridPlan, train_hybrid
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import train_backbone

CLAIM = (
    "On the digits, within one point of the accuracy of full precision, a hybrid network with a binary or 4-bit "
    "edge needs at least 4 times less modelled energy, and sends fewer bytes than offloading every image."
)
BACKBONE, INPUT_SIZE, LAST_BLOCK = "cifar_resnet14", 32, "rb4"
BITS = (1, 4)
UNIT = BottleneckSpec("bottlenet", LAST_BLOCK, channels=4)


def main() -> None:
    """Train, export, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--pool", type=int, default=16, help="the exit's windows: 16 averages everything, the paper 3"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    recipe = Recipe(
        epochs=arguments.epochs, batch_size=32, learning_rate=3e-3, optimizer="adamw", weight_decay=0.05,
        warmup_epochs=0.5,
    )  # fmt: skip
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            data = dataset_from_name("digits", input_size=INPUT_SIZE, seed=seed)
            source = Path(folder) / f"net{seed}.safetensors"
            train_backbone(source, BACKBONE, data, recipe, seed)
            for bits in BITS:
                path = Path(folder) / f"hybrid{seed}-{bits}.safetensors"
                spec = HybridSpec(LAST_BLOCK, bits, (LAST_BLOCK,), arguments.pool, UNIT, CodecSpec("raw", 4))
                train_hybrid(path, source, spec, HybridPlan((0.5,)), recipe, data, seed)
                runs.append(result_of(path, Path(folder) / f"bundle{seed}-{bits}", seed, bits))
                print(
                    json.dumps({key: runs[-1][key] for key in ("seed", "bits", "at_threshold", "exit")}, indent=1)
                )
    result = {
        "network": f"{BACKBONE} at {INPUT_SIZE} pixels, low-bit up to {LAST_BLOCK}, exit pool {arguments.pool}",
        "recipe": {"epochs": arguments.epochs, "batch_size": 32, "learning_rate": 3e-3, "optimizer": "adamw"},
        "minutes": round((time.monotonic() - started) / 60, 1),
        "runs": runs,
    }
    print(f"recorded in {record(CLAIM, result, torch.get_num_threads())}")
    draw(result, RESULTS / f"hybrid_digits-pool{arguments.pool}.svg")


def result_of(path: Path, bundle_folder: Path, seed: int, bits: int) -> dict[str, Any]:
    """One network: its curve with energies, what its threshold gives, and the bytes of its bundle's graphs."""
    checkpoint = load_hybrid_checkpoint(path)
    bundle = bundle_from_hybrid(path, bundle_folder)
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
