"""docs/jointdnn.md: the table of jointdnn_table.py as a page, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jointdnn_table import (
    CHOSEN_LINKS,
    LINK_WORDS,
    NAMES,
    OBJECTIVES,
    PAPER_CLOUD_MS,
    PAPER_MOBILE_MJ,
    PAPER_MOBILE_MS,
    Row,
    Setting,
)

from bottlekit.report import drawing
from bottlekit.report.setups import emulation_words

HEAD = """# JointDNN's improvements, computed

<!-- Written by benchmarks/jointdnn_table.py. Do not edit. -->

How much less does a schedule with any number of switches cost than the better of the mobile alone and the cloud
alone? JointDNN prints it for eight networks; this page computes it for six, three of which are the paper's (its
ResNet has 70 layers and no name).

* **Cloud**: *measured* here, groups of layers in ONNX Runtime on {cpu}, {threads} threads, {samples} runs of each.
* **Mobile**: *emulated*, as no TX2 was there: {words}.
* **Links**: *modelled*, the papers' 3G, 4G and Wi-Fi; energies without beta, as those that the paper prints.
* **What is sent**: the image with its 150,528 bytes; features with 8 bits, tiled, as PNG. The networks have random
  weights, whose features compress less than those of trained ones.

![The improvement in percent, computed and printed, of each network over each link.](jointdnn.svg)

"""


FINDINGS = """\
* The paper's figures contradict each other. In its breakdown for AlexNet over 3G the best latency
  is that of the mobile alone, 160.4 ms: an improvement of 0 %, where the table has 42.8 %. Over 4G
  63 of 160.4 ms are 60.7 % (63.4 % printed), over Wi-Fi 36.5 of 78.5 ms are 53.5 % (40.9 %
  printed); of the energies 206.5 and 110.7 of 323.5 mJ are 36.2 % and 65.8 % (75.9 % and 83.6 %
  printed). No profile can give both. Of the breakdown's latencies, 63 ms over 4G and 36.5 ms over
  Wi-Fi, those of AlexNet above are 15 % away.
* What decides is how slow the mobile is. The paper's needs 160.4 ms for AlexNet. An engine compiled
  for the TX2's GPU needs a twentieth of it, and then no network is worth sending.
* VGG16 does not follow: with one factor for all layers its convolutions take the mobile five times
  as long as AlexNet. A framework's times are not a compiled engine's times a constant.
* Cloud-only AlexNet, times and energies, is in [the papers' tables,
  reproduced](reproduction.md#jointdnn-cloud-only-alexnet): it follows within 0.3 %.
"""


def page(lines: Mapping[str, Mapping[str, Any]], settings: Sequence[Setting], rows: Sequence[Row]) -> str:
    """The whole page."""
    first = next(iter(lines.values()))
    environment = first["environment"]
    text = HEAD.format(
        cpu=environment["cpu"],
        threads=environment["threads"],
        samples=len(first["profile"]["groups"][0]["samples_ms"]),
        words=emulation_words(first["emulated"]),
    )
    loads = [line["environment"]["load_average"][0] for line in lines.values()]
    text += (
        f"Other work at the lowest priority ran beside the measurements (load {min(loads):.0f} to "
        f"{max(loads):.0f}). All samples are in `benchmarks/results/jointdnn_table.jsonl`.\n"
    )
    for setting in settings:
        text += _setting(setting, [row for row in rows if row.setting == setting.name], lines)
    return text + _findings(settings, rows)


def _setting(setting: Setting, rows: Sequence[Row], lines: Mapping[str, Mapping[str, Any]]) -> str:
    text = f"\n## The machines: {setting.name}\n\n"
    if setting.mobile == 1.0:
        text += (
            f"The emulated TX2 and this CPU, the mobile's power {setting.power_mw:.0f} mW (Butterfly's and "
            "BottleNet's 20.5 mJ in 15.7 ms).\n"
        )
    else:
        text += (
            f"The mobile's times x {setting.mobile:.1f} and the cloud's x {setting.cloud:.2f}, so that AlexNet "
            f"takes the {PAPER_MOBILE_MS} ms and {PAPER_CLOUD_MS} ms that the paper has for it; power "
            f"{setting.power_mw:.0f} mW, its {PAPER_MOBILE_MJ} mJ in that time. Nothing else is fitted.\n"
        )
    for objective in OBJECTIVES:
        unit = "ms" if objective == "latency" else "mJ"
        text += (
            f"\n### {objective.capitalize()} (emulated, measured and modelled), {unit}\n\n"
            "| network | link | mobile-only | cloud-only | best single cut | schedule | switches | improvement "
            "| printed | residual, points |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        )
        for row in rows:
            if row.objective == objective:
                text += _row(row)
    return text


def _row(row: Row) -> str:
    printed, residual = "-", "-"
    if row.paper is not None:
        printed, residual = f"{row.paper:g} %", f"{row.improvement - row.paper:+.1f}"
    costs = " | ".join(f"{value:.1f}" for value in (row.mobile, row.cloud, row.one_cut, row.best))
    return (
        f"| {NAMES[row.network]} | {LINK_WORDS[row.link]} | {costs} | {row.schedule.switches} "
        f"| {row.improvement:.1f} % | {printed} | {residual} |\n"
    )


def _findings(settings: Sequence[Setting], rows: Sequence[Row]) -> str:
    text = "\n## What follows\n\n"
    for setting in settings:
        mine = [row for row in rows if row.setting == setting.name]
        better = [row for row in mine if row.improvement > 0.05]
        more = [row for row in mine if row.best < row.one_cut * (1 - 1e-9) and row.schedule.switches > 1]
        compared = [row for row in mine if row.paper is not None]
        near = [row for row in compared if abs(row.improvement - (row.paper or 0.0)) <= 10.0]
        text += (
            f"* With the machines {setting.name}, a schedule is better than either machine alone in {len(better)} "
            f"of {len(mine)} cases, and with more than one switch better than the best single cut in {len(more)}. "
            f"Of the paper's {len(compared)} improvements {len(near)} are met within ten points.\n"
        )
    return text + FINDINGS


def picture(rows: Sequence[Row]) -> str:
    """An SVG: a panel for each setting and objective, a bar for each network and link, rings for the paper."""
    names = list(dict.fromkeys(row.setting for row in rows))
    networks = list(dict.fromkeys(row.network for row in rows))
    colours = dict(zip(CHOSEN_LINKS, (drawing.VERMILION, drawing.BLUE, drawing.GREEN), strict=True))
    with drawing.style():
        figure = drawing.new_figure(9, 5.6)
        panels = figure.subplots(2, 2, sharex=True, sharey=True)
        for across, setting in enumerate(names):
            for down, objective in enumerate(OBJECTIVES):
                axes = panels[down][across]
                for row in rows:
                    if (row.setting, row.objective) != (setting, objective):
                        continue
                    at = networks.index(row.network) + 0.26 * (CHOSEN_LINKS.index(row.link) - 1)
                    axes.bar(at, row.improvement, width=0.22, color=colours[row.link])
                    if row.paper is not None:
                        axes.plot(at, row.paper, "o", markerfacecolor="none", color=drawing.INK, markersize=5)
                axes.set_title(f"{objective}, machines: {setting}")
                axes.set_xticks(range(len(networks)), [NAMES[name] for name in networks], rotation=25, ha="right")
                axes.set_ylim(-2, 100)
                drawing.quiet_grid(axes, "y")
            panels[0][0].set_ylabel("improvement in %")
            panels[1][0].set_ylabel("improvement in %")
        handles = [figure.axes[0].bar(0, 0, color=colours[link]) for link in CHOSEN_LINKS]
        printed = figure.axes[0].plot([], [], "o", markerfacecolor="none", color=drawing.INK)[0]
        figure.legend(
            [*handles, printed],
            [*(LINK_WORDS[link] for link in CHOSEN_LINKS), "printed by JointDNN"],
            loc="outside lower center",
            ncols=4,
        )
        return drawing.svg_from_figure(
            figure,
            "JointDNN's improvements",
            "Improvement over the better of mobile-only and cloud-only; the mobile emulated, the cloud measured.",
        )
