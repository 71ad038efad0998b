"""Claim: a learned codec, trained to be short, sends at most half of jpeg-lean's bytes at the same accuracy.

    backbone --> at each split, with each seed: trained with JPEG at each quality (BottleNet's way), and with the
                 learned codec and a static range at each weight of a byte and number of bits; all with the same
                 warm-up, recipe, images and length
             --> bytes and right answers of each network with every codec that its codes fit (bytes_points.py)
             --> results/*.jsonl, and a picture

A sixth of the training images is kept from training, and chooses which learned network is compared with which of
jpeg-lean; the held-out images only confirm it. Small by default, so that a processor core does it in minutes; the
options make it as large as the papers' setup:

    python benchmarks/bytes_accuracy.py --data fractals:100x600 --backbone resnet50 --input-size 224 \
        --splits rb1,rb4,rb8,rb14 --channels 1,2,5,10 --spatial 2 --epochs 30

Finished trainings are kept in --folder and not repeated, interrupted ones go on: delete it to start anew. Several
processes can share the work: each trains some seeds or splits with --dry; --finished draws what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bytes_picture import draw
from bytes_points import Point, comparison, points_of_network, with_choice
from record import RESULTS, record
from small_trainings import backbone_of, bottleneck_of, numbers, recipe_of, training_parser

from bottlekit.device.files import read_json, write_json
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.specs import BottleneckSpec, CodecSpec
from bottlekit.training.bottleneck import BottleneckTraining
from bottlekit.training.data import DataSet, LabelledImages, dataset_from_name
from bottlekit.training.recipe import Recipe

CLAIM = "learned and rate-aware: at most half of jpeg-lean's bytes at equal accuracy"


def main() -> None:
    """Train what is missing, measure every point, record them, and draw them."""
    options = arguments()
    folder: Path = options.folder
    data, choice = with_choice(dataset_from_name(options.data, input_size=options.input_size))
    source = backbone_of(options, data)
    baseline = load_checkpoint(source).accuracy["baseline"]
    print(f"uncompressed network {baseline:.2%}", flush=True)
    recipe = recipe_of(options, data)
    points: list[Point] = []
    for seed in options.seeds:
        for split, channels in channels_of_splits(options):
            unit = BottleneckSpec("bottlenet", split, channels, options.spatial, max(3, options.spatial + 1))
            for codec, how in ways(options):
                path = folder / name_of(split, codec, how, seed)
                measured = path.with_suffix(".json")
                if not measured.exists() and not options.finished:
                    trained_and_measured(path, source, unit, codec, how, recipe, data, choice, seed)
                if measured.exists():
                    points += read_json(str(measured), "points")["points"]
    compared = comparison(points)
    figures = {
        "data": data.name, "backbone": options.backbone, "input_size": data.input_size, "baseline": baseline,
        "training_images": len(data.train), "choice_images": len(choice), "held_out_images": len(data.val),
        "epochs": options.epochs, "distill_epochs": options.distill_epochs,
        "comparison": compared, "points": points,
    }  # fmt: skip
    report(points, compared)
    if options.dry:
        return
    network = f"{options.backbone}-{data.input_size}"
    picture = RESULTS / f"bytes_accuracy-{data.name.replace(':', '-')}-{network}.svg"
    draw(figures, picture)
    print(f"written: {record(CLAIM, figures)} and {picture}")


def arguments() -> argparse.Namespace:
    """What is trained and measured."""
    parser = training_parser(__doc__, "bytes-accuracy")
    parser.add_argument("--splits", type=lambda text: text.split(","), default=["rb1"])
    parser.add_argument("--channels", type=numbers(int), default=[1], help="one number, or one for each split")
    parser.add_argument("--spatial", type=int, default=2)
    parser.add_argument("--qualities", type=numbers(int), default=[5, 20])
    parser.add_argument("--jpeg-ranges", type=lambda text: text.split(","), default=["image"], help="image, static")
    parser.add_argument("--bits", type=numbers(int), default=[2])
    parser.add_argument("--rate-weights", type=numbers(float), default=[0.003, 0.01, 0.03])
    parser.add_argument("--distill-epochs", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="train nothing, take what --folder has")
    parser.add_argument("--dry", action="store_true", help="print, and record nothing")
    options = parser.parse_args()
    if len(options.channels) not in (1, len(options.splits)):
        parser.error(f"--channels has {len(options.channels)} numbers, and --splits {len(options.splits)}")
    return options


def channels_of_splits(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Each split with the channels that are sent there."""
    each = options.channels * (len(options.splits) // len(options.channels))
    return list(zip(options.splits, each, strict=True))


def ways(options: argparse.Namespace) -> list[tuple[CodecSpec, BottleneckTraining]]:
    """Every way to train at a split."""
    warm = options.distill_epochs
    found = [
        (CodecSpec("jpeg", 8, quality, value_range), BottleneckTraining(distill_epochs=warm))
        for quality in options.qualities
        for value_range in options.jpeg_ranges
    ]
    for bits in options.bits:
        found += [
            (CodecSpec("learned", bits, range="static"), BottleneckTraining(False, weight, warm))
            for weight in options.rate_weights
        ]
    return found


def name_of(split: str, codec: CodecSpec, how: BottleneckTraining, seed: int) -> str:
    """The file of one network."""
    setting: int | str = codec.bits
    if codec.name == "jpeg":
        setting = codec.quality if codec.range == "image" else f"{codec.quality}-static"
    return f"{split}-{codec.name}-{setting}-{how.rate_weight:g}-seed{seed}.safetensors"


def trained_and_measured(
    path: Path,
    source: Path,
    unit: BottleneckSpec,
    codec: CodecSpec,
    how: BottleneckTraining,
    recipe: Recipe,
    data: DataSet,
    choice: LabelledImages,
    seed: int,
) -> None:
    """Train a network and write its points beside it: for the first seed with every codec, if that tells more."""
    bottleneck_of(path, source, unit, codec, recipe, data, seed, how)
    own_way = codec.name == "jpeg" and codec.range == "static"
    points = points_of_network(path, data, choice, every_codec=seed == 0 and not own_way)
    write_json(str(path.with_suffix(".json")), {"points": points})
    shown = next(p for p in points if p["codec"] in ("jpeg-lean", "learned"))
    words = [f"{shown[part]['mean_bytes']:.1f} B {shown[part]['accuracy']:.2%}" for part in ("choice", "held_out")]
    print(path.stem, *words, flush=True)


def report(points: list[Point], compared: list[Point]) -> None:
    """The tables that a person reads."""
    print("\nheld-out images, seed by seed")
    for p in sorted(points, key=lambda point: (point["split"], point["held_out"]["mean_bytes"])):
        how = (
            f"trained with {p['trained_with']}, {p['trained_range']}, {p['rate_weight']:g} a byte, seed {p['seed']}"
        )
        setting = f"{p['codec']:>13} {p['bits']} bits, q {p['quality']:2}, range {p['range']:6}"
        found = p["held_out"]
        print(f"{p['split']:5} {setting} {found['mean_bytes']:7.1f} B  {found['accuracy']:7.2%}   {how}")
    print("\njpeg-lean, and the learned network that the choice images chose")
    for row in compared:
        print(
            f"{row['split']} q {row['quality']}, {row['range']:6} (trained with {row['trained_range']}) "
            f"{row['jpeg_lean_bytes']:6.1f} B "
            f"{row['jpeg_lean_accuracy']:.2%} | {row['learned_bits']} bits, {row['learned_rate_weight']:g} a byte "
            f"{row['learned_bytes']:6.1f} B {row['learned_accuracy']:.2%}, {row['learned_of_lean']:.2f} of it, "
            f"difference {row['difference']:+.2%} [{row['difference_low']:+.2%}, {row['difference_high']:+.2%}]"
            + ("" if row["as_accurate_on_choice"] else "; none as accurate on the choice images")
        )


if __name__ == "__main__":
    main()
