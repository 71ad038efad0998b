"""What every group and every transfer costs, as three resources: latency in ms, energy in mJ, cloud time in ms.

latency   mobile groups + cloud groups + transfers
energy    mobile groups + the radio, sending and receiving: the mobile's alone (JointDNN, section 3.2)
cloud     cloud groups
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from bottlekit.planning.energy import downlink_power_mw, energy_mj, transfer_ms, uplink_power_mw
from bottlekit.planning.schedule.problem import ScheduleProblem, Table, Tensor

MOBILE, CLOUD = 0, 1
MACHINES = ("mobile", "cloud")
RESOURCES = ("latency_ms", "energy_mj", "cloud_ms")
LATENCY, ENERGY, CLOUD_TIME = 0, 1, 2

Vector = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class Sending:
    """The cost of moving bytes to a machine: time and energy per byte, and the time of any switch."""

    ms_per_byte: tuple[float, float]
    mj_per_byte: tuple[float, float]
    switch_ms: float

    def cost(self, machine: int, tensors: Iterable[Tensor], switches: bool) -> Vector:
        """(latency, energy, cloud) of bringing `tensors` to `machine`; `switches`: the work moves there as well."""
        size = sum(tensor.download_bytes if machine == MOBILE else tensor.upload_bytes for tensor in tensors)
        return self.cost_of_bytes(machine, size, switches)

    def cost_of_bytes(self, machine: int, size_bytes: float, switches: bool) -> Vector:
        """The same for so many bytes."""
        wait = self.switch_ms if switches else 0.0
        return np.array(
            [size_bytes * self.ms_per_byte[machine] + wait, size_bytes * self.mj_per_byte[machine], 0.0]
        )


def sending_from_problem(problem: ScheduleProblem) -> Sending:
    """What the problem's link asks for a byte in either direction."""
    link, beta = problem.link, problem.include_beta
    down_ms, up_ms = transfer_ms(1.0, link.downlink_mbps), transfer_ms(1.0, link.uplink_mbps)
    return Sending(
        ms_per_byte=(down_ms, up_ms),
        mj_per_byte=(
            energy_mj(downlink_power_mw(link, beta), down_ms),
            energy_mj(uplink_power_mw(link, beta), up_ms),
        ),
        switch_ms=link.rtt_ms / 2.0,
    )


@dataclasses.dataclass(frozen=True)
class GroupCosts:
    """The groups' costs by machine and resource; None stands for a table of zeros. `allowed`: (n, n) by machine."""

    tables: tuple[tuple[Table | None, ...], ...]
    allowed: tuple[npt.NDArray[np.bool_] | None, ...]

    def weighted(self, machine: int, weights: Sequence[float], out: Table, scratch: Table) -> None:
        """Write to `out` (n, n) the weighted sum of the resources, infinity for a group that cannot run there.

        `scratch` (n, n) is overwritten.
        """
        empty = True
        for table, weight in zip(self.tables[machine], weights, strict=True):
            if table is not None and weight:
                np.multiply(table, weight, out=out if empty else scratch)
                if not empty:
                    out += scratch
                empty = False
        if empty:
            out[:] = 0.0
        forbidden = self.allowed[machine]
        if forbidden is not None:
            out[~forbidden] = np.inf

    def of(self, machine: int, first: Ints | int, last: int) -> Table:
        """(3,) or (3, number of `first`): the resources of the groups first..last."""
        shape = np.shape(first)
        return np.array(
            [np.zeros(shape) if table is None else table[first, last] for table in self.tables[machine]]
        )

    def of_many(self, machine: Ints, first: Ints, last: Ints) -> Table:
        """(m, 3): the resources of m groups."""
        costs = np.zeros((len(machine), 3))
        for worker in (MOBILE, CLOUD):
            rows = np.flatnonzero(machine == worker)
            for at, table in enumerate(self.tables[worker]):
                if table is not None:
                    costs[rows, at] = table[first[rows], last[rows]]
        return costs

    def costs(self, machine: int, first: int, last: int) -> Vector:
        """(3,): the resources of one group, with an infinite latency if the machine cannot run it."""
        cost = self.of(machine, first, last)
        allowed = self.allowed[machine]
        if allowed is not None and not allowed[first, last]:
            cost[LATENCY] = np.inf
        return cost

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        first = self.tables[MOBILE][LATENCY]
        assert first is not None
        return (first.shape[0], first.shape[1])


def group_costs_from_problem(problem: ScheduleProblem) -> GroupCosts:
    """The groups' costs. A cloud group of layers that are updated there also brings their weights to the mobile."""
    cloud_latency, cloud_energy = problem.cloud_ms, None
    if any(problem.update_bytes):
        ends = np.concatenate([[0.0], np.cumsum(problem.update_bytes)])
        updated = np.triu(ends[None, 1:] - ends[:-1, None])
        sending = sending_from_problem(problem)
        cloud_latency = problem.cloud_ms + updated * sending.ms_per_byte[MOBILE]
        cloud_energy = updated * sending.mj_per_byte[MOBILE]
    allowed = [np.isfinite(table) for table in (problem.mobile_ms, problem.cloud_ms)]
    # A forbidden group costs nothing here, so that no weight makes NaN of it; `allowed` keeps it out.
    mobile_ms, latency, cloud_ms = (
        table if one.all() else np.where(one, table, 0.0)
        for table, one in (
            (problem.mobile_ms, allowed[MOBILE]),
            (cloud_latency, allowed[CLOUD]),
            (problem.cloud_ms, allowed[CLOUD]),
        )
    )
    return GroupCosts(
        tables=((mobile_ms, problem.mobile_mj, None), (latency, cloud_energy, cloud_ms)),
        allowed=(
            None if allowed[MOBILE].all() else allowed[MOBILE],
            None if allowed[CLOUD].all() else allowed[CLOUD],
        ),
    )
