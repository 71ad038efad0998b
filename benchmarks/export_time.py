"""How long `bottlekit export` takes for each of the 16 residual blocks of ResNet-50 at 224 x 224.

    checkpoint --(read)--> network --(write)--> head, tail, full, baseline .onnx --(compare)--> proved --> bundle

A whole export is timed, from the checkpoint file to the bundle on disk, and so are its two long parts: writing the
four graphs, and comparing each with torch on 10 inputs (that is what makes an export correct, so it belongs to the
time). Bottlenecks as in BottleNet, table 4; weights are random, because what they are does not change the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import record

from bottlekit.export.bundle_writer import bundle_from_checkpoint
from bottlekit.export.source import Untrained
from bottlekit.models.backbones import backbone_from_name
from bottlekit.models.splits import split_names
from bottlekit.specs import BottleneckSpec, CodecSpec

CLAIM = "a ResNet-50 is exported and proved equivalent at any of its 16 residual blocks in seconds"
BACKBONE = "resnet50"
CLASSES = 100
INPUT_SIZE = 224
# BottleNet, table 4: the last block that each number of channels is used for.
CHANNELS_UP_TO = ((3, 1), (7, 2), (13, 5), (16, 10))


def channels_at(block: int) -> int:
    """c' at the residual block with this number, counted from 1."""
    return next(channels for last, channels in CHANNELS_UP_TO if block <= last)


def export_once(weights: Path, split: str, channels: int, folder: Path) -> dict[str, Any]:
    """One export; its times in ms, and how far the graphs were from torch."""
    steps: list[tuple[float, str]] = []
    untrained = Untrained(BottleneckSpec("bottlenet", split, channels), CodecSpec("jpeg"), BACKBONE, INPUT_SIZE)
    started = time.perf_counter()
    bundle = bundle_from_checkpoint(
        weights,
        folder / split,
        untrained=untrained,
        force=True,
        command=__file__,
        progress=lambda step: steps.append((time.perf_counter(), step)),
    )
    ended = time.perf_counter()
    write = next(at for at, step in steps if step.startswith("writing"))
    compare = next(at for at, step in steps if step.startswith("comparing"))
    compared = next(at for at, step in steps if step.startswith("computing the golden"))
    values = [one for one in bundle.manifest["equivalence"] if "codes_differing" not in one]
    return {
        "total_ms": (ended - started) * 1e3,
        "write_ms": (compare - write) * 1e3,
        "compare_ms": (compared - compare) * 1e3,
        "largest_difference_of_allowed": max(one["max_abs"] / one["tolerance"] for one in values),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often all blocks are exported, in turns")
    options = parser.parse_args()

    splits = split_names(BACKBONE)
    samples: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        torch.save(backbone_from_name(BACKBONE, CLASSES).state_dict(), folder / "weights.pt")
        # The first export of a process also loads what all exports share.
        export_once(folder / "weights.pt", splits[0], channels_at(1), folder)
        for _ in range(options.rounds):
            for block, split in enumerate(splits, start=1):
                sample = export_once(folder / "weights.pt", split, channels_at(block), folder)
                samples[split].append(sample)
                print(
                    f"{split}: {sample['total_ms'] / 1e3:.1f} s, of which writing {sample['write_ms'] / 1e3:.1f} s "
                    f"and comparing {sample['compare_ms'] / 1e3:.1f} s"
                )
    totals_ms = [sample["total_ms"] for taken in samples.values() for sample in taken]
    figures = {
        "backbone": BACKBONE,
        "input_size": INPUT_SIZE,
        "blocks": len(splits),
        "median_total_ms": statistics.median(totals_ms),
        "slowest_total_ms": max(totals_ms),
        "all_blocks_ms": sum(totals_ms) / options.rounds,
        "samples": samples,
    }
    print(f"all {len(splits)} blocks: {figures['all_blocks_ms'] / 1e3:.0f} s")
    print(f"recorded in {record(CLAIM, figures, torch.get_num_threads())}")


if __name__ == "__main__":
    main()
