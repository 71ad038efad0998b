"""The device's process of a trace: an AdaptiveClient, as `infer --adaptive` has it, asked once in every period.

    standard input   one JSON object, see `main`
    standard output  one JSON object an image: when it began, how long it took, where it was answered, and why

The device is slow by waiting: a part takes at least as long as it says in the profile, however fast it ran.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np

from bottlekit.device.adaptive.client import AdaptiveClient
from bottlekit.device.adaptive.options import options_from_profile
from bottlekit.device.bundle import Bundle, fleet_from_path
from bottlekit.device.errors import BundleError, WireError
from bottlekit.device.files import read_json
from bottlekit.device.runner import Runner, TensorInfo
from bottlekit.device.service import runner_from_engines


class Slowed(Runner):
    """A runner that takes at least `least_ms`."""

    def __init__(self, runner: Runner, least_ms: float) -> None:
        super().__init__(runner.name)
        self._runner = runner
        self._least_s = least_ms / 1e3

    def _activate(self) -> tuple[list[TensorInfo], list[TensorInfo]]:
        self._runner.__enter__()
        return self._runner.inputs, self._runner.outputs

    def _deactivate(self) -> None:
        self._runner.__exit__(None, None, None)

    def _infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        until_s = time.perf_counter() + self._least_s
        outputs = self._runner.run(feeds)
        time.sleep(max(0.0, until_s - time.perf_counter()))
        return outputs


def main(words: list[str]) -> None:
    """Ask until the trace is over.

    The object has `fleet`, `engines`, `profile` and `server_profile` (paths), `address`, `pin` (or null), `begin_s`
    on the monotonic clock, `seconds`, `period_s`.
    """
    argparse.ArgumentParser(prog="benchmarks/links device", description=__doc__).parse_args(words)
    job = json.loads(sys.stdin.readline())
    bundles = fleet_from_path(job["fleet"])
    here = read_json(job["profile"], "profile")
    options = options_from_profile(here, bundles, read_json(job["server_profile"], "profile"))
    medians = {
        (entry["bundle"]["name"], phase): entry["phases"][phase]["summary"]["p50_ms"]
        for entry in here["bundles"]
        for phase in ("head", "baseline")
    }
    engines = runner_from_engines(job["engines"], "cpu", threads=1)

    def runner_for(bundle: Bundle, part: str) -> Runner:
        return Slowed(engines(bundle, part), medians[bundle.name, part])

    image = bundles[0].golden()["image"][:1]
    client = AdaptiveClient(
        bundles,
        options,
        job["address"][0],
        job["address"][1],
        runner_for=runner_for,
        pin=job["pin"],
        timeout_s=60.0,
    )
    with client:
        # What happens once is not the trace's.
        for _ in range(3):
            client.infer_input(image)
        print(json.dumps({"ready": True}), flush=True)
        begin_s = json.loads(sys.stdin.readline())["begin_s"]
        for number in range(round(job["seconds"] / job["period_s"])):
            time.sleep(max(0.0, begin_s + number * job["period_s"] - time.monotonic()))
            print(json.dumps(asked(client, image, begin_s)), flush=True)


def asked(client: AdaptiveClient, image: np.ndarray, begin_s: float) -> dict[str, Any]:
    """One image: a pinned client's lost server is an answer too, and a long one."""
    started_s = time.monotonic()
    found: dict[str, Any] = {"at_s": round(started_s - begin_s, 3)}
    try:
        answer = client.infer_input(image)
        found.update(split=answer.split, lost=answer.lost, reason=answer.reason)
    except (WireError, BundleError) as error:
        found.update(split=None, lost=str(error), reason="pinned")
    found["latency_ms"] = round((time.monotonic() - started_s) * 1e3, 1)
    return found
