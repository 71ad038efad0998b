"""A way through the states: the groups that run, and where each tensor is sent."""

from __future__ import annotations

import dataclasses

import numpy as np

from bottlekit.planning.schedule.costs import GroupCosts, Vector
from bottlekit.planning.schedule.problem import Table
from bottlekit.planning.schedule.shortest import ToGo
from bottlekit.planning.schedule.states import States


@dataclasses.dataclass(frozen=True)
class Path:
    """`groups`: (machine, first layer, last layer) in order. `resources`: latency_ms, energy_mj, cloud_ms."""

    groups: tuple[tuple[int, int, int], ...]
    resources: Vector


def path_to_end(states: States, groups: GroupCosts, to_go: ToGo) -> Path | None:
    """The path that `to_go` found from the start, with all its resources; None if nothing leads to the end."""
    if not np.isfinite(to_go.cost[0]):
        return None
    number, total, taken = 0, np.zeros(3), []
    while to_go.machine[number] >= 0:
        state = states.all[number]
        machine, until, target = to_go.machine[number], to_go.until[number], to_go.target[number]
        total += step_sending(states, number, machine, until, target) + groups.of(
            machine, state.boundary, until - 1
        )
        taken.append((machine, state.boundary, until - 1))
        number = target
    end = states.all[number].end_sending
    assert end is not None
    return Path(tuple(taken), total + end)


def resources_to_go(states: States, groups: GroupCosts, to_go: ToGo) -> Table:
    """(states, 3): what the rest of the way that `to_go` knows costs from each state; infinity without one."""
    resources = np.full((len(states.all), 3), np.inf)
    for number in range(len(states.all) - 1, -1, -1):
        state, machine = states.all[number], to_go.machine[number]
        if machine >= 0:
            until, target = to_go.until[number], to_go.target[number]
            sending = step_sending(states, number, machine, until, target)
            resources[number] = sending + groups.of(machine, state.boundary, until - 1) + resources[target]
        elif state.end_sending is not None:
            resources[number] = state.end_sending
    return resources


def step_sending(states: States, number: int, machine: int, until: int, target: int) -> Vector:
    """What is sent before the step from state `number` to state `target`."""
    state = states.all[number]
    for step in state.near:
        if (step.machine, step.until, step.target) == (machine, until, target):
            return step.sending
    sending = state.far_sending[machine]
    assert sending is not None
    return sending
