"""`bottlekit bench --power`: which meter, how long, and what came out, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bottlekit.cli.common import emit, say, stdout_console

if TYPE_CHECKING:
    from bottlekit.device.energy_phase import PowerRequest


PowerOption = Annotated[
    bool, typer.Option("--power", help="Measure the energy of each phase, too: about seven minutes a phase.")
]
MeterOption = Annotated[
    str | None,
    typer.Option(
        help="ina3221, ina226, nvml, rapl, jtop, replay or none; --list-meters says what is here.",
        show_default="auto",
    ),
]
MeterSourceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="Where the meter looks, as i2c_bus=1 or rails=VDD_IN; may be given again."
    ),
]
ListMetersOption = Annotated[
    bool, typer.Option("--list-meters", help="Say which meters this machine has, and measure nothing.")
]
PowerModeOption = Annotated[
    int | None, typer.Option(min=0, help="A Jetson's nvpmodel mode while it is measured; restored in any case.")
]
LockClocksOption = Annotated[
    bool,
    typer.Option("--lock-clocks", help="A Jetson's highest clocks while it is measured; restored in any case."),
]


def show_meters(words: Sequence[str], as_json: bool) -> None:
    """Every meter and whether it works on this machine."""
    from bottlekit.device.meters.choose import list_meters
    from bottlekit.device.power_options import sources_from_words
    from bottlekit.report.render import rich_from_table
    from bottlekit.report.table import Cell, Column, Table

    meters = list_meters(**sources_from_words(words))
    columns = [Column(name, name) for name in ("meter", "works", "measures", "rails", "why not")]
    rows = [
        (
            Cell(meter["name"]),
            Cell("auto" if meter["auto"] else "yes" if meter["available"] else "no"),
            Cell(meter["boundary"]),
            Cell(", ".join(meter["rails"]) or None),
            Cell(meter["why_not"]),
        )
        for meter in meters
    ]
    table = Table("Meters of this machine", tuple(columns), tuple(rows))
    emit(meters, lambda: stdout_console().print(rich_from_table(table, stdout_console().width)), as_json)


def say_meter(request: PowerRequest | None) -> None:
    """Which meter was chosen, and how long it will take."""
    if request is None or request.meter == "none":
        return
    effort = request.effort
    seconds = 2 * effort.idle_s + effort.settle_s + max(effort.warm_up_s, 3 * effort.window_s)
    seconds += effort.repeats * effort.run_s
    words = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    say(f"energy: measured by {request.meter} ({request.why_chosen}); at least {words} a phase")


def show_energies(profile: dict[str, Any]) -> None:
    """The energy of each phase, or why there is none."""
    from bottlekit.report.energies import energy_table, has_energies
    from bottlekit.report.render import rich_from_table

    if not has_energies(profile):
        return
    console = stdout_console()
    if profile["power"]["meter"] == "none":
        console.print(f"energy: none ({profile['power']['why_chosen']})", soft_wrap=True, markup=False)
    else:
        console.print(rich_from_table(energy_table(profile), console.width))


def partial_path(out: Path) -> Path:
    """Where an interrupted measurement leaves what it has: never in the place of a whole profile."""
    return out.with_name(f"{out.stem}.partial{out.suffix}")
