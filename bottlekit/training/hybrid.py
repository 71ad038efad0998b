"""Training a conditionally deep hybrid network, and choosing when an image may leave early.

    full-precision checkpoint --> quantise, add exits --> train --> answers on held-out images
                                                                       | a third: choose the threshold
                                                                       | the rest: report
                                                                       v
                                                                  hybrid checkpoint

Two ways (Conditionally Deep Hybrid Neural Networks, section 3): `joint` trains everything with the weighted sum of
the losses; `two-step` trains the network without its exits, and then the exits alone, nothing else moving. In both,
the full-precision network may teach: exits and cloud learn its answers to the training images beside the labels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from bottlekit.device.exit_rules import check_rule
from bottlekit.device.files import sha256_of_file
from bottlekit.errors import UsageError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.models.hybrid.checkpoint import HybridCheckpoint, save_hybrid_checkpoint, tensors_of
from bottlekit.models.hybrid.network import HybridNetwork
from bottlekit.models.hybrid.spec import HybridSpec, exit_splits
from bottlekit.models.hybrid.work import work_of_network
from bottlekit.training.batches import evaluation_batches, readable
from bottlekit.training.data import DataSet, LabelledImages
from bottlekit.training.digits import held_out_mask
from bottlekit.training.evaluate import EVALUATION_BATCH, evaluation_mode
from bottlekit.training.exit_curve import Answers, calibrated_threshold, exit_curve, point_at
from bottlekit.training.hybrid_losses import ExitLosses, WeightedLosses
from bottlekit.training.loop import History, fit, own_dice
from bottlekit.training.recipe import Recipe
from bottlekit.training.train import check_data, data_of_checkpoint, how_it_was_done, run_record, uncompressed

Way = Literal["joint", "two-step"]
WAYS: tuple[Way, ...] = ("joint", "two-step")
# Of the held-out images of each class; they choose the threshold and are not reported with.
CALIBRATION_SHARE = 3


@dataclasses.dataclass(frozen=True)
class HybridPlan:
    """How to train and when to leave: `exit_weights` one per exit, each above 0 and together below 1; `way`; the
    exit `rule`; the `allowed_drop` in accuracy below the full-precision network that the threshold may cost;
    `from_scratch` begins with random weights instead of the full-precision network's; `taught` is how much of each
    loss is the distance from the full-precision network's answers instead of the labels, 0 to 1."""

    exit_weights: tuple[float, ...]
    way: Way = "joint"
    rule: str = "entropy"
    allowed_drop: float = 0.01
    from_scratch: bool = False
    taught: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no loss (UsageError, UnknownNameError)."""
        if not all(0.0 < weight < 1.0 for weight in self.exit_weights) or not sum(self.exit_weights) < 1.0:
            raise UsageError(
                "--exit-weights must each be above 0 and together below 1, or nothing is left for the cloud; "
                f"not {', '.join(f'{weight:g}' for weight in self.exit_weights)}"
            )
        if self.way not in WAYS:
            raise UsageError(f"--way must be {' or '.join(WAYS)}, not {self.way}")
        if not 0.0 <= self.allowed_drop < 1.0:
            raise UsageError(f"--allowed-drop must be 0 to 1 (0.01 is a point), not {self.allowed_drop}")
        if not 0.0 <= self.taught <= 1.0:
            raise UsageError(f"--taught must be 0 (labels alone) to 1 (the teacher alone), not {self.taught}")
        check_rule(self.rule)


def train_hybrid(
    output: Path,
    source: Path,
    spec: HybridSpec,
    plan: HybridPlan,
    recipe: Recipe,
    data: DataSet | None = None,
    seed: int = 0,
    command: str = "",
    quiet: bool = False,
) -> HybridCheckpoint:
    """Make a hybrid network of the full-precision checkpoint `source`, train it and write it to `output`.

    `data` None is what the checkpoint was trained on. With the way `two-step` each step has the recipe's epochs.
    Raises UnknownNameError, UsageError, CheckpointError, DataError; BottlekitError if training diverges.
    """
    if output.is_dir():
        raise UsageError(f"{output} is a folder; -o must name the checkpoint file to write")
    checkpoint = load_checkpoint(source)
    exits = exit_splits(checkpoint.model, spec)
    if len(plan.exit_weights) != len(exits):
        raise UsageError(f"--exit-weights has {len(plan.exit_weights)} numbers for {len(exits)} exits")
    if data is None:
        data = data_of_checkpoint(checkpoint, seed=seed)
    check_data(checkpoint, data)
    baseline = uncompressed(checkpoint)
    with own_dice(seed):
        backbone = None if plan.from_scratch else copy.deepcopy(baseline)
        network = HybridNetwork(checkpoint.model, spec, backbone)
    history = fit_hybrid(network, data, plan, recipe, seed, quiet, baseline)
    calibration, accuracy = judge(network, baseline, data, plan)
    trained = HybridCheckpoint(
        model=checkpoint.model,
        spec=spec,
        classes=checkpoint.classes,
        preprocessing=checkpoint.preprocessing,
        data=data.name,
        rule=plan.rule,
        threshold=calibration["threshold"],
        accuracy=accuracy,
        calibration=calibration,
        work=work_of_network(network),
        training={
            **run_record("hybrid", checkpoint.model, data, recipe, seed),
            "plan": dataclasses.asdict(plan),
            "from": {"sha256": sha256_of_file(str(source))},
            **how_it_was_done(history, command),
        },
        tensors=tensors_of(network, baseline),
    )
    save_hybrid_checkpoint(output, trained)
    return trained


def fit_hybrid(
    network: HybridNetwork,
    data: DataSet,
    plan: HybridPlan,
    recipe: Recipe,
    seed: int = 0,
    quiet: bool = False,
    teacher: nn.Module | None = None,
) -> History:
    """Train `network` in place, in one step or two; returns the history of all epochs.

    `teacher` is the full-precision network, for plans that are taught (UsageError without one).
    """
    if plan.taught and teacher is None:
        raise UsageError("--taught needs the full-precision network that teaches")
    title = f"hybrid, {network.spec.bits} bit"
    taught = (recipe.label_smoothing, teacher, plan.taught)
    if plan.way == "joint":
        objective = WeightedLosses(network, plan.exit_weights, *taught)
        return fit(network, data, recipe, seed, title=title, quiet=quiet, objective=objective)
    alone = WeightedLosses(network, [0.0] * len(plan.exit_weights), *taught)
    first = fit(network, data, recipe, seed, title=f"{title}, network", quiet=quiet, objective=alone)
    network.freeze_backbone()
    exits = ExitLosses(network, 0.0, teacher, plan.taught)
    second = fit(network, data, recipe, seed, title=f"{title}, exits", quiet=quiet, objective=exits)
    return [{**epoch, "step": 1} for epoch in first] + [{**epoch, "step": 2} for epoch in second]


def judge(
    network: HybridNetwork, baseline: nn.Module, data: DataSet, plan: HybridPlan
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of the calibration and of the accuracy, both of the last exit alone, but for the curve in which
    the first exit that is sure answers.

    The threshold is chosen on a third of the held-out images; the rest is what is reported.
    """
    chosen = calibration_mask(data.val.labels)
    every = answers(network, data.val)
    full = logits_of(baseline, data.val).argmax(1) == every.labels
    last = dataclasses.replace(every, earlier=())
    validation, report = part_of(last, chosen), part_of(last, ~chosen)
    full_there, full_here = float(full[chosen].mean()), float(full[~chosen].mean())
    point = calibrated_threshold(validation, plan.rule, full_there - plan.allowed_drop)
    calibration = {
        **dataclasses.asdict(point),
        "rule": plan.rule,
        "images": len(validation.labels),
        "full_precision_accuracy": full_there,
        "allowed_drop": plan.allowed_drop,
        "reached": point.accuracy >= full_there - plan.allowed_drop,
    }
    here = point_at(report, plan.rule, point.threshold)
    accuracy = {
        "data": data.name.partition(":")[0],
        "images": len(report.labels),
        "baseline": full_here,
        "split": float((report.cloud_logits.argmax(1) == report.labels).mean()),
        "exit": float((report.exit_logits.argmax(1) == report.labels).mean()),
        "hybrid": here.accuracy,
        "early_share": here.early_share,
        "early_accuracy": here.early_accuracy,
        "offloaded_accuracy": here.offloaded_accuracy,
        "curve": [dataclasses.asdict(one) for one in exit_curve(report, plan.rule)],
    }
    if every.earlier:
        all_exits = exit_curve(part_of(every, ~chosen), plan.rule)
        accuracy["curve_of_all_exits"] = [dataclasses.asdict(one) for one in all_exits]
    return calibration, accuracy


def answers(network: HybridNetwork, images: LabelledImages) -> Answers:
    """Every exit's and the cloud's logits of all images, the codec in the cloud's path."""
    found, labels = [], []
    with evaluation_mode(network):
        device = next(network.parameters()).device
        for inputs, batch_labels in readable(evaluation_batches(images, EVALUATION_BATCH)):
            found.append([logits.float().cpu().numpy() for logits in network.every_answer(inputs.to(device))])
            labels.append(batch_labels.numpy())
    *earlier, last, cloud = (np.concatenate(batches) for batches in zip(*found, strict=True))
    return Answers(last, cloud, np.concatenate(labels), tuple(earlier))


def logits_of(network: nn.Module, images: LabelledImages) -> Any:
    """A plain network's logits (n, classes) of all images."""
    with evaluation_mode(network):
        device = next(network.parameters()).device
        found = [
            network(inputs.to(device)).float().cpu().numpy()
            for inputs, _ in readable(evaluation_batches(images, EVALUATION_BATCH))
        ]
    return np.concatenate(found)


def calibration_mask(labels: Sequence[int]) -> Any:
    """True for the held-out images that choose the threshold: a third of each class, evenly spaced.

    Arithmetic alone, so that whoever reports later knows which images they were. Raises UsageError where a class
    has too few.
    """
    values = np.asarray(labels)
    fewest = int(np.bincount(values)[np.unique(values)].min())
    if fewest < CALIBRATION_SHARE:
        raise UsageError(
            f"a class has {fewest} held-out images; {CALIBRATION_SHARE} are needed, one to choose the threshold "
            "with and the rest to report with"
        )
    return held_out_mask(values, fewest // CALIBRATION_SHARE)


def part_of(every: Answers, mask: Any) -> Answers:
    """The answers of the images where `mask` (n,) is True."""
    earlier = tuple(logits[mask] for logits in every.earlier)
    return Answers(every.exit_logits[mask], every.cloud_logits[mask], every.labels[mask], earlier)
