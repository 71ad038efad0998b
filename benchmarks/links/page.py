"""The measured table in the form of BottleNet's Table 5, and its place in a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAPER = Path(__file__).parents[2] / "tests" / "data" / "paper_tables.json"
TITLES = {"3g": "3G", "4g": "4G", "wifi": "Wi-Fi"}
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"


def printed(setup: str, link: str) -> float:
    """The latency in ms that BottleNet prints."""
    tables = json.loads(PAPER.read_text(encoding="utf-8"))
    if setup == "mobile-only":
        return float(tables["mobile_only"]["latency_ms"])
    if setup == "cloud-only":
        return float(tables["bottlenet"]["cloud_only_latency_ms"][link])
    return float(tables["bottlenet"]["latency_ms"][link][0])


def table_lines(result: dict[str, Any]) -> list[str]:
    """Markdown: a line for each link, shaper and setup; measured, modelled, their quotient, and the paper's."""
    lines = [
        "| link | shaped by | setup | bytes sent | measured ms | bytes / rate + compute, ms | over the model "
        "| cloud-only / this | BottleNet, ms | its cloud-only / this |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in result["cases"]:
        link = case["link"]
        for setup, row in case["setups"].items():
            cloud_ms = case["setups"]["cloud-only"]["measured_ms"]
            lines.append(
                f"| {TITLES[link]} | {case['shaped_by']} | {setup} | {row['up_bytes']:.0f} "
                f"| {row['measured_ms']:.1f} | {row['modelled_ms']:.1f} | {row['over_model']:+.1%} "
                f"| {cloud_ms / row['measured_ms']:.1f} | {printed(setup, link):.1f} "
                f"| {printed('cloud-only', link) / printed(setup, link):.1f} |"
            )
    return lines


def with_table(text: str, lines: list[str]) -> str:
    """The page with these lines between its marks; ValueError where it has none."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {_BEGIN} and {_END}")
    return "\n".join([before + begin, "", *lines, "", end + after])


def write_table(path: Path, result: dict[str, Any]) -> None:
    """Replace the table of a page."""
    path.write_text(with_table(path.read_text(encoding="utf-8"), table_lines(result)), encoding="utf-8")
