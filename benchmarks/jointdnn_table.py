"""JointDNN's improvement by any number of switches, for networks whose layers are measured here.

    python benchmarks/jointdnn_table.py --profile alexnet,resnet50     measure; a line of results for each network
    python benchmarks/jointdnn_table.py                                the table, docs/jointdnn.md and its picture

    network --random weights--> ONNX --profile-layers, 3 n groups--> times of the cloud: this CPU, measured
                                     --layers of each group--------> times of the mobile: a Jetson TX2, emulated
    both, the papers' links -> best schedule against the better of mobile-only and cloud-only

Features cross with 8 bits, tiled, as PNG, the image as it is, 150,528 bytes; energies without beta: all as in the
paper. Nobody published what the paper's machines do with each layer. So there are two settings: the machines as
they are, and both changed by the one factor that brings AlexNet to the paper's two times for it; everything else,
all other networks included, then has to follow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from record import RESULTS, record
from torch import nn

from bottlekit.build.emulation import emulation_of
from bottlekit.build.layer_profile import layers_from_classifier
from bottlekit.build.layers import layers_from_file
from bottlekit.build.segments import segmented_from_file
from bottlekit.models.torchvision_import import torchvision_models
from bottlekit.planning.energy import TX2_POWER_MW
from bottlekit.planning.layers import group_table
from bottlekit.planning.links import LINKS
from bottlekit.planning.planners import cloud_only, mobile_only, single_cut
from bottlekit.planning.schedule import Schedule, ScheduleProblem, Tensor, schedule_from_problem, summed_groups
from bottlekit.specs import Objective
from bottlekit.targets.loader import target_from_name

CLAIM = "a schedule costs less than the better of the mobile alone and the cloud alone"
PAGE = Path(__file__).parents[1] / "docs" / "jointdnn.md"
PICTURE = PAGE.with_suffix(".svg")
SIZE = 224
CHOSEN_LINKS = ("3g", "4g", "wifi")
LINK_WORDS = {"3g": "3G", "4g": "4G", "wifi": "Wi-Fi"}
OBJECTIVES: tuple[Objective, Objective] = ("latency", "energy")
# JointDNN, AlexNet: on the mobile alone, and the cloud's part of cloud-only.
PAPER_MOBILE_MS, PAPER_MOBILE_MJ, PAPER_CLOUD_MS = 160.4, 323.5, 14.6
# JointDNN, inference, one image: improvement over the better of mobile-only and cloud-only in %; 3G, 4G, Wi-Fi.
PAPER = {
    "alexnet": {"latency": (42.8, 63.4, 40.9), "energy": (75.9, 83.6, 86.1)},
    "vgg16": {"latency": (49.8, 0.0, 0.0), "energy": (50.4, 18.3, 0.0)},
    "nin": {"latency": (0.0, 0.0, 14.9), "energy": (0.0, 0.0, 0.0)},
    "resnet50": {"latency": (1.9, 7.4, 0.0), "energy": (19.1, 39.3, 49.5)},
}
NAMES = {
    "alexnet": "AlexNet",
    "vgg16": "VGG16",
    "nin": "NiN",
    "resnet50": "ResNet-50",
    "googlenet": "GoogLeNet",
    "mobilenet_v2": "MobileNetV2",
}


class Setting(NamedTuple):
    """By what the measured and the emulated times are multiplied, and what the mobile draws meanwhile."""

    name: str
    mobile: float
    cloud: float
    power_mw: float


class Row(NamedTuple):
    """One network over one link for one objective: what the four ways cost."""

    setting: str
    network: str
    link: str
    objective: Objective
    mobile: float
    cloud: float
    one_cut: float
    best: float
    schedule: Schedule

    @property
    def improvement(self) -> float:
        """In % of the better of mobile-only and cloud-only."""
        return _improvement(self.best, min(self.mobile, self.cloud))

    @property
    def paper(self) -> float | None:
        """What the paper prints."""
        printed = PAPER.get(self.network)
        return None if printed is None else printed[self.objective][CHOSEN_LINKS.index(self.link)]


def network_in_network() -> nn.Module:
    """NiN for ImageNet (Lin et al. 2013): four convolutions, each followed by two of 1 x 1."""
    parts: list[nn.Module] = []
    channels = 3
    for out, kernel, stride, padding in ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (1024, 3, 1, 1)):
        last = 1000 if out == 1024 else out
        parts += [nn.Conv2d(channels, out, kernel, stride, padding), nn.ReLU()]
        parts += [nn.Conv2d(out, out, 1), nn.ReLU(), nn.Conv2d(out, last, 1), nn.ReLU()]
        if out != 1024:
            parts.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        channels = out
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def network_from_name(name: str) -> nn.Module:
    """One of the table's networks, with random weights."""
    torch.manual_seed(0)
    if name == "nin":
        return network_in_network().eval()
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network: nn.Module = getattr(torchvision_models(), name)(**options).eval()
    return network


def measured(name: str, samples: int) -> dict[str, Any]:
    """The layers of a network: measured here, and each of them emulated."""
    emulation = emulation_of(target_from_name("tx2"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network_from_name(name),
                (torch.zeros(1, 3, SIZE, SIZE),),
                str(path),
                opset_version=13,
                dynamo=False,
            )
        profile = layers_from_classifier(
            path,
            sample=True,
            samples=samples,
            codec="png",
            threads=2,
            progress=lambda done, of: print(f"\r{name}: group {done + 1} of {of}", end="", flush=True),
        )
        kernels = layers_from_file(path)
        graph = segmented_from_file(path)
        nodes = graph.model.graph.node
        layer_of = {nodes[node].name: at for at, layer in enumerate(graph.layers) for node in layer.nodes}
        singles = [
            emulation.time_ms([kernel for kernel in kernels if layer_of[kernel.name] == layer])
            for layer in range(len(graph.layers))
        ]
    print()
    return {
        "network": name,
        "profile": profile,
        "emulated": {**emulation.to_dict(), "layers_ms": singles},
    }


def recorded() -> dict[str, dict[str, Any]]:
    """The last profile of every network that was measured."""
    path = RESULTS / "jointdnn_table.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {line["network"]: line for line in lines if "profile" in line}
    return {name: found[name] for name in NAMES if name in found}


def problem_from_record(
    line: Mapping[str, Any], setting: Setting, link: str, objective: Objective
) -> ScheduleProblem:
    """The scheduling problem of one network."""
    profile = line["profile"]
    cloud_ms, _ = group_table(profile, line["network"])
    mobile_ms = summed_groups(line["emulated"]["layers_ms"]) * setting.mobile
    return ScheduleProblem(
        names=tuple(layer["name"] for layer in profile["layers"]),
        mobile_ms=mobile_ms,
        mobile_mj=mobile_ms * setting.power_mw / 1000.0,
        cloud_ms=cloud_ms * setting.cloud,
        tensors=tuple(_tensor(one) for one in profile["tensors"]),
        link=LINKS[link],
        objective=objective,
        include_beta=False,
        whole_runs=True,
    )


def _tensor(one: Mapping[str, Any]) -> Tensor:
    # The image is eight bits a value before any network; a PNG of the random one here would be no smaller.
    size = float(np.prod(one["shape"])) if one["source"] == 0 else float(one["wire_bytes"])
    return Tensor(one["name"], one["source"], tuple(one["readers"]), size, size)


def settings(lines: Mapping[str, Mapping[str, Any]]) -> tuple[Setting, Setting]:
    """The machines as they are, and slowed down to what the paper says of AlexNet."""
    alexnet = lines["alexnet"]
    as_it_is = Setting("as they are", 1.0, 1.0, TX2_POWER_MW)
    problem = problem_from_record(alexnet, as_it_is, "4g", "latency")
    mobile = PAPER_MOBILE_MS / float(problem.mobile_ms[0, -1])
    cloud = PAPER_CLOUD_MS / float(problem.cloud_ms[0, -1])
    return as_it_is, Setting("as slow as the paper's", mobile, cloud, PAPER_MOBILE_MJ / PAPER_MOBILE_MS * 1000.0)


def rows_of(lines: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Every network, link and objective in both settings."""
    found = []
    for setting in settings(lines):
        for name, line in lines.items():
            for link in CHOSEN_LINKS:
                for objective in OBJECTIVES:
                    problem = problem_from_record(line, setting, link, objective)
                    best = schedule_from_problem(problem)
                    costs = [way(problem).cost(objective) for way in (mobile_only, cloud_only, single_cut)]
                    found.append(Row(setting.name, name, link, objective, *costs, best.cost(objective), best))
    return found


def _improvement(value: float, other: float) -> float:
    return 100.0 * (1.0 - value / other)


def main() -> None:
    """Measure what is asked for; or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="", help=f"measure these, of {','.join(NAMES)}")
    parser.add_argument("--samples", type=int, default=7, help="timed runs of each group")
    options = parser.parse_args()
    if options.profile:
        for name in options.profile.split(","):
            if name not in NAMES:
                parser.error(f"no network {name!r}; there are {', '.join(NAMES)}")
            print(f"recorded in {record(CLAIM, measured(name, options.samples), threads=2)}")
        return
    from jointdnn_page import page, picture

    lines = recorded()
    rows = rows_of(lines)
    PAGE.write_text(page(lines, settings(lines), rows), encoding="utf-8")
    PICTURE.write_text(picture(rows) + "\n", encoding="utf-8")
    print(f"wrote {PAGE} and {PICTURE}")


if __name__ == "__main__":
    main()
