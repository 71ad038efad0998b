"""What `bottlekit search` leaves beside its trainings, a fleet and a picture, and what it says at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bottlekit.cli.common import say, stdout_console


def fleet_from_search(found: dict[str, Any], folder: Path, data_root: Path | None, command: str) -> None:
    """Export what was found at each split point to `folder`/fleet, and draw `folder`/accuracy.svg.

    A bundle that is there already and of the same checkpoint stays; one of a split point at which nothing was found
    is not left over from an earlier search.
    """
    import shutil

    from bottlekit.device.bundle import Bundle
    from bottlekit.export.bundle_writer import bundle_from_checkpoint

    for entry in found["splits"]:
        bundle = folder / "fleet" / f"{found['backbone']}-{entry['split']}"
        taken = entry["found"]
        if taken is None:
            shutil.rmtree(bundle, ignore_errors=True)
            continue
        if bundle.exists():
            manifest = Bundle.load(str(bundle), verify=False).manifest
            if manifest["checkpoint_sha256"] == taken["checkpoint_sha256"]:
                continue
        say(f"exporting {bundle.name}")
        bundle_from_checkpoint(
            folder / taken["checkpoint"], bundle, force=True, command=command, data_root=data_root, say=say
        )
    if any(entry["best"] for entry in found["splits"]):
        _draw(found, folder / "accuracy.svg")


def _draw(found: dict[str, Any], path: Path) -> None:
    from bottlekit.device.files import whole_file
    from bottlekit.report.search_picture import search_picture

    try:
        picture = search_picture(found)
    except ModuleNotFoundError as error:
        say(f"no {path.name}: '{error.name}' is not installed; pip install 'bottlekit[report]'")
        return
    with whole_file(str(path)) as temporary:
        Path(temporary).write_text(picture.svg, encoding="utf-8")


def print_search(found: dict[str, Any], folder: Path) -> None:
    """A row for each split point, then what the search cost."""
    from rich.table import Table

    table = Table(
        "split point",
        title=f"The smallest widths with at least {found['least_accuracy']:.2%} ({found['mode']} search)",
    )
    for column in ("channels", "spatial", "accuracy", "mean payload, bytes", "trainings"):
        table.add_column(column, justify="right")
    for entry in found["splits"]:
        taken, best = entry["found"], entry["best"]
        if taken is not None:
            cells = [str(taken["channels"]), str(taken["spatial"]), f"{taken['accuracy']:.2%}"]
            cells.append(str(taken["payload_bytes_mean"]))
        else:
            reached = "diverged" if best is None else f"best {best['accuracy']:.2%} with {best['channels']}"
            cells = ["none", "", reached, ""]
        table.add_row(entry["split"], *cells, f"{entry['trainings_spent']:g}")
    out = stdout_console()
    out.print(table)
    out.print(
        f"{found['trainings_spent']:g} trainings of {found['recipe']['epochs']} epochs; a linear search with the "
        f"same outcome takes {found['trainings_of_linear_search']}, saved: {found['trainings_saved']:g}"
    )
    out.print(f"written: {folder}/search.json, {folder}/fleet, {folder}/accuracy.svg")
