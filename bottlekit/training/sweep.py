"""Naive against compression-aware training over JPEG's quality (BottleNet, section 3.3 and figure 7).

    uncompressed network + unit --recipe, without the codec--> warm start
        warm start --as long as half the recipe, without the codec--> naive:    evaluated with every quality
        warm start --as long as half the recipe, with the codec-----> aware(q): one for every quality

The paper trains every network from scratch. Sharing a warm start is ours: it makes a sweep of six qualities cost
little more than four trainings. Naive and aware networks have seen the same number of images, so what differs
between them is the codec in the loop and nothing else.

Every finished training is kept in `<output>.resume` until the sweep is complete, and with `resume` not repeated.
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
from bottlekit.training.resume import load_state, refuse_to_forget, resume_path, save_state
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
    resume: bool = False,
) -> dict[str, Any]:
    """Accuracy and mean payload of both ways at every quality, measured on the held-out images.

    Writes `output` (JSON) and beside it the same points as CSV, and returns what the JSON file holds. `codec`
    gives the coder and its bits; its quality is replaced by each of `qualities`. With `resume` it goes on behind
    the last training that an interrupted sweep finished; the qualities may be others.
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
    state_path = resume_path(output)
    if not resume:
        refuse_to_forget(state_path)
    checkpoint = load_checkpoint(source)
    if data is None:
        data = data_of_checkpoint(checkpoint, seed=seed)
    check_data(checkpoint, data)
    network = split_network(checkpoint, bottleneck, codec, seed)
    baseline = accuracy(uncompressed(checkpoint), data.val)
    second = dataclasses.replace(recipe, epochs=-(-recipe.epochs // 2))
    run = {
        "checkpoint_sha256": sha256_of_file(str(source)),
        **run_record("sweep", checkpoint.model, data, recipe, seed),
        "second_epochs": second.epochs,
        "bottleneck": to_dict(bottleneck),
        "codec": {"name": codec.name, "bits": codec.bits},
    }
    # "warm" and "naive": weights; "aware": what was measured, by quality.
    done: dict[str, Any] = load_state(state_path, run)[1] if resume else {"aware": {}}

    def keep() -> None:
        if is_main_process():
            save_state(state_path, run, len(done) - 1 + len(done["aware"]), done)

    if "warm" not in done:
        fit(network, data, recipe, seed, with_codec=False, title="warm start", quiet=quiet)
        done["warm"] = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        keep()
    if "naive" not in done:
        trained = _with_weights(done["warm"], network, codecs[0])
        # Another seed: the second training shall not repeat the order and the augmentations of the first.
        fit(trained, data, second, seed + 1, with_codec=False, title="naive", quiet=quiet)
        done["naive"] = trained.state_dict()
        keep()
    without_codec = accuracy(_with_weights(done["naive"], network, codecs[0]), data.val, with_codec=False)
    naive = [_measured(_with_weights(done["naive"], network, spec), data) for spec in codecs]
    for spec in codecs:
        if spec.quality in done["aware"]:
            continue
        title = f"aware, quality {spec.quality}"
        trained = _with_weights(done["warm"], network, spec)
        fit(trained, data, second, seed + 1, with_codec=True, title=title, quiet=quiet)
        done["aware"][spec.quality] = _measured(trained, data)
        keep()
    aware = [done["aware"][spec.quality] for spec in codecs]

    result = {
        "format": "bottlekit-sweep",
        "version": 1,
        "bottlekit": bottlekit.__version__,
        "command": command,
        **run,
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
        state_path.unlink(missing_ok=True)
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
