"""The page docs/reproduction.md, from the papers' printed tables and the models of bottlekit.planning.

Every function returns Markdown. Nothing is read and nothing is timed here: the same tables give the same page.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emulation_page import emulation_section

from bottlekit.planning.energy import transfer_ms, uplink_power_mw
from bottlekit.planning.links import LINKS
from bottlekit.planning.reproduction import (
    Cell,
    energy_cells,
    latency_cells,
    least_squares_constant,
    median_constant,
    median_residual,
    transfer_mj,
    within,
)

TABLES = Path(__file__).parents[1] / "tests/data/paper_tables.json"
NETWORKS = {"3g": "3G", "4g": "4G", "wifi": "Wi-Fi"}
TITLES = {"bottlenet": "BottleNet", "butterfly": "Butterfly"}
# A cell within this is said to follow; what is outside is listed with its reason.
TOLERANCE = {"butterfly latency": 0.03, "bottlenet latency": 0.06, "bottlenet energy with beta": 0.06}

INTRODUCTION = """# The papers' tables, reproduced

Written by `benchmarks/paper_tables.py`; a test compares this page with what the script writes. Every *printed*
value is the paper's, every *computed* one is modelled: it follows from the offloaded bytes that the paper prints,
the links of its own Table 3 (Butterfly: Table III), and one constant per residual block:

* latency = bytes x 8 / uplink + c, where c is what device and server compute, the same on all three networks;
* energy = power of the radio x transfer time + e, the power being alpha x uplink + beta, or without beta.

c and e are fitted, one number for three networks: the least sum of squared relative residuals. **Nothing else is
fitted.** A residual is computed / printed - 1.
"""


def paper_tables() -> dict[str, Any]:
    """The printed numbers."""
    tables: dict[str, Any] = json.loads(TABLES.read_text(encoding="utf-8"))
    return tables


def table_cells(tables: dict[str, Any]) -> dict[str, tuple[Cell, ...]]:
    """The cells of BottleNet's Table 4 and Butterfly's Table IV, by what they are."""
    cells = {}
    for paper in TITLES:
        table = tables[paper]
        size = table["offloaded_bytes"]
        cells[f"{paper} latency"] = latency_cells(table["latency_ms"], size, LINKS)
        cells[f"{paper} latency, median"] = latency_cells(table["latency_ms"], size, LINKS, median_constant)
        for beta in (True, False):
            words = "with beta" if beta else "without beta"
            for name, fit in (("", least_squares_constant), (", median", median_constant)):
                cells[f"{paper} energy {words}{name}"] = energy_cells(table["energy_mj"], size, LINKS, beta, fit)
    return cells


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def wrapped(markdown: str) -> str:
    """The Markdown with its paragraphs broken anew: the numbers in them have the length they have."""
    blocks = []
    for block in markdown.strip().split("\n\n"):
        if block.startswith(("|", "#")):
            blocks.append(block)
        elif block.startswith("* "):
            blocks.append("\n".join(_filled(f"* {item}", "  ") for item in f"\n{block}".split("\n* ")[1:]))
        else:
            blocks.append(_filled(block))
    return "\n\n".join(blocks) + "\n"


def _filled(text: str, indent: str = "") -> str:
    """One paragraph in lines of 116; a number stays with its unit."""
    joined = re.sub(r"(?<=\d) (?=(?:%|ms|mJ|W)\b|%)", "\0", " ".join(text.split()))
    lines = textwrap.fill(joined, 116, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return lines.replace("\0", " ")


def percent(fraction: float, digits: int = 1) -> str:
    """'+1.3 %'; a zero has no sign."""
    text = f"{100 * fraction:+.{digits}f}"
    return f"{0:.{digits}f} %" if float(text) == 0 else f"{text} %"


def summary_section(cells: dict[str, tuple[Cell, ...]]) -> str:
    """How many cells follow how well."""
    rows = []
    for name, title, bound in (
        ("butterfly latency", "Butterfly, Table IV, latency", 0.03),
        ("bottlenet latency", "BottleNet, Table 4, latency", 0.06),
        ("bottlenet energy with beta", "BottleNet, Table 4, energy, beta counted", 0.06),
        ("bottlenet energy without beta", "the same, beta not counted", 0.06),
        ("butterfly energy with beta", "Butterfly, Table IV, energy, beta counted", 0.06),
        ("butterfly energy without beta", "the same, beta not counted", 0.06),
    ):
        ours, median = cells[name], cells[f"{name}, median"]
        rows.append(
            (
                title,
                f"{100 * bound:.0f} %",
                f"{within(ours, bound)} of {len(ours)}",
                f"{100 * median_residual(ours):.1f} %",
                f"{within(median, bound)} of {len(median)}",
                f"{100 * median_residual(median):.1f} %",
            )
        )
    headings = (
        "table",
        "bound",
        "cells within it",
        "median residual",
        "with the networks' median as constant",
        "median residual",
    )
    return f"""## How much follows

{markdown_table(headings, rows)}
The two right columns show what the choice of the fit does: the median over the networks leaves one network's
deviation to that network, least squares shares it out. With the median, 41 of BottleNet's 48 latencies are within
6 %, and the next one (RB1, Wi-Fi) is 6.1 % off.

Latencies of both papers follow, and so do the energies of BottleNet's Table 4, though that table cannot tell
whether beta was counted: its transfers are short. The energies of Butterfly's Table IV follow neither form
([why](#cells-that-do-not-follow)).
"""


def cells_table(cells: Sequence[Cell], sizes: Sequence[float], unit: str, constant: str) -> str:
    """One row a block: bytes, constant, and printed, computed, residual for each network."""
    headings = ["block", "bytes", f"{constant}, {unit}"]
    for title in NETWORKS.values():
        headings += [f"{title} printed", "computed", "residual"]
    rows = []
    for block, size in enumerate(sizes, start=1):
        of_block = {cell.network: cell for cell in cells if cell.block == block}
        row: list[object] = [f"RB{block}", size, f"{next(iter(of_block.values())).constant:.2f}"]
        for network in NETWORKS:
            cell = of_block[network]
            row += [f"{cell.printed:.1f}", f"{cell.computed:.2f}", percent(cell.residual)]
        rows.append(row)
    return markdown_table(headings, rows)


def block_sections(tables: dict[str, Any], cells: dict[str, tuple[Cell, ...]]) -> str:
    """Table 4 and Table IV, every cell."""
    bottlenet, butterfly = (tables[paper]["offloaded_bytes"] for paper in ("bottlenet", "butterfly"))
    return f"""## BottleNet, Table 4: latency, ms

{cells_table(cells["bottlenet latency"], bottlenet, "ms", "c")}
## BottleNet, Table 4: energy, mJ, beta counted

{cells_table(cells["bottlenet energy with beta"], bottlenet, "mJ", "e")}
## Butterfly, Table IV: latency, ms

{cells_table(cells["butterfly latency"], butterfly, "ms", "c")}
## Butterfly, Table IV: energy, mJ, beta not counted

{cells_table(cells["butterfly energy without beta"], butterfly, "mJ", "e")}
## Butterfly, Table IV: energy, mJ, beta counted

{cells_table(cells["butterfly energy with beta"], butterfly, "mJ", "e")}"""


def cloud_only_rows(table: dict[str, Any], server_ms: float) -> list[list[object]]:
    """One row a network: latency with this server time, energy without and with beta, each with its residual."""
    rows = []
    size = table["cloud_only_bytes"]
    for network, title in NETWORKS.items():
        link = LINKS[network]
        printed_ms, printed_mj = table["cloud_only_latency_ms"][network], table["cloud_only_energy_mj"][network]
        computed_ms = transfer_ms(size, link.uplink_mbps) + server_ms
        row: list[object] = [title, printed_ms, f"{computed_ms:.1f}", percent(computed_ms / printed_ms - 1)]
        row.append(printed_mj)
        for beta in (False, True):
            computed_mj = transfer_mj(size, link, beta)
            row += [f"{computed_mj:.1f}", percent(computed_mj / printed_mj - 1)]
        rows.append(row)
    return rows


CLOUD_HEADINGS = (
    "network",
    "latency printed, ms",
    "computed",
    "residual",
    "energy printed, mJ",
    "without beta",
    "residual",
    "with beta",
    "residual",
)


def fitted_server_ms(table: dict[str, Any]) -> float:
    """The server's time for the whole network, one constant for the three networks (their median)."""
    printed = table["cloud_only_latency_ms"]
    parts = [transfer_ms(table["cloud_only_bytes"], LINKS[network].uplink_mbps) for network in printed]
    return median_constant(list(printed.values()), parts)


def cloud_sections(tables: dict[str, Any]) -> str:
    """Cloud-only of Table 5, Table V and JointDNN, and the headline claims."""
    bottlenet, butterfly, jointdnn = tables["bottlenet"], tables["butterfly"], tables["jointdnn"]
    bottlenet_ms, butterfly_ms = fitted_server_ms(bottlenet), fitted_server_ms(butterfly)
    wifi = LINKS["wifi"]
    jpeg_ms = transfer_ms(bottlenet["cloud_only_bytes"], wifi.uplink_mbps)
    jpeg_mw = bottlenet["cloud_only_energy_mj"]["wifi"] / jpeg_ms * 1000
    image_ms = transfer_ms(butterfly["cloud_only_bytes"], wifi.uplink_mbps)
    left_ms = butterfly["cloud_only_latency_ms"]["wifi"] - image_ms
    return f"""## BottleNet, Table 5: cloud-only

{bottlenet["cloud_only_bytes"]:,} bytes of JPEG; the server's time is {bottlenet_ms:.2f} ms, the median over the
networks.

{markdown_table(CLOUD_HEADINGS, cloud_only_rows(bottlenet, bottlenet_ms))}
The latencies follow. The energies follow neither form: without beta too little is computed; with beta too much on
3G and far too little on Wi-Fi, where {jpeg_ms:.1f} ms of sending would have to draw {jpeg_mw / 1000:.1f} W. The
paper's own radio draws {uplink_power_mw(wifi) / 1000:.1f} W.

## Butterfly, Table V: cloud-only

{butterfly["cloud_only_bytes"]:,} bytes, the image uncompressed; the server's time is {butterfly_ms:.2f} ms, the
median over the networks.

{markdown_table(CLOUD_HEADINGS, cloud_only_rows(butterfly, butterfly_ms))}
The energies follow without beta, and only so. The latency on Wi-Fi does not follow: the bytes take {image_ms:.1f}
ms, which leaves {left_ms:.1f} ms for a server that needs a few on the other networks. The energy printed beside it
is that of {image_ms:.1f} ms of sending, not of more.

Mobile-only (15.7 ms, 20.5 mJ in both papers) has no model: it is a measurement.

## JointDNN: cloud-only AlexNet

{jointdnn["cloud_only_bytes"]:,} bytes. The server's time is the paper's own, {jointdnn["cloud_compute_ms"]} ms:
nothing is fitted here.

{markdown_table(CLOUD_HEADINGS, cloud_only_rows(jointdnn, jointdnn["cloud_compute_ms"]))}
{claims_section(tables)}"""


def claims_section(tables: dict[str, Any]) -> str:
    """Cloud-only against the best split, as the abstracts claim it and as the model gives it."""
    rows = []
    claims = {"bottlenet": (63, 21, 8), "butterfly": (77, 40, 41)}
    cells = table_cells(tables)
    for paper, title in TITLES.items():
        table = tables[paper]
        server_ms = fitted_server_ms(table)
        for (network, network_title), claim in zip(NETWORKS.items(), claims[paper], strict=True):
            cloud_ms = transfer_ms(table["cloud_only_bytes"], LINKS[network].uplink_mbps) + server_ms
            best = min(
                (cell for cell in cells[f"{paper} latency"] if cell.network == network),
                key=lambda cell: cell.computed,
            )
            ratio = cloud_ms / best.computed
            rows.append(
                (
                    f"{title}, {network_title}",
                    f"{claim} x",
                    f"{ratio:.0f} x",
                    percent(ratio / claim - 1, 0),
                    f"RB{best.block}",
                )
            )
    return f"""## The claims: cloud-only / best split, latency

{markdown_table(("paper, network", "claimed", "computed", "residual", "best block computed"), rows)}
The best blocks are those of both papers. Butterfly's 41 x on Wi-Fi rests on the 98.1 ms that do not follow.
"""


def not_following(cells: dict[str, tuple[Cell, ...]]) -> list[tuple[object, ...]]:
    """A row for every cell of Table 4 and Table IV outside its tolerance, with the reason."""
    found: list[tuple[object, ...]] = []
    for name, title, unit in (
        ("butterfly latency", "Butterfly, Table IV, latency", "ms"),
        ("bottlenet latency", "BottleNet, Table 4, latency", "ms"),
        ("bottlenet energy with beta", "BottleNet, Table 4, energy", "mJ"),
    ):
        for cell in cells[name]:
            if abs(cell.residual) > TOLERANCE[name]:
                implied = ", ".join(
                    f"{NETWORKS[other.network]} {other.implied:.2f}"
                    for other in cells[name]
                    if other.block == cell.block
                )
                found.append(
                    (
                        f"{title}, RB{cell.block}, {NETWORKS[cell.network]}",
                        f"{cell.printed:.1f}",
                        f"{cell.computed:.2f}",
                        percent(cell.residual),
                        f"each network wants another constant: {implied} {unit}",
                    )
                )
    return found


def reasons_section(cells: dict[str, tuple[Cell, ...]]) -> str:
    """The cells that cannot follow, each with its reason."""
    counts = []
    for name, title in (
        ("butterfly latency", "Butterfly, Table IV, latency"),
        ("bottlenet latency", "BottleNet, Table 4, latency"),
        ("bottlenet energy with beta", "BottleNet, Table 4, energy with beta"),
        ("bottlenet energy without beta", "BottleNet, Table 4, energy without beta"),
        ("butterfly energy without beta", "Butterfly, Table IV, energy without beta"),
        ("butterfly energy with beta", "Butterfly, Table IV, energy with beta"),
    ):
        blocks = sum(cell.follows for cell in cells[name]) // len(NETWORKS)
        counts.append((title, f"{blocks} of {len(cells[name]) // len(NETWORKS)}"))
    impossible = {
        words: [cell for cell in cells[f"butterfly energy {words} beta"] if cell.implied < 0]
        for words in ("without", "with")
    }
    cheapest = ", ".join(
        f"RB{cell.block} {NETWORKS[cell.network]} {cell.transfer:.1f} mJ for {cell.printed:.1f}"
        for cell in impossible["without"]
    )
    headings = ("cell", "printed", "computed", "residual", "why")
    return f"""## Cells that do not follow

Is there, for a block, any constant at all that gives the three printed values, each within the tenth it is printed
in?

{markdown_table(("table", "blocks with such a constant"), counts)}
Where there is none, the printed values do not come from the stated model and the printed bytes alone, whatever the
constant: some residual must remain. A measured table has noise, and one constant for three networks leaves it
visible.

Cells of the block tables outside 3 % (Butterfly's latencies) or 6 % (BottleNet):

{markdown_table(headings, not_following(cells))}
All 48 energies of Butterfly's Table IV, whatever their residual. In {len(impossible["without"])} cells without beta
the transfer alone costs more than is printed for transfer and computation together ({cheapest}); with beta counted,
in {len(impossible["with"])} cells. No energy of the computation mends that. The residuals stand in the tables all
the same.

Of the cloud-only rows: BottleNet's three energies and Butterfly's latency on Wi-Fi, for the reasons given there.

The payloads themselves: 316 bytes at RB1 and 52 at RB14 are smaller than any complete baseline JPEG file, whose
tables and headers take about 330 bytes for one component. They can only be entropy-coded data without them, and
whatever carries tables and headers is not in these latencies.
"""


def block_constants(cells: dict[str, tuple[Cell, ...]]) -> tuple[list[float], list[float]]:
    """The fitted constants c by block: Butterfly's and BottleNet's, in ms."""
    one_network = len(NETWORKS)
    butterfly, bottlenet = (
        [cell.constant for cell in cells[f"{paper} latency"][::one_network]] for paper in ("butterfly", "bottlenet")
    )
    return butterfly, bottlenet


def page() -> str:
    """The whole page."""
    tables = paper_tables()
    cells = table_cells(tables)
    parts = [
        INTRODUCTION,
        summary_section(cells),
        block_sections(tables, cells),
        cloud_sections(tables),
        reasons_section(cells),
        emulation_section(*block_constants(cells)),
    ]
    return wrapped("\n".join(parts))
