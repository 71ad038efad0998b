"""What one inference is made of, block by block: head, encode, uplink, decode, tail.

    profile.json + {link: plan.json} -> blocks_table, blocks_picture

The times of the blocks are the profile's medians, those of the uplink the plans'; a mobile-only or cloud-only
inference has one block, the whole network on the one side or the other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bottlekit.errors import ReportError
from bottlekit.report import drawing
from bottlekit.report.drawing import Picture
from bottlekit.report.pictures import PHASE_COLOURS, TERM_COLOURS, beside, describe_panel, name_setups
from bottlekit.report.render import number_text
from bottlekit.report.setups import (
    Key,
    Values,
    candidate_key,
    candidate_title,
    link_title,
    ordered_candidates,
    term_origin,
)
from bottlekit.report.table import Cell, Column, Table, combined_origin, with_best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_DEVICE, ON_SERVER = "whole, on the device", "whole, on the server"
BLOCKS = (ON_DEVICE, "head", "encode", "uplink", "decode", "tail", ON_SERVER)
"""In the order of an inference."""

COLOURS = {
    **{phase: PHASE_COLOURS[phase] for phase in ("head", "encode", "decode", "tail")},
    "uplink": TERM_COLOURS["uplink"],
    ON_DEVICE: drawing.GRAY,
    ON_SERVER: drawing.PURPLE,
}

Blocks = dict[str, Cell]


def blocks_of_candidate(profile: Values, candidate: Values) -> Blocks:
    """The blocks of a candidate in ms, each with its origin."""
    blocks = {}
    if candidate["setup"] == "collaborative":
        entry = next(one for one in profile["bundles"] if one["bundle"]["name"] == candidate["bundle"])
        for phase in ("head", "encode", "decode", "tail"):
            timed = entry["phases"][phase]
            blocks[phase] = Cell(timed["summary"]["p50_ms"], timed["origin"])
    for term, block in (("device", ON_DEVICE), ("server", ON_SERVER), ("uplink", "uplink")):
        value = candidate["terms_ms"].get(term)
        if value and (term == "uplink" or not blocks):
            blocks[block] = Cell(value, term_origin(candidate, term, "ms"))
    return {name: blocks[name] for name in BLOCKS if name in blocks}


def blocks_table(
    profile: Values, plans: Mapping[str, Values], title: str = "What an inference is made of", trust: str = ""
) -> Table:
    """One row a setup and network: its blocks and their sum in ms. Raises ReportError without a plan.

    `trust` says how far to trust emulated times; it stands below the table.
    """
    if not plans:
        raise ReportError("blocks of an inference need a plan for at least one network")
    columns = (
        Column("setup", "setup"),
        Column("link", "link"),
        *(Column(f"{block.replace(', ', '_').replace(' ', '_')}_ms", block, "ms") for block in BLOCKS),
        Column("sum_ms", "sum", "ms"),
    )
    rows = []
    for plan in plans.values():
        for candidate in ordered_candidates(profile, plan):
            blocks = blocks_of_candidate(profile, candidate)
            cells = [blocks.get(block, Cell(None)) for block in BLOCKS]
            rows.append((Cell(candidate_title(candidate)), Cell(link_title(plan)), *cells, _sum(blocks)))
    empty = [index for index in range(2, len(columns)) if all(row[index].value is None for row in rows)]
    columns = tuple(column for index, column in enumerate(columns) if index not in empty)
    kept = [tuple(cell for index, cell in enumerate(row) if index not in empty) for row in rows]
    note = "; ".join(filter(None, ["medians of the blocks; in bold the best sum of each network", trust]))
    return Table(title, columns, _with_best_of_link(kept), note=note)


def _sum(blocks: Blocks) -> Cell:
    total = sum(cell.value for cell in blocks.values() if isinstance(cell.value, (int, float)))
    return Cell(total, combined_origin(cell.origin for cell in blocks.values()))


def _with_best_of_link(rows: list[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    links = dict.fromkeys(row[1].value for row in rows)
    return tuple(
        row
        for link in links
        for row in with_best([row for row in rows if row[1].value == link], [len(rows[0]) - 1])
    )


def blocks_picture(profile: Values, plans: Mapping[str, Values], trust: str = "") -> Picture:
    """Stacked bars, one panel a network, one bar a setup; `trust`, on emulated times, stands above them.

    Raises ReportError without a plan.
    """
    if not plans:
        raise ReportError("there is no plan to draw the blocks of")
    order: list[Key] = [candidate_key(one) for one in ordered_candidates(profile, next(iter(plans.values())))]
    origins: dict[str, set[str]] = {}
    with drawing.style():
        figure = drawing.new_figure(10, 1.7 + 0.38 * len(order) + (0.4 if trust else 0.0))
        if trust:
            figure.suptitle(textwrap.fill(trust, 125), fontsize=9, x=0.01, ha="left")
        panels = figure.subplots(1, len(plans), squeeze=False, sharey=True)[0]
        for axes, plan in zip(panels, plans.values(), strict=True):
            for candidate in plan["ranking"]:
                blocks = blocks_of_candidate(profile, candidate)
                for name, cell in blocks.items():
                    origins.setdefault(name, set()).add(cell.origin)
                _bar(axes, order.index(candidate_key(candidate)), blocks)
            describe_panel(axes, plan, "latency, ms")
        name_setups(panels[0], order)
        _legend(figure, origins)
        origin = combined_origin(word for words in origins.values() for word in words)
        svg = drawing.svg_from_figure(figure, "blocks", f"latency of each split, block by block ({origin})")
    caption = (
        "Medians of the blocks, from image to class; head and encode run on the device, decode and tail on the "
        "server. Each network has its own scale."
    )
    return Picture(f"What an inference is made of ({origin})", caption, svg, figure)


def _bar(axes: Axes, row: int, blocks: Blocks) -> None:
    left = 0.0
    for name, cell in blocks.items():
        if isinstance(cell.value, (int, float)):
            axes.barh(row, cell.value, left=left, height=0.62, color=COLOURS[name])
            left += cell.value
    beside(axes, left, row, f"{number_text(left, 'ms')} ms")


def _legend(figure: Figure, origins: Mapping[str, set[str]]) -> None:
    from matplotlib.patches import Patch

    names = [name for name in BLOCKS if name in origins]
    handles = [Patch(color=COLOURS[name], label=f"{name} ({combined_origin(origins[name])})") for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
