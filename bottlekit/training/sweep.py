"""Naive against compression-aware training over JPEG's quality (BottleNet, section 3.3 and figure 7).

    uncompressed network + unit --recipe, without the codec--> warm start
        warm start --as long as half the recipe, without the codec--> naive:    evaluated with every quality
        warm start --as long as half the recipe, with the codec-----> aware(q): one for every quality

The paper trains every network from scratch. Sharing a warm start is ours: it makes a sweep of six qualities cost
little more than four trainings. Naive and aware networks have seen the same number of images, so what differs
between them is the codec in the loop and nothing else.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import bottlekit
from bottlekit.device.files import sha256_of_file, whole_file, write_json
from bottlekit.errors import UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, to_dict
from bottlekit.training.data import DataSet
from bottlekit.training.evaluate import accuracy, payload_sizes
from bottlekit.training.loop import fit, is_main_process, own_dice, wait_for_main_process
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import (
    check_data,
    data_of_checkpoint,
    device_of,
    mean,
    run_record,
    split_network,
    uncompressed,
)

COLUMNS = ("quality", "naive_accuracy", "naive_payload_bytes_mean", "aware_accuracy", "aware_payload_bytes_mean")


def sweep_quality(
    output: Path,
    source: Path,
    bottleneck: BottleneckSpec,
    codec: CodecSpec,
    qualities: list[int],
    recipe: Recipe,
    data: DataSet | None = None,
    seed: int = 0,
    command: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Accuracy and mean payload of both ways at every quality, measured on the held-out images.

    Writes `output` (JSON) and beside it the same points as CSV, and returns what the JSON file holds. `codec`
    gives the coder and its bits; its quality is replaced by each of `qualities`.
    Raises what `train_bottleneck` raises, and UsageError for a codec without quality or for no qualities.
    """
    if codec.name != "jpeg":
        raise UsageError(f"--sweep-quality is about JPEG's quality, and --codec {codec.name} has none")
    if not qualities or len(set(qualities)) != len(qualities):
        raise UsageError("--sweep-quality needs one or more different qualities, 1,5,10,20,50,90 say")
    codecs = [dataclasses.replace(codec, quality=quality) for quality in sorted(qualities)]
    if output.suffix == ".csv" or output.is_dir():
        raise UsageError(
            f"-o must name the JSON file of the sweep, not {output}; the CSV file is written beside it"
        )
    checkpoint = load_checkpoint(source)
    if data is None:
        data = data_of_checkpoint(checkpoint, seed=seed)
    check_data(checkpoint, data)
    network = split_network(checkpoint, bottleneck, codec, seed)
    baseline = accuracy(uncompressed(checkpoint), data.val)
    second = dataclasses.replace(recipe, epochs=-(-recipe.epochs // 2))

    fit(network, data, recipe, seed, with_codec=False, title="warm start", quiet=quiet)
    warm = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    # Another seed: the second training shall not repeat the order and the augmentations of the first.
    fit(network, data, second, seed + 1, with_codec=False, title="naive", quiet=quiet)
    without_codec = accuracy(network, data.val, with_codec=False)
    naive = [_measured(_with_weights(network.state_dict(), network, spec), data) for spec in codecs]
    aware = []
    for spec in codecs:
        trained = _with_weights(warm, network, spec)
        fit(trained, data, second, seed + 1, with_codec=True, title=f"aware, quality {spec.quality}", quiet=quiet)
        aware.append(_measured(trained, data))

    result = {
        "format": "bottlekit-sweep",
        "version": 1,
        "bottlekit": bottlekit.__version__,
        "command": command,
        "checkpoint_sha256": sha256_of_file(str(source)),
        **run_record("sweep", checkpoint.model, data, recipe, seed),
        "second_epochs": second.epochs,
        "bottleneck": to_dict(bottleneck),
        "codec": {"name": codec.name, "bits": codec.bits},
        "held_out_images": len(data.val),
        "baseline_accuracy": baseline,
        "naive_accuracy_without_codec": without_codec,
        "points": [
            {"quality": spec.quality, "naive": left, "aware": right}
            for spec, left, right in zip(codecs, naive, aware, strict=True)
        ],
    }
    if is_main_process():
        _write_csv(output.with_suffix(".csv"), result["points"])
        write_json(str(output), result)
    wait_for_main_process()
    return result


def _with_weights(weights: dict[str, Any], like: SplitNetwork, codec: CodecSpec) -> SplitNetwork:
    """A new network with the same unit, another codec and these weights, on the same device."""
    with own_dice(0):  # its first weights do not matter, the caller's dice do
        network = SplitNetwork(like.model, like.bottleneck, codec)
    network.load_state_dict(weights)
    return network.to(device_of(like)).eval()


def _measured(network: SplitNetwork, data: DataSet) -> dict[str, float]:
    return {
        "accuracy": accuracy(network, data.val, with_codec=True),
        "payload_bytes_mean": mean(payload_sizes(network, data.val, data.train)),
    }


def _write_csv(path: Path, points: list[dict[str, Any]]) -> None:
    with whole_file(str(path)) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for point in points:
            naive, aware = point["naive"], point["aware"]
            writer.writerow(
                [
                    point["quality"],
                    naive["accuracy"],
                    naive["payload_bytes_mean"],
                    aware["accuracy"],
                    aware["payload_bytes_mean"],
                ]
            )
