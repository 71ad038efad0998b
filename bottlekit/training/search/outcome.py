"""A whole search, and what it found as search.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bottlekit
from bottlekit.device.files import write_json
from bottlekit.errors import InfeasibleError
from bottlekit.training.search.decisions import Trial, Verdict
from bottlekit.training.search.request import Request
from bottlekit.training.search.run import Listener, Workforce, search
from bottlekit.training.search.store import Store

FORMAT, VERSION = "bottlekit-search", 1


def run_search(request: Request, folder: Path, workforce: Workforce, say: Listener) -> dict[str, Any]:
    """Search, write `folder`/search.json and return what it holds; every training is kept in `folder`, see `Store`.

    Raises UsageError if the folder holds another search, and what training raises.
    """
    store = Store(folder, request.settings)
    goal = request.goal
    allowed = f"{request.baseline:.2%} of the uncompressed network less {request.max_accuracy_drop:.2%}"
    least = f"{goal.least:.2%} ({allowed})"
    say(f"searching {len(request.grids)} split points for at least {least}")
    verdicts = search(request.grids, goal, store, workforce, say)
    found = {
        "format": FORMAT,
        "version": VERSION,
        "bottlekit": bottlekit.__version__,
        **{name: value for name, value in request.settings.items() if name not in ("format", "version")},
        "command": request.template.command,
        "mode": goal.mode,
        "held_out_images": goal.images,
        "baseline_accuracy": request.baseline,
        "max_accuracy_drop": request.max_accuracy_drop,
        "least_accuracy": goal.least,
        "splits": [_entry(split, verdict, store) for split, verdict in verdicts.items()],
        "trainings_spent": round(sum(verdict.spent for verdict in verdicts.values()), 3),
        "trainings_of_linear_search": sum(verdict.linear for verdict in verdicts.values()),
        "trainings_saved": round(sum(verdict.saved for verdict in verdicts.values()), 3),
    }
    write_json(str(folder / "search.json"), found)
    return found


def require_something(found: dict[str, Any]) -> None:
    """Raise InfeasibleError, which names the best training, where nothing is accurate enough at any split point."""
    if any(entry["found"] for entry in found["splits"]):
        return
    best = max(
        (entry for entry in found["splits"] if entry["best"]),
        key=lambda entry: float(entry["best"]["accuracy"]),
        default=None,
    )
    if best is None:
        reached = "every training diverged; lower the learning rate with --lr"
    else:
        width = f"{best['best']['channels']} channels and s = {best['best']['spatial']}"
        told = f"{best['best']['accuracy']:.2%}, {best['split']} with {width}"
        reached = f"the best is {told}; widen the grid, or allow more"
    raise InfeasibleError(f"nothing reaches {found['least_accuracy']:.2%}: {reached}")


def _entry(split: str, verdict: Verdict, store: Store) -> dict[str, Any]:
    """What is known of one split point: the training that was taken, the best, and all of them."""
    trials = [trial for trial in store.records if trial.split == split]
    return {
        "split": split,
        "found": None if verdict.found is None else _training(verdict.found, store),
        "best": None if verdict.best is None else _training(verdict.best, store),
        "trainings_spent": round(verdict.spent, 3),
        "trainings_of_linear_search": verdict.linear,
        "trainings": [_training(trial, store) for trial in trials],
    }


def _training(trial: Trial, store: Store) -> dict[str, Any]:
    record = store.records[trial]
    return {
        "channels": trial.reduction.channels,
        "spatial": trial.reduction.spatial,
        "epochs": trial.epochs,
        "rung": trial.rung,
        "accuracy": record["accuracy"],
        "error": record["error"],
        "payload_bytes_mean": record.get("payload_bytes_mean"),
        "seconds": record["seconds"],
        "checkpoint": str(store.checkpoint(trial).relative_to(store.folder)),
        "checkpoint_sha256": record["checkpoint_sha256"],
    }
