"""The papers' tables from the stated model and one constant per block: writes docs/reproduction.md.

Nothing is timed. The page is made by paper_page.py; the cells are recorded with their residuals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emulation_page import PICTURE, blocks_picture, emulations, resnet50_blocks
from paper_page import block_constants, page, paper_tables, table_cells

from bottlekit.device.files import whole_file
from bottlekit.planning.reproduction import median_residual

PAGE = Path(__file__).parents[1] / "docs/reproduction.md"
CLAIM = "the papers' latencies, and BottleNet's energies, follow from bytes, links and one constant per block"


def results() -> dict[str, Any]:
    """Every cell of Table 4 and Table IV with its residual, and the emulated blocks."""
    device, _, server = emulations()
    return {
        "emulated": {
            "emulated": True,
            "device": device.to_dict(),
            "server": server.to_dict(),
            "resnet50_blocks": [block._asdict() for block in resnet50_blocks()],
        },
        "tables": {
            name: {
                "median_residual": median_residual(cells),
                "cells": [
                    {
                        "network": cell.network,
                        "block": cell.block,
                        "printed": cell.printed,
                        "computed": round(cell.computed, 4),
                        "residual": round(cell.residual, 5),
                    }
                    for cell in cells
                ],
            }
            for name, cells in table_cells(paper_tables()).items()
            if not name.endswith(", median")
        },
    }


def main() -> None:
    """Write the page, record the cells."""
    from record import record

    argparse.ArgumentParser(description=__doc__).parse_args()
    with whole_file(str(PAGE)) as temporary:
        Path(temporary).write_text(page(), encoding="utf-8")
    picture = PAGE.with_name(PICTURE)
    with whole_file(str(picture)) as temporary:
        svg = blocks_picture(*block_constants(table_cells(paper_tables())))
        Path(temporary).write_text(svg + "\n", encoding="utf-8")
    found = results()
    for name, table in found["tables"].items():
        print(f"{name}: median residual {100 * table['median_residual']:.2f} %")
    print(f"wrote {PAGE}; recorded in {record(CLAIM, found)}")


if __name__ == "__main__":
    main()
