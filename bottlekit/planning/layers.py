"""From the layer profiles of two machines to a schedule problem, and from its solution to plan.json.

    layers.json (device) + layers.json (server) -> ScheduleProblem -> planner -> schedule document

Groups that were not measured are interpolated: the sum of their layers, times what the measured groups that end, or
begin, at the same layer take of the sum of theirs. How many, the plan says.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from bottlekit.errors import PlanError, ReportError
from bottlekit.planning.energy import positive
from bottlekit.planning.planners import PLANNERS
from bottlekit.planning.schedule import BackwardTimes, Bounds, Schedule, ScheduleProblem, Tensor, training_problem
from bottlekit.planning.schedule.problem import Table
from bottlekit.specs import LAYERS_FORMAT, LAYERS_VERSION, LinkSpec, Objective, to_dict

SCHEDULE_FORMAT = "bottlekit-schedule"
SCHEDULE_VERSION = 1


def group_table(profile: Mapping[str, Any], where: str, times: str = "summary") -> tuple[Table, int]:
    """(n, n) median times of all groups in ms, and how many of them are interpolated.

    `times`: which summary of a group; a profile of training has a backward_summary as well.
    ReportError for a time that is no number or not above zero, and for layers that were not measured alone.
    """
    count = len(_list(profile, "layers", where))
    table = np.full((count, count), np.nan)
    for group in _list(profile, "groups", where):
        first, last = group.get("first"), group.get("last")
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < count):
            raise ReportError(f"{where}: a group of the layers {first}..{last}, there are 0..{count - 1}")
        ms = (group.get(times) or {}).get("p50_ms")
        if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not isfinite(ms) or ms <= 0:
            raise ReportError(f"{where}: p50_ms of the layers {first}..{last} is {ms!r}; run profile-layers again")
        table[first, last] = ms
    single = np.diag(table)
    if np.isnan(single).any():
        missing = int(np.flatnonzero(np.isnan(single))[0])
        raise ReportError(f"{where}: layer {missing} was not measured alone; run profile-layers again")
    ends = np.concatenate([[0.0], np.cumsum(single)])
    sums = np.triu(ends[None, 1:] - ends[:-1, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        prefix, suffix = table[0, :] / sums[0, :], table[:, -1] / sums[:, -1]
    ratio = (_known(prefix)[None, :] + _known(suffix)[:, None]) / 2.0
    unknown = np.triu(np.isnan(table))
    return np.triu(np.where(np.isnan(table), sums * ratio, table)), int(unknown.sum())


def _known(ratios: Table) -> Table:
    known: Table = np.where(np.isfinite(ratios), ratios, 1.0)
    return known


def problem_from_layers(
    device: Mapping[str, Any],
    server: Mapping[str, Any],
    link: LinkSpec,
    objective: Objective,
    bounds: Bounds,
    *,
    device_power_mw: float,
    include_beta: bool = True,
    radio_tail_mj: float = 0.0,
    where: str = "the layer profile",
    server_where: str = "the server's layer profile",
) -> tuple[ScheduleProblem, dict[str, int]]:
    """The problem of two layer profiles of one network, and how many groups of each are interpolated."""
    for profile, name in ((device, where), (server, server_where)):
        if profile.get("format") != LAYERS_FORMAT or profile.get("version") != LAYERS_VERSION:
            raise ReportError(
                f"{name} is no layer profile: its format is {profile.get('format')!r}, version "
                f"{profile.get('version')!r}; `bottlekit profile-layers` writes one"
            )
    hashes = [(profile.get("model") or {}).get("sha256") for profile in (device, server)]
    if hashes[0] != hashes[1] or hashes[0] is None:
        raise ReportError(
            f"{where} and {server_where} are profiles of two different networks; profile the same file on both"
        )
    mobile_ms, device_guessed = group_table(device, where)
    cloud_ms, server_guessed = group_table(server, server_where)
    problem = ScheduleProblem(
        names=tuple(str(layer.get("name")) for layer in device["layers"]),
        mobile_ms=mobile_ms,
        mobile_mj=mobile_ms * positive(device_power_mw, "--device-power-mw") / 1000.0,
        cloud_ms=cloud_ms,
        tensors=tuple(_tensor(one, where) for one in _list(device, "tensors", where)),
        link=link,
        objective=objective,
        bounds=bounds,
        include_beta=include_beta,
        radio_tail_mj=radio_tail_mj,
        whole_runs=True,
    )
    if "training" in device:
        problem = training_problem(problem, _backward(device, server, device_power_mw, where, server_where))
    return problem, {"device": device_guessed, "server": server_guessed}


def _backward(
    device: Mapping[str, Any], server: Mapping[str, Any], device_power_mw: float, where: str, server_where: str
) -> BackwardTimes:
    mobile_ms, _ = group_table(device, where, "backward_summary")
    cloud_ms, _ = group_table(server, server_where, "backward_summary")
    sizes = [layer.get("weight_bytes") for layer in device["layers"]]
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ReportError(f"{where}: a layer lacks its weight_bytes; run profile-layers again")
    return BackwardTimes(mobile_ms, mobile_ms * device_power_mw / 1000.0, cloud_ms, sizes)


def schedule_document(
    problem: ScheduleProblem, planner: str, device: Mapping[str, Any], assumptions: Mapping[str, Any]
) -> dict[str, Any]:
    """The schedule of one planner as plan.json holds it, and beside it what the other planners would give."""
    schedule = PLANNERS[planner](problem)
    others: dict[str, dict[str, Any] | None] = {}
    for name, other in PLANNERS.items():
        try:
            found: Schedule | None = schedule if name == planner else other(problem)
        except PlanError:
            found = None
        others[name] = (
            None
            if found is None
            else {"latency_ms": found.latency_ms, "energy_mj": found.energy_mj, "switches": found.switches}
        )
    return {
        "format": SCHEDULE_FORMAT,
        "version": SCHEDULE_VERSION,
        "model": device["model"],
        "codec": device["codec"],
        "link": to_dict(problem.link),
        "objective": problem.objective,
        "bounds": to_dict(problem.bounds),
        **({"training": device["training"]} if "training" in device else {}),
        "planner": planner,
        "assumptions": dict(assumptions),
        "layers": list(problem.names),
        "schedule": schedule.to_dict(),
        "planners": others,
    }


def _tensor(value: Any, where: str) -> Tensor:
    try:
        size = float(value["wire_bytes"])
        readers = tuple(int(reader) for reader in value["readers"])
        return Tensor(str(value["name"]), int(value["source"]), readers, size, size)
    except (KeyError, TypeError, ValueError):
        raise ReportError(f"{where}: a tensor is damaged: {value!r:.60}; run profile-layers again") from None


def _list(profile: Mapping[str, Any], name: str, where: str) -> list[Any]:
    values = profile.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(one, dict) for one in values):
        raise ReportError(f"{where} has no {name}; run profile-layers again")
    return values
