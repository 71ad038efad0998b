"""The table of docs/serving-load.md and its picture, from what serving.py measured last.

python benchmarks/serving_picture.py       writes both anew; serving.py does so by itself after a whole run
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import RESULTS

from bottlekit.report import drawing

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "serving-load.md", DOCS / "serving-load.svg"
BEGIN, END = "<!-- answers: begin -->", "<!-- answers: end -->"
# In the order of the table; what batches together is what the others are compared with.
OURS = "together"
NAMES = {
    "one at a time": "one at a time",
    OURS: "together",
    "grpc": "gRPC",
    "triton": "Triton",
    "front": "front end, Triton",
}
COLOURS = {
    "one at a time": drawing.SKY,
    OURS: drawing.BLUE,
    "grpc": drawing.ORANGE,
    "triton": drawing.GREEN,
    "front": drawing.PURPLE,
}
_LATENCIES_MS = (3, 10, 30, 100, 300)


def last_line() -> dict[str, Any]:
    """The newest run of all ways."""
    lines = map(json.loads, (RESULTS / "serving.jsonl").read_text(encoding="utf-8").splitlines())
    whole: list[dict[str, Any]] = [line for line in lines if all(way in line["cases"][-1] for way in NAMES)]
    return whole[-1]


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Every number of clients, every way."""
    rows = [
        "| clients | way | answers/s (each round) | p50 ms | p99 ms | a batch | together / this |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        for way, name in NAMES.items():
            found = case[way]
            rounds = ", ".join(f"{one:.0f}" for one in found["per_s_by_round"])
            p99 = "-" if found["p99_ms"] is None else f"{found['p99_ms']:.1f}"
            ratio = "" if way == OURS else f"{case[OURS]['per_s'] / found['per_s']:.2f}"
            rows.append(
                f"| {case['clients']} | {name} | {found['per_s']:.0f} ({rounds}) | {found['p50_ms']:.1f} | {p99} | "
                f"{found['mean_batch']:.1f} | {ratio} |"
            )
    return "\n".join(rows)


def picture(cases: Sequence[dict[str, Any]]) -> drawing.Picture:
    """Left answers a second, every round a dot; right p50, and p99 as dots."""
    from matplotlib import ticker

    clients = [case["clients"] for case in cases]
    with drawing.style():
        figure = drawing.new_figure(9, 4.2)
        rate, latency = figure.subplots(1, 2)
        for way, name in NAMES.items():
            colour = COLOURS[way]
            rate.plot(clients, [case[way]["per_s"] for case in cases], "-", color=colour, label=name)
            for case in cases:
                rounds = case[way]["per_s_by_round"]
                rate.plot([case["clients"]] * len(rounds), rounds, "o", color=colour, markersize=3)
            latency.plot(clients, [case[way]["p50_ms"] for case in cases], "-o", color=colour, markersize=3)
            high = [(case["clients"], case[way]["p99_ms"]) for case in cases if case[way]["p99_ms"] is not None]
            latency.plot(*zip(*high, strict=True), ":", color=colour)
        rate.set_title("answers a second")
        rate.set_ylim(bottom=0)
        latency.set_title("latency in ms: p50, and p99 dotted")
        latency.set_yscale("log")
        latency.yaxis.set_major_locator(ticker.FixedLocator(_LATENCIES_MS))
        latency.yaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
        latency.yaxis.set_minor_locator(ticker.NullLocator())
        for axes in (rate, latency):
            axes.set_xscale("log", base=2)
            axes.set_xticks(clients, [str(number) for number in clients])
            axes.set_xlabel("clients")
            drawing.quiet_grid(axes, "y")
        figure.legend(*rate.get_legend_handles_labels(), loc="outside upper center", ncols=len(NAMES))
        svg = drawing.svg_from_figure(figure, "serving-load", "answers a second and latencies by number of clients")
    return drawing.Picture("One tail, served in five ways", "Measured.", svg, figure)


def page_with_table(text: str, cases: Sequence[dict[str, Any]]) -> str:
    """The page with its table written anew, between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} lacks {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{table(cases)}\n\n{END}{after}"


def main() -> None:
    """Write both."""
    cases = last_line()["cases"]
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8"), cases), encoding="utf-8")
    PICTURE.write_text(picture(cases).svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
