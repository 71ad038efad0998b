"""Which choice is best as the network and the server's load change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bottlekit.errors import UsageError
from bottlekit.planning.energy import positive
from bottlekit.specs import LinkSpec

SWEEP_FORMAT = "bottlekit-sweep"
SWEEP_VERSION = 1
MOST_POINTS = 10_000

Planner = Callable[[LinkSpec, float], Mapping[str, Any]]


def sweep_from_planner(
    planner: Planner, link: LinkSpec, uplinks_mbps: Sequence[float], server_loads: Sequence[float]
) -> dict[str, Any]:
    """The best of a plan at every point of bandwidth x server load, as sweep.json holds it.

    `planner(link, server load)` is a plan.json. The link's downlink grows with its uplink. `cells` has a row for
    each load, in it a cell for each bandwidth. UsageError for more points than anybody looks at.
    """
    points = len(uplinks_mbps) * len(server_loads)
    if points > MOST_POINTS:
        raise UsageError(f"--sweep has {points} points; up to {MOST_POINTS} are planned")
    ratio = link.downlink_mbps / link.uplink_mbps
    cells = []
    plan: Mapping[str, Any] = {}
    for load in server_loads:
        row = []
        for uplink in uplinks_mbps:
            changed = dataclasses.replace(link, uplink_mbps=uplink, downlink_mbps=uplink * ratio)
            plan = planner(changed, load)
            best = plan["ranking"][0]
            names = ("setup", "split", "bundle", "latency_ms", "energy_mj")
            row.append({name: best[name] for name in names})
        cells.append(row)
    return {
        "format": SWEEP_FORMAT,
        "version": SWEEP_VERSION,
        "profile_sha256": plan["profile_sha256"],
        "server_profile_sha256": plan["server_profile_sha256"],
        "link": plan["link"]["name"],
        "objective": plan["objective"],
        "assumptions": {name: value for name, value in plan["assumptions"].items() if name != "server_load"},
        "uplinks_mbps": list(uplinks_mbps),
        "server_loads": list(server_loads),
        "cells": cells,
    }


def steps(text: str, option: str) -> tuple[float, ...]:
    """The values of "LOW:HIGH:COUNT", with equal ratios between them, or of one number; UsageError otherwise."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return (positive(numbers[0], option),)
    if len(numbers) != 3 or not numbers[2].is_integer() or numbers[2] < 2 or not numbers[0] < numbers[1]:
        raise UsageError(f"{option} must be LOW:HIGH:COUNT, such as 0.5:50:20, or one number, not {text!r}")
    low, high, count = positive(numbers[0], option), positive(numbers[1], option), int(numbers[2])
    if count > MOST_POINTS:
        raise UsageError(f"{option} has {count} points; up to {MOST_POINTS} are planned")
    ratio = high / low
    return (*(low * ratio ** (at / (count - 1)) for at in range(count - 1)), high)
