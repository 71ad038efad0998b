"""`bottlekit plan --sweep`: the best choice over bandwidth and the server's load, as data and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottlekit.cli.common import emit, say, stdout_console
from bottlekit.errors import UsageError

if TYPE_CHECKING:
    from bottlekit.specs import LinkSpec


def sweep_links(
    planner: Callable[[LinkSpec, float], dict[str, Any]],
    links: list[LinkSpec],
    uplinks: str,
    loads: str,
    picture: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Plan every point, print a table of what is best where, and write what was asked for."""
    from bottlekit.device.files import whole_file, write_json
    from bottlekit.planning.sweep import steps, sweep_from_planner

    if len(links) != 1:
        raise UsageError("--sweep changes the rate of one link; name it: --link wifi")
    sweep = sweep_from_planner(planner, links[0], steps(uplinks, "--sweep"), steps(loads, "--sweep-load"))
    if picture is not None:
        from bottlekit.report.sweep_picture import sweep_picture

        drawn = sweep_picture(sweep)
        with whole_file(str(picture)) as temporary:
            Path(temporary).write_text(drawn.svg, encoding="utf-8")
    if out is not None:
        write_json(str(out), sweep)
    emit(sweep, lambda: _print(sweep), as_json)
    for written in (out, picture):
        if written is not None:
            say(f"wrote {written}")


def _print(sweep: dict[str, Any]) -> None:
    """A row for each load, in it runs of bandwidths with the same best choice."""
    console = stdout_console()
    console.print(f"[bold]best by {sweep['objective']}, link {sweep['link']} at other rates[/bold]")
    for load, row in zip(sweep["server_loads"], sweep["cells"], strict=True):
        words: list[str] = []
        for uplink, cell in zip(sweep["uplinks_mbps"], row, strict=True):
            name = cell["split"] or cell["setup"]
            if not words or not words[-1].startswith(f"{name} "):
                words.append(f"{name} from {uplink:.3g} Mbit/s")
        console.print(f"server load {load:.3g}: {', '.join(words)}", soft_wrap=True)
