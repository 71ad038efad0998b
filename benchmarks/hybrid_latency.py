"""How long an image takes that leaves early, and one that is sent, over a socket; and what each threshold gives.

    python benchmarks/hybrid_latency.py BUNDLE    adds to results/hybrid_latency.jsonl and draws it, in a minute

BUNDLE is one of `bottlekit hybrid export` on the digits. A server runs in a process of its own on this machine, so
the network costs next to nothing: what an image saves here is encoding, the server and two socket crossings. On
a slow link it saves the link as well.

One pass sends every image (threshold 0) and keeps what each took here and there, its exit's doubt and both answers;
so any threshold's mean latency, accuracy and bytes follow without another pass. The bundle's own threshold is then
run for real, and compared with what the pass said of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, record

from bottlekit.device.bundle import Bundle
from bottlekit.device.client import SplitClient
from bottlekit.device.early_exit import ComputedHead, EarlyExit, ExitAnswer, offload_to_server
from bottlekit.device.exit_policy import latency_ms, report_of_answers
from bottlekit.device.exit_rules import leaves_early
from bottlekit.device.images import input_from_image
from bottlekit.device.ort_runner import OnnxRuntimeRunner
from bottlekit.device.stats import summary
from bottlekit.training.data import dataset_from_name
from bottlekit.training.hybrid import calibration_mask

CLAIM = "An image that leaves early takes less time than one that is sent, by what sending takes."
# So long may the server take to start on a busy machine.
START_S = 120.0


def main() -> None:
    """Serve, pass, run, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=5, help="passes over the 240 images")
    parser.add_argument("--port", type=int, default=9143)
    arguments = parser.parse_args()
    bundle = Bundle.load(str(arguments.bundle))
    data = dataset_from_name("digits", input_size=bundle.preprocessing["crop"])
    places = np.flatnonzero(~calibration_mask(data.val.labels))
    labels = [int(data.val.labels[place]) for place in places]
    inputs = [input_from_image(data.image_uint8(int(place)), bundle.preprocessing)[np.newaxis] for place in places]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bottlekit",
            "serve",
            str(arguments.bundle),
            "--port",
            str(arguments.port),
            "--quiet",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        computed = ComputedHead()
        with (
            OnnxRuntimeRunner(bundle.onnx_path("head"), threads=1, spin=False) as head,
            connected(bundle, arguments.port, computed) as client,
        ):
            device = EarlyExit(bundle, head, offload_to_server(client, computed))
            own = device.threshold
            exit_logits = [head.run({"image": one})["exit_logits"][0] for one in inputs]
            device.threshold = 0.0
            sent = [device.infer_input(one) for _ in range(arguments.repeats) for one in inputs]
            device.threshold = own
            real = [device.infer_input(one) for _ in range(arguments.repeats) for one in inputs]
    finally:
        server.terminate()
        server.wait()
    every = labels * arguments.repeats
    report = report_of_answers(real, every)
    curve = curve_of_pass(sent, np.tile(np.stack(exit_logits), (arguments.repeats, 1)), every, device)
    at_own = min(curve, key=lambda point: abs(point["threshold"] - own))
    result = {
        "bundle": bundle.name,
        "images": len(inputs),
        "repeats": arguments.repeats,
        "threshold": own,
        "at_threshold": report,
        "predicted_by_the_pass": at_own,
        "early": summary([latency_ms(one) for one in real if one.early]),
        "offloaded": summary([latency_ms(one) for one in real if not one.early]),
        "sent_always": summary([latency_ms(one) for one in sent]),
        "curve": curve,
        "samples_ms": {
            "early": [round(latency_ms(one), 4) for one in real if one.early],
            "offloaded": [round(latency_ms(one), 4) for one in real if not one.early],
            "sent_always": [round(latency_ms(one), 4) for one in sent],
        },
    }
    print({key: result[key] for key in ("early", "offloaded", "sent_always", "predicted_by_the_pass")})
    print(f"recorded in {record(CLAIM, result, 1)}")
    draw(result, RESULTS / f"hybrid_latency-{bundle.manifest['exit']['bits']}bit.svg")


def connected(bundle: Bundle, port: int, head: ComputedHead) -> SplitClient:
    """A client of the server, as soon as it answers."""
    deadline = time.monotonic() + START_S
    while True:
        client = SplitClient(bundle, "127.0.0.1", port, head_runner=head)
        try:
            with client:
                return SplitClient(bundle, "127.0.0.1", port, head_runner=head)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def curve_of_pass(
    sent: list[ExitAnswer], exit_logits: np.ndarray, labels: list[int], device: EarlyExit
) -> list[dict[str, Any]]:
    """Every threshold of the bundle's curve, from images that were all sent."""
    here_ms = np.array([one.times_ms["head"] + one.times_ms["decide"] for one in sent])
    all_ms = np.array([latency_ms(one) for one in sent])
    size = np.array([one.payload_bytes for one in sent])
    exit_right = exit_logits.argmax(1) == np.array(labels)
    cloud_right = np.array([one.class_index for one in sent]) == np.array(labels)
    points = []
    for point in device.exit.curve:
        early = leaves_early(exit_logits, device.exit.rule, point["threshold"])
        points.append(
            {
                "threshold": point["threshold"],
                "early_share": float(early.mean()),
                "latency_ms": float(np.where(early, here_ms, all_ms).mean()),
                "accuracy": float(np.where(early, exit_right, cloud_right).mean()),
                "payload_bytes": float(np.where(early, 0, size).mean()),
            }
        )
    return points


def draw(result: dict[str, Any], path: Path) -> None:
    """Mean latency against the share that leaves, and the two groups."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    for name, colour, words in (
        ("early", "#1b6ca8", "left early"),
        ("offloaded", "#c4501b", "sent"),
    ):
        values = sorted(result["samples_ms"][name])
        if values:
            left.plot(values, np.arange(1, len(values) + 1) / len(values), color=colour, label=words)
    left.set_xscale("log")
    left.set_xlabel("latency of an image [ms]")
    left.set_ylabel("share of its group")
    left.grid(alpha=0.25)
    left.legend(fontsize=8)
    share = [100 * point["early_share"] for point in result["curve"]]
    right.plot(share, [point["latency_ms"] for point in result["curve"]], color="#333333", label="every threshold")
    at = result["at_threshold"]
    right.plot(
        100 * at["early_share"], at["all"]["latency_ms"], "o", color="#1b6ca8", label="the bundle's, run for real"
    )
    right.set_xlabel("leave early [%]")
    right.set_ylabel("mean latency [ms]")
    right.set_ylim(bottom=0)
    right.grid(alpha=0.25)
    right.legend(fontsize=8)
    figure.suptitle(f"{result['bundle']} over a socket on one machine", fontsize=10)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
