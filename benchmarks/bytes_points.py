"""What `bytes_accuracy.py` measures on a trained network, and how it compares networks.

    checkpoint --head--> features of training images --calibrate--> codec
               --head--> features of choice and held-out images --codec--> payloads --tail--> right or wrong

Every decision is made on the choice images, which no network was trained on; held-out images only confirm it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bottlekit.device.codecs import Codec
from bottlekit.device.wire.overhead import framing_overhead_bytes
from bottlekit.export.codec_fit import fitted
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.network import SplitNetwork
from bottlekit.specs import ValueRange
from bottlekit.training.data import DataSet, LabelledImages
from bottlekit.training.sources import Source

CALIBRATION_IMAGES = 512
JPEG_LIKE = ("jpeg", "jpeg-lean", "webp")
LOSSLESS = ("learned", "png", "raw", "webp-lossless", "zdict")
RANGES: tuple[ValueRange, ...] = ("image", "static")
CHOICE_EVERY = 6
_RESAMPLINGS = 10_000

Features = NDArray[np.float32]
Point = dict[str, Any]


class Some:
    """Some of the images of a source, by their places in it."""

    def __init__(self, source: Source, places: list[int]) -> None:
        self.source = source
        self.places = places
        self.labels = [source.labels[place] for place in places]

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image at `index`, (h, w, 3)."""
        return self.source.image(self.places[index])


def with_choice(data: DataSet) -> tuple[DataSet, LabelledImages]:
    """The data set with fewer training images, and what was taken: every sixth of each class, not augmented."""
    seen: dict[int, int] = {}
    choice = []
    for place, label in enumerate(data.train.labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] % CHOICE_EVERY == 0:
            choice.append(place)
    kept = sorted(set(range(len(data.train))) - set(choice))
    train = LabelledImages(Some(data.train.source, kept), data.preprocessing, data.train.augment, data.train.seed)
    train.preprocessing = data.train.preprocessing
    return (
        dataclasses.replace(data, train=train),
        LabelledImages(Some(data.train.source, choice), data.preprocessing),
    )


@torch.inference_mode()
def points_of_network(path: Path, data: DataSet, choice: LabelledImages, every_codec: bool) -> list[Point]:
    """A point for every codec that can send this network's codes; or for `jpeg-lean` or `learned` alone."""
    checkpoint = load_checkpoint(path)
    network: Any = checkpoint.network()
    trained_with = checkpoint.codec
    assert isinstance(network, SplitNetwork)
    assert trained_with is not None
    places = [place * len(data.train) // CALIBRATION_IMAGES for place in range(CALIBRATION_IMAGES)]
    plain = LabelledImages(data.train.source, data.preprocessing)
    training = features(network, plain, list(dict.fromkeys(places)))
    parts = {"choice": choice, "held_out": data.val}
    of_part = {name: features(network, images, list(range(len(images)))) for name, images in parts.items()}
    known = None
    if trained_with.range == "static":
        known = {"range": np.array(network.codec_layer.codec.value_range, dtype=np.float32)}
    if trained_with.name == "learned":
        names: tuple[str, ...] = LOSSLESS if every_codec else ("learned",)
    else:
        names = (*JPEG_LIKE, *LOSSLESS) if every_codec else ("jpeg-lean",)
    points = []
    decisions: dict[tuple[str, str, str], list[int]] = {}
    for name in names:
        for value_range in RANGES if known is None else ("static",):
            spec = dataclasses.replace(trained_with, name=name, range=value_range)
            codec = fitted(spec, training, known).codec
            point: Point = {
                "split": network.bottleneck.split,
                "shape": list(network.feature_shape),
                "trained_with": trained_with.name,
                "trained_range": trained_with.range,
                "rate_weight": checkpoint.training["rate_weight"],
                "seed": checkpoint.training["seed"],
                "codec": name, "bits": spec.bits, "quality": spec.quality, "range": value_range,
            }  # fmt: skip
            for part, images in parts.items():
                payloads = [codec.encode(feature) for feature in of_part[part]]
                # What is exact behind the quantiser decodes alike: one accuracy for all.
                key = ("" if codec.lossless else name.replace("-lean", ""), value_range, part)
                if key not in decisions:
                    decisions[key] = right(network, codec, payloads, images.labels)
                point[part] = _sent(payloads, decisions[key], name in ("jpeg-lean", "learned"))
            points.append(point)
    return points


def _sent(payloads: list[bytes], decisions: list[int], raw: bool) -> Point:
    sizes = [len(payload) for payload in payloads]
    found: Point = {
        "accuracy": float(np.mean(decisions)),
        "mean_bytes": float(np.mean(sizes)),
        "p50_bytes": float(np.median(sizes)),
        "max_bytes": max(sizes),
        "mean_framed_bytes": float(np.mean([size + framing_overhead_bytes(size) for size in sizes])),
    }
    if raw:
        found |= {"sizes": sizes, "right": "".join(map(str, decisions))}
    return found


def features(network: SplitNetwork, images: LabelledImages, places: list[int]) -> Features:
    """The reduced features (n, c, h, w) of some images."""
    parts = [
        network.head(torch.stack([images[place][0] for place in places[start : start + 64]]))
        for start in range(0, len(places), 64)
    ]
    found: Features = torch.cat(parts).numpy()
    return found


def right(network: SplitNetwork, codec: Codec, payloads: list[bytes], labels: list[int]) -> list[int]:
    """For each payload 1 where the tail's answer is right, or else 0."""
    decoded = torch.from_numpy(np.stack([codec.decode(payload) for payload in payloads]))
    answers = torch.cat(
        [network.tail(decoded[start : start + 64]).argmax(1) for start in range(0, len(decoded), 64)]
    )
    return [int(correct) for correct in answers.numpy() == np.asarray(labels)]


def comparison(points: list[Point]) -> list[Point]:
    """Each setting of jpeg-lean, and the smallest of learned that is at least as accurate on the choice images.

    Settings are judged over all seeds together; where no learned one is as accurate, the most accurate is taken.
    """
    rows = []
    for split in dict.fromkeys(point["split"] for point in points):
        rivals = _settings(points, split, "learned", ("bits", "rate_weight"), "learned")
        lean_settings = _settings(points, split, "jpeg-lean", ("quality", "range", "trained_range"), "")
        for (quality, value_range, trained_range), lean in lean_settings.items():
            seeds = sorted({point["seed"] for point in lean})
            complete = {key: some for key, some in rivals.items() if {p["seed"] for p in some} >= set(seeds)}
            if not complete:
                continue
            bound = _mean(lean, "choice", "accuracy")
            good = [key for key, some in complete.items() if _mean(some, "choice", "accuracy") >= bound]
            if good:
                key = min(good, key=lambda key: _mean(complete[key], "choice", "mean_bytes"))
            else:
                key = max(complete, key=lambda key: _mean(complete[key], "choice", "accuracy"))
            learned = [point for point in complete[key] if point["seed"] in seeds]
            row: Point = {
                "split": split, "quality": quality, "range": value_range, "trained_range": trained_range,
                "seeds": seeds,
                "learned_bits": key[0], "learned_rate_weight": key[1], "as_accurate_on_choice": bool(good),
            }  # fmt: skip
            for name, some in (("jpeg_lean", lean), ("learned", learned)):
                row[f"{name}_bytes"] = _mean(some, "held_out", "mean_bytes")
                row[f"{name}_framed_bytes"] = _mean(some, "held_out", "mean_framed_bytes")
                row[f"{name}_accuracy"] = _mean(some, "held_out", "accuracy")
            row["learned_of_lean"] = row["learned_bytes"] / row["jpeg_lean_bytes"]
            row |= paired(lean, learned)
            rows.append(row)
    return rows


def paired(lean: list[Point], learned: list[Point]) -> Point:
    """The difference in accuracy, learned less lean, on held-out images, with its 95 % interval.

    Images are resampled with the answers of all seeds together; "only_..." count answers that one alone has right.
    """
    left = np.array([[int(c) for c in p["held_out"]["right"]] for p in sorted(lean, key=lambda p: p["seed"])])
    other = np.array([[int(c) for c in p["held_out"]["right"]] for p in sorted(learned, key=lambda p: p["seed"])])
    difference = (other - left).mean(axis=0)
    dice = np.random.default_rng(0)
    picked = dice.integers(0, len(difference), (_RESAMPLINGS, len(difference)))
    low, high = np.quantile(difference[picked].mean(axis=1), [0.025, 0.975])
    return {
        "difference": float(difference.mean()), "difference_low": float(low), "difference_high": float(high),
        "only_learned_right": int((other > left).sum()), "only_lean_right": int((other < left).sum()),
        "answers": int(left.size),
    }  # fmt: skip


def _settings(
    points: list[Point], split: str, codec: str, keys: tuple[str, ...], trained_with: str
) -> dict[tuple[Any, ...], list[Point]]:
    """The points of a codec at a split by their setting; `trained_with` "" is whatever is not `learned`."""
    found: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        fits = point["trained_with"] == trained_with if trained_with else point["trained_with"] != "learned"
        if fits and point["split"] == split and point["codec"] == codec:
            found.setdefault(tuple(point[key] for key in keys), []).append(point)
    return found


def _mean(points: list[Point], part: str, key: str) -> float:
    return float(np.mean([point[part][key] for point in points]))
