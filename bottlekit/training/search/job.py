"""One training of a search, as a value that can travel to another machine and a function that does it."""

from __future__ import annotations

import dataclasses
import platform
import time
from pathlib import Path
from typing import Any

from bottlekit.errors import BottlekitError
from bottlekit.models.checkpoint import load_checkpoint
from bottlekit.specs import BottleneckKind, CodecSpec
from bottlekit.training.recipe import Recipe
from bottlekit.training.resume import resume_path
from bottlekit.training.search.decisions import Trial
from bottlekit.training.train import data_of_checkpoint, train_bottleneck


@dataclasses.dataclass(frozen=True)
class Job:
    """A trial with everything else that decides what it gives.

    `recipe` is that of a whole training: a trial's epochs take its place. `data_root` is where the data set lies on
    the machine that trains; None is where it lay when the checkpoint was trained.
    """

    trial: Trial
    unit: BottleneckKind
    codec: CodecSpec
    recipe: Recipe
    seed: int = 0
    data_root: str | None = None
    command: str = ""


def outcome_of_job(job: Job, source: Path, start: Path | None, output: Path, quiet: bool) -> dict[str, Any]:
    """Train, write the network to `output`, and return what was measured, as JSON values.

    `source` is the uncompressed network's checkpoint, `start` that of the trial's start. The state of an
    interrupted run beside `output` is gone on from. Training that diverged is a result too: {"accuracy": None,
    "error"}.
    Raises what else `train_bottleneck` raises.
    """
    trial = job.trial
    epochs = trial.epochs
    recipe = dataclasses.replace(
        job.recipe, epochs=epochs, warmup_epochs=min(job.recipe.warmup_epochs, epochs / 4), evaluate_every=0
    )
    if epochs == job.recipe.epochs:
        recipe = dataclasses.replace(recipe, warmup_epochs=job.recipe.warmup_epochs)
    started_s = time.monotonic()
    where = {"machine": platform.node(), "error": None}
    try:
        checkpoint = train_bottleneck(
            output,
            source,
            trial.reduction.spec(job.unit, trial.split),
            job.codec,
            recipe,
            data_of_checkpoint(load_checkpoint(source), job.data_root, job.seed, quiet=True),
            # Another seed for a later rung: it shall not repeat the order and the augmentations of the first.
            seed=job.seed + trial.rung,
            resume=resume_path(output).exists(),
            command=job.command,
            quiet=quiet,
            start=start,
        )
    except BottlekitError as error:
        if type(error) is not BottlekitError:  # what was asked for cannot be done; only numbers ran away otherwise
            raise
        resume_path(output).unlink(missing_ok=True)
        return where | {"accuracy": None, "error": str(error), "seconds": round(time.monotonic() - started_s, 2)}
    measured = checkpoint.accuracy
    return where | {
        "accuracy": measured["split"],
        "accuracy_without_codec": measured["split_without_codec"],
        "baseline": measured["baseline"],
        "payload_bytes_mean": measured["payload_bytes_mean"],
        "images": measured["images"],
        "seconds": round(time.monotonic() - started_s, 2),
    }
