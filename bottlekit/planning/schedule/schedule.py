"""A schedule: which layers run where, what is sent between them, and what that costs, term by term."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

from bottlekit.errors import UsageError
from bottlekit.planning.schedule.costs import (
    CLOUD,
    CLOUD_TIME,
    ENERGY,
    LATENCY,
    MACHINES,
    MOBILE,
    Vector,
    group_costs_from_problem,
    sending_from_problem,
)
from bottlekit.planning.schedule.problem import ScheduleProblem, Tensor

Machine = Literal["mobile", "cloud"]
Group = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Layers `first`..`last`, counted from 0 and both included, as one group on `machine`."""

    machine: Machine
    first: int
    last: int
    ms: float
    mj: float


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What is sent at `boundary`, before the segment that begins there (n: before the application goes on).

    `to` is where to. `tensors`: the names of what the other side lacks and will read. `ms` has the switch's half
    round trip in it.
    """

    boundary: int
    to: Machine
    tensors: tuple[str, ...]
    bytes: float
    ms: float
    mj: float


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Segments in order, and the transfers between them. `update`: weights that the cloud changed, all of them."""

    segments: tuple[Segment, ...]
    transfers: tuple[Transfer, ...]
    update_bytes: float
    terms_ms: dict[str, float]
    terms_mj: dict[str, float]

    @property
    def latency_ms(self) -> float:
        """The sum of the times."""
        return sum(self.terms_ms.values())

    @property
    def energy_mj(self) -> float:
        """What the mobile spends."""
        return sum(self.terms_mj.values())

    @property
    def cloud_ms(self) -> float:
        """How long the cloud works."""
        return self.terms_ms["cloud"]

    @property
    def switches(self) -> int:
        """How often the work moves from one machine to the other."""
        machines = ["mobile", *(segment.machine for segment in self.segments)]
        return sum(before != after for before, after in pairwise(machines))

    @property
    def runs(self) -> tuple[tuple[Machine, int, int], ...]:
        """(machine, first layer, last layer) with neighbouring segments of one machine put together."""
        found: list[tuple[Machine, int, int]] = []
        for segment in self.segments:
            if found and found[-1][0] == segment.machine:
                found[-1] = (segment.machine, found[-1][1], segment.last)
            else:
                found.append((segment.machine, segment.first, segment.last))
        return tuple(found)

    def cost(self, objective: str) -> float:
        """The latency or the energy."""
        return self.latency_ms if objective == "latency" else self.energy_mj

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
            "transfers": [
                {**dataclasses.asdict(transfer), "tensors": list(transfer.tensors)} for transfer in self.transfers
            ],
            "switches": self.switches,
            "update_bytes": self.update_bytes,
            "terms_ms": self.terms_ms,
            "latency_ms": self.latency_ms,
            "terms_mj": self.terms_mj,
            "energy_mj": self.energy_mj,
            "cloud_ms": self.cloud_ms,
        }


def schedule_from_groups(problem: ScheduleProblem, groups: Sequence[Group]) -> Schedule:
    """What it costs to run these groups (machine, first layer, last layer), which cover every layer once, in order.

    Every tensor is sent at most once to a machine, at the last switch before it is read there.
    """
    _check_cover(problem, groups)
    tables, sending = group_costs_from_problem(problem), sending_from_problem(problem)
    segments, transfers = [], []
    places = {tensor.name: {MOBILE} for tensor in problem.tensors if tensor.source == 0}
    before = MOBILE
    # The application is one more layer of the mobile, behind the last one.
    for machine, first, last in _runs([*groups, (MOBILE, problem.count, problem.count)]):
        lacking = [
            tensor
            for tensor in problem.tensors
            if tensor.source <= first
            and machine not in places[tensor.name]
            and any(first <= reader <= last for reader in tensor.readers)
        ]
        # At the end nothing moves if nothing is wanted.
        if machine != before and (lacking or first < problem.count):
            transfers.append(_transfer(sending.cost(machine, lacking, switches=True), first, machine, lacking))
        for tensor in lacking:
            places[tensor.name].add(machine)
        for tensor in problem.tensors:
            if first < tensor.source <= last + 1:
                places[tensor.name] = {machine}
        before = machine
    for machine, first, last in groups:
        cost = tables.costs(machine, first, last)
        own_ms = float(cost[CLOUD_TIME]) if machine == CLOUD and isfinite(cost[LATENCY]) else float(cost[LATENCY])
        own_mj = float(cost[ENERGY]) if machine == MOBILE else 0.0
        segments.append(Segment(_name(machine), first, last, own_ms, own_mj))
    updated = sum(
        sum(problem.update_bytes[first : last + 1]) for machine, first, last in groups if machine == CLOUD
    )
    update = sending.cost_of_bytes(MOBILE, updated, switches=False)
    terms_ms = {
        "mobile": sum(segment.ms for segment in segments if segment.machine == "mobile"),
        "cloud": sum(segment.ms for segment in segments if segment.machine == "cloud"),
        "uplink": sum(transfer.ms for transfer in transfers if transfer.to == "cloud"),
        "downlink": sum(transfer.ms for transfer in transfers if transfer.to == "mobile"),
        "update": float(update[LATENCY]),
    }
    terms_mj = {
        "mobile": sum(segment.mj for segment in segments),
        "uplink": sum(transfer.mj for transfer in transfers if transfer.to == "cloud"),
        "downlink": sum(transfer.mj for transfer in transfers if transfer.to == "mobile"),
        "update": float(update[ENERGY]),
        "radio_tail": problem.radio_tail_mj if transfers else 0.0,
    }
    return Schedule(tuple(segments), tuple(transfers), updated, terms_ms, terms_mj)


def groups_from_machines(machines: Sequence[int]) -> tuple[Group, ...]:
    """One group for each longest run of layers on one machine."""
    found: list[Group] = []
    for layer, machine in enumerate(machines):
        if found and found[-1][0] == machine:
            found[-1] = (machine, found[-1][1], layer)
        else:
            found.append((machine, layer, layer))
    return tuple(found)


def _runs(groups: Sequence[Group]) -> tuple[Group, ...]:
    return groups_from_machines([machine for machine, first, last in groups for _ in range(first, last + 1)])


def _transfer(cost: Vector, boundary: int, machine: int, tensors: Sequence[Tensor]) -> Transfer:
    size = sum(tensor.download_bytes if machine == MOBILE else tensor.upload_bytes for tensor in tensors)
    names = tuple(tensor.name for tensor in tensors)
    return Transfer(boundary, _name(machine), names, size, float(cost[LATENCY]), float(cost[ENERGY]))


def _name(machine: int) -> Machine:
    return "mobile" if machine == MOBILE else "cloud"


def _check_cover(problem: ScheduleProblem, groups: Sequence[Group]) -> None:
    expected = 0
    for machine, first, last in groups:
        if first != expected or not first <= last < problem.count or machine not in range(len(MACHINES)):
            raise UsageError(
                f"the groups {list(groups)} do not cover the layers 0..{problem.count - 1} once, in order"
            )
        expected = last + 1
    if expected != problem.count:
        raise UsageError(f"the groups end at layer {expected - 1}; the last layer is {problem.count - 1}")
