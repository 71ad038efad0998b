"""What leaving early gives, measured on a bundle's own graphs: the "exit" of its bundle.json.

held-out images --head, codec, tail--> answers --a third--> threshold, where training did not choose it
                                          \\--the rest--> accuracy, shares, bytes, curve
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bottlekit.device.codecs import Codec
from bottlekit.device.early_exit import EXIT_OUTPUT
from bottlekit.device.exit_rules import RULES
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.export.equivalence import Network
from bottlekit.export.held_out import HeldOut
from bottlekit.export.measure import BATCH, size_statistics
from bottlekit.export.sessions import Array
from bottlekit.models.hybrid.checkpoint import HybridCheckpoint
from bottlekit.models.hybrid.network import EdgePart, HybridNetwork
from bottlekit.specs import SplitSpec
from bottlekit.training.exit_curve import Answers, calibrated_threshold, exit_curve, point_at, who_answers

# Points of the curve that a bundle carries.
_CURVE_POINTS = 64


def exit_outputs(network: HybridNetwork, edge: EdgePart) -> list[tuple[SplitSpec, str]]:
    """(block, name of the head's output) of each exit that the device's part carries, in the order of execution."""
    blocks = [network.exit_splits[index] for index in edge.carried]
    return [(block, f"{EXIT_OUTPUT}_{block.name}") for block in blocks[:-1]] + [(blocks[-1], EXIT_OUTPUT)]


def head_outputs(folder: Path, images: Array) -> tuple[Array, dict[str, Array]]:
    """(features (k, c, h, w), {output: logits (k, classes)} of every exit in their order) of a bundle's head for
    images (k, 3, h, w), one by one."""
    with OnnxRuntimeRunner(str(folder / "head.onnx"), spin=False) as runner:
        found = [runner.run({"image": image[np.newaxis]}) for image in images]
        names = [info.name for info in runner.outputs]
    joined = {name: np.concatenate([outputs[name] for outputs in found]) for name in names}
    return joined.pop("feature"), joined


@dataclasses.dataclass(frozen=True)
class Decision:
    """Who leaves: the rule, the threshold, and the record of how that was chosen."""

    rule: str
    threshold: float
    calibration: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What the graphs made of labelled images: all answers, and the size of each payload in bytes."""

    answers: Answers
    payload_bytes: list[int]


def run_graphs(folder: Path, graphs: Network, codec: Codec, images: HeldOut) -> Run:
    """Head, codec and tail over all images."""
    exits: dict[str, list[Array]] = {}
    clouds, sizes = [], []
    for indices in images.batches(BATCH):
        feature, logits = head_outputs(folder, images.inputs(indices))
        payloads = [codec.encode(one) for one in feature]
        sizes += [len(payload) for payload in payloads]
        for output, values in logits.items():
            exits.setdefault(output, []).append(values)
        clouds.append(graphs.tail(np.stack([codec.decode(payload) for payload in payloads])))
    *earlier, last = (np.concatenate(values) for values in exits.values())
    return Run(Answers(last, np.concatenate(clouds), np.array(images.labels), tuple(earlier)), sizes)


def decision_of(checkpoint: HybridCheckpoint, answers: Answers) -> Decision:
    """The threshold of other exits than training chose it for, from the graphs' answers to the images set aside."""
    full, drop = checkpoint.calibration["full_precision_accuracy"], checkpoint.calibration["allowed_drop"]
    point = calibrated_threshold(answers, checkpoint.rule, full - drop)
    record = {**checkpoint.calibration, **dataclasses.asdict(point), "reached": point.accuracy >= full - drop}
    return Decision(checkpoint.rule, point.threshold, record)


def measure_exit(
    checkpoint: HybridCheckpoint,
    network: HybridNetwork,
    edge: EdgePart,
    decision: Decision,
    folder: Path,
    graphs: Network,
    codec: Codec,
    report: HeldOut,
) -> dict[str, Any]:
    """bundle.json's "exit": what the device needs to decide, and what deciding gave on `report`."""
    run = run_graphs(folder, graphs, codec, report)
    answers, rule, threshold = run.answers, decision.rule, decision.threshold
    with torch.inference_mode():
        batches = [edge(torch.from_numpy(report.inputs(indices)))[1:] for indices in report.batches(BATCH)]
    in_torch = [torch.cat(logits).numpy() for logits in zip(*batches, strict=True)]
    ours = who_answers(answers.exits, rule, threshold)
    point = point_at(answers, rule, threshold)
    curve = exit_curve(answers, rule)
    thinned = [curve[place * (len(curve) - 1) // (_CURVE_POINTS - 1)] for place in range(_CURVE_POINTS)]
    outputs = exit_outputs(network, edge)
    block = outputs[-1][0]
    carried = {f"exits.{index}" for index in edge.carried}
    return {
        "output": EXIT_OUTPUT,
        "block": block.name,
        "block_index": block.index,
        "exits": [{"block": split.name, "block_index": split.index, "output": output} for split, output in outputs],
        "bits": checkpoint.spec.bits,
        "rules": list(RULES),
        "rule": rule,
        "threshold": threshold,
        "calibration": decision.calibration,
        "accuracy": {
            "images": len(report),
            "data": report.name,
            "exit": float((answers.exit_logits.argmax(1) == answers.labels).mean()),
            "hybrid": point.accuracy,
            "early_share": point.early_share,
            "early": point.early_accuracy,
            "offloaded": point.offloaded_accuracy,
            "decisions_unlike_torch": int((ours != who_answers(in_torch, rule, threshold)).sum()),
        },
        "payload_bytes": {
            "mean_over_all": float(np.where(ours < len(outputs), 0, run.payload_bytes).mean()),
            "always_offloading": size_statistics(run.payload_bytes, report.name)["mean"],
        },
        # One point for each threshold that matters, fewer where there are many images.
        "curve": [dataclasses.asdict(one) for one in (curve if len(curve) <= _CURVE_POINTS else thinned)],
        # Exits that the head does not carry cost nothing.
        "work": [
            record
            for record in checkpoint.work
            if record["place"] != "exit" or ".".join(record["name"].split(".")[:2]) in carried
        ],
    }
