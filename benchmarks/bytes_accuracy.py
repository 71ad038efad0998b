"""Claim: a learned codec, trained to be short, sends at most half of jpeg-lean's bytes at the same accuracy; and
jpeg-lean at most 0.35 of a complete JPEG file at the paper's setting, 28 x 28 x 1 values with quality 20.

    backbone --> at each split: trained with JPEG at each quality (BottleNet's way), and with the learned codec at
                 each weight of a byte and each number of bits
             --> each network with every codec that its codes fit, calibrated on training images
             --> bytes and accuracy on the held-out images, one point each --> results/*.jsonl, and a picture

Small by default, so that two processor cores do it in minutes; the options make it as large as the papers' setup:

    python benchmarks/bytes_accuracy.py --data fractals:100x600 --backbone resnet50 --input-size 224 \
        --splits rb1,rb4,rb8,rb14 --channels 1 --spatial 2 --epochs 30

Finished trainings are kept in --folder and not repeated: delete it to start anew.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import RESULTS, record

from bottlekit.device.codecs import Codec
from bottlekit.device.wire.overhead import framing_overhead_bytes
from bottlekit.export.codec_fit import fitted
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import BottleneckSpec, CodecSpec, ValueRange
from bottlekit.training.bottleneck import BottleneckTraining
from bottlekit.training.data import DataSet, dataset_from_name
from bottlekit.training.recipe import default_recipe_name, recipe_from_name
from bottlekit.training.train import train_backbone, train_bottleneck

CLAIM = "learned and rate-aware: at most half of jpeg-lean's bytes at equal accuracy; jpeg-lean: 0.35 of the file"
CALIBRATION_IMAGES = 512
JPEG_LIKE = ("jpeg", "jpeg-lean", "webp")
LOSSLESS = ("learned", "png", "raw", "webp-lossless", "zdict")
RANGES: tuple[ValueRange, ...] = ("image", "static")

Features = NDArray[np.float32]


def main() -> None:
    """Train what is missing, measure every point, record them, and draw them."""
    options = arguments()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data = dataset_from_name(options.data, input_size=options.input_size)
    name = default_recipe_name(data.name)
    source = folder / "network.safetensors"
    if not source.exists():
        train_backbone(
            source, options.backbone, data, recipe_from_name(name, "backbone", epochs=options.backbone_epochs)
        )
    baseline = load_checkpoint(source).accuracy["baseline"]
    recipe = recipe_from_name(name, "bottleneck", epochs=options.epochs)
    points: list[dict[str, Any]] = []
    for split in options.splits:
        unit = BottleneckSpec("bottlenet", split, options.channels, options.spatial, max(3, options.spatial + 1))
        ways = [(CodecSpec("jpeg", 8, quality), BottleneckTraining()) for quality in options.qualities]
        for bits in options.bits:
            codec = CodecSpec("learned", bits)
            ways += [
                (codec, BottleneckTraining(rate_weight=weight, distill_epochs=options.distill_epochs))
                for weight in options.rate_weights
            ]
        for codec, how in ways:
            setting = codec.quality if codec.name == "jpeg" else codec.bits
            path = folder / f"{split}-{codec.name}-{setting}-{how.rate_weight:g}.safetensors"
            if not path.exists():
                train_bottleneck(path, source, unit, codec, recipe, data, how=how)
            points += measured(path, data)
    best = comparison(points)
    figures = {
        "data": data.name, "backbone": options.backbone, "input_size": data.input_size, "baseline": baseline,
        "held_out_images": len(data.val), "epochs": options.epochs, "distill_epochs": options.distill_epochs,
        "comparison": best, "points": points,
    }  # fmt: skip
    picture = RESULTS / f"bytes_accuracy-{data.name.replace(':', '-')}-{data.input_size}.svg"
    draw(figures, picture)
    path = record(CLAIM, figures)
    report(points, best, baseline)
    print(f"written: {path} and {picture}")


def arguments() -> argparse.Namespace:
    """What is trained and measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--input-size", type=int, default=64)
    parser.add_argument("--backbone-epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--splits", type=lambda text: text.split(","), default=["rb1"])
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--spatial", type=int, default=1)
    parser.add_argument("--qualities", type=numbers(int), default=[20])
    parser.add_argument("--bits", type=numbers(int), default=[2])
    parser.add_argument("--rate-weights", type=numbers(float), default=[0.0, 0.01, 0.03])
    parser.add_argument("--distill-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("bytes-accuracy"))
    return parser.parse_args()


def numbers(kind: type[Any]) -> Any:
    """A list with commas, as an argument's type."""
    return lambda text: [kind(part) for part in text.split(",")]


@torch.inference_mode()
def measured(path: Path, data: DataSet) -> list[dict[str, Any]]:
    """A point for every codec that can send this network's codes."""
    checkpoint = load_checkpoint(path)
    network: Any = checkpoint.network()
    trained_with = checkpoint.codec
    assert isinstance(network, SplitNetwork)
    assert trained_with is not None
    places = [place * len(data.train) // CALIBRATION_IMAGES for place in range(CALIBRATION_IMAGES)]
    plain = dataclasses.replace(data).train
    plain.augment, augment = None, plain.augment
    training = features(network, [plain[place][0] for place in dict.fromkeys(places)])
    plain.augment = augment
    held_out = features(network, [data.val[index][0] for index in range(len(data.val))])
    labels = np.asarray(data.val.labels)
    names = (*JPEG_LIKE, *LOSSLESS) if trained_with.name == "jpeg" else LOSSLESS
    points = []
    known: dict[tuple[str, str], float] = {}
    for name in names:
        for value_range in RANGES:
            spec = dataclasses.replace(trained_with, name=name, range=value_range)
            codec = fitted(spec, training).codec
            # What is exact behind the quantiser decodes alike: one accuracy for all.
            key = ("" if codec.lossless else name.replace("-lean", ""), value_range)
            payloads = [codec.encode(feature) for feature in held_out]
            if key not in known:
                known[key] = accuracy(network, codec, payloads, labels)
            sizes = [len(payload) for payload in payloads]
            points.append(
                {
                    "split": checkpoint.bottleneck.split if checkpoint.bottleneck else "",
                    "shape": list(network.feature_shape),
                    "trained_with": trained_with.name,
                    "rate_weight": checkpoint.training["rate_weight"],
                    "codec": name, "bits": spec.bits, "quality": spec.quality, "range": value_range,
                    "accuracy": known[key],
                    "mean_bytes": float(np.mean(sizes)),
                    "mean_framed_bytes": float(np.mean([size + framing_overhead_bytes(size) for size in sizes])),
                    "sizes": sizes,
                    "as_trained": value_range == "image" and name.replace("-lean", "") == trained_with.name,
                }
            )  # fmt: skip
    return points


def features(network: SplitNetwork, inputs: list[torch.Tensor]) -> Features:
    """The reduced features (n, c, h, w) of images (3, h, w)."""
    parts = [network.head(torch.stack(inputs[start : start + 64])) for start in range(0, len(inputs), 64)]
    found: Features = torch.cat(parts).numpy()
    return found


def accuracy(network: SplitNetwork, codec: Codec, payloads: list[bytes], labels: NDArray[np.int64]) -> float:
    """The fraction of payloads that the tail classifies rightly."""
    decoded = torch.from_numpy(np.stack([codec.decode(payload) for payload in payloads]))
    answers = torch.cat(
        [network.tail(decoded[start : start + 64]).argmax(1) for start in range(0, len(decoded), 64)]
    )
    return float((answers.numpy() == labels).mean())


def comparison(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each point of jpeg-lean: beside the complete file, and the smallest of learned that is as accurate."""
    rows = []
    for lean in points:
        if lean["codec"] != "jpeg-lean":
            continue
        same = ("split", "bits", "quality", "range", "trained_with", "rate_weight")
        whole = next(p for p in points if p["codec"] == "jpeg" and all(p[key] == lean[key] for key in same))
        rivals = [
            p
            for p in points
            if p["codec"] == "learned" and p["split"] == lean["split"] and p["accuracy"] >= lean["accuracy"]
        ]
        learned = min(rivals, key=lambda point: point["mean_bytes"], default=None)
        rows.append(
            {
                "split": lean["split"], "quality": lean["quality"], "range": lean["range"],
                "jpeg_lean_bytes": lean["mean_bytes"], "accuracy": lean["accuracy"],
                "of_complete_file": lean["mean_bytes"] / whole["mean_bytes"],
                "learned_bytes": learned and learned["mean_bytes"],
                "learned_accuracy": learned and learned["accuracy"],
                "learned_rate_weight": learned and learned["rate_weight"],
                "learned_of_lean": learned and learned["mean_bytes"] / lean["mean_bytes"],
            }
        )  # fmt: skip
    return rows


def report(points: list[dict[str, Any]], best: list[dict[str, Any]], baseline: float) -> None:
    """The table that a person reads."""
    print(f"uncompressed network {baseline:.2%}")
    for p in sorted(points, key=lambda point: point["mean_bytes"]):
        how = f"trained with {p['trained_with']}, {p['rate_weight']:g} a byte"
        setting = f"{p['codec']:>13} {p['bits']} bits, range {p['range']:6}"
        print(f"{p['split']:5} {setting} {p['mean_bytes']:7.1f} B  {p['accuracy']:7.2%}   {how}")
    for row in best:
        learned = "none as accurate"
        if row["learned_bytes"] is not None:
            learned = (
                f"{row['learned_bytes']:.1f} B at {row['learned_accuracy']:.2%}, {row['learned_of_lean']:.2f} of it"
            )
        print(
            f"{row['split']} jpeg-lean, range {row['range']}: {row['jpeg_lean_bytes']:.1f} B at "
            f"{row['accuracy']:.2%}, {row['of_complete_file']:.2f} of the complete file; learned: {learned}"
        )


def draw(figures: dict[str, Any], path: Path) -> None:
    """Bytes against accuracy, a marker a codec; filled where the range is static."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "bottlekit"
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    markers = dict(zip((*JPEG_LIKE, *LOSSLESS), "sDhovP^X", strict=True))
    for number, name in enumerate(markers):
        of_codec = [point for point in figures["points"] if point["codec"] == name]
        for value_range in RANGES:
            some = [point for point in of_codec if point["range"] == value_range]
            some.sort(key=lambda point: point["mean_bytes"])
            filled = f"C{number}" if value_range == "static" else "none"
            axes.plot(
                [point["mean_bytes"] for point in some], [100 * point["accuracy"] for point in some],
                markers[name], color=f"C{number}", markerfacecolor=filled,
                label=f"{name}, {value_range} range" if some else None,
            )  # fmt: skip
    axes.axhline(100 * figures["baseline"], color="gray", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("mean payload in bytes, without its frame")
    axes.set_ylabel(f"accuracy on {figures['held_out_images']} held-out images in %")
    axes.set_title(f"{figures['backbone']}, {figures['data']}, {figures['input_size']} pixels", fontsize=10)
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
