"""A way through the states: the groups that run, and what they cost."""

from __future__ import annotations

import dataclasses

import numpy as np

from bottlekit.planning.schedule.costs import Vector
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.shortest import Steps, ToGo


@dataclasses.dataclass(frozen=True)
class Path:
    """`groups`: (machine, first layer, last layer) in order. `resources`: latency_ms, energy_mj, cloud_ms."""

    groups: tuple[tuple[int, int, int], ...]
    resources: Vector


def path_to_end(steps: Steps, to_go: ToGo) -> Path | None:
    """The path that `to_go` found from the start, with all its resources; None if nothing leads to the end."""
    if not np.isfinite(to_go.cost[0]):
        return None
    number, total, taken = 0, np.zeros(3), []
    while to_go.machine[number] >= 0:
        machine, first, last = to_go.machine[number], steps.states.all[number].boundary, to_go.until[number] - 1
        total += steps.sendings[to_go.sending[number]] + steps.groups.of(machine, first, last)
        taken.append((machine, first, last))
        number = to_go.target[number]
    return Path(tuple(taken), total + steps.sendings[steps.first_end + number])


def resources_to_go(steps: Steps, to_go: ToGo) -> Table:
    """(states, 3): what the rest of the way that `to_go` knows costs from each state; infinity without one."""
    states = steps.states.all
    machine = np.array(to_go.machine)
    going = np.flatnonzero(machine >= 0)
    costs = np.full((len(states), 3), np.inf)
    first = np.array([state.boundary for state in states])[going]
    last = np.array(to_go.until)[going] - 1
    costs[going] = steps.sendings[np.array(to_go.sending)[going]] + steps.groups.of_many(
        machine[going], first, last
    )
    for number, state in enumerate(states):
        if state.end_sending is not None:
            costs[number] = state.end_sending
    latency, energy, cloud = costs.T.tolist()
    # A step leads to a later state: from the last to the first.
    for number in reversed(going.tolist()):
        target = to_go.target[number]
        latency[number] += latency[target]
        energy[number] += energy[target]
        cloud[number] += cloud[target]
    return np.array([latency, energy, cloud]).T
