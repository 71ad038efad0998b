"""The states a schedule can be in between two layers, and the steps between them, however many groups there are.

    state   (boundary, machine that worked last, where each open tensor is)
    step    one group of layers on one machine, after what it reads was sent there

A tensor is open while somebody still has to read it. In a chain that is only the last layer's output, and there are
two states a boundary. A residual connection keeps its source open, which is on the mobile, on the cloud, or, once
sent, on both: JointDNN's "two chains".

The n^2 groups need no n^2 Python objects. A group that ends behind the last reader of all that was open at its
beginning leads to a *settled* state, where everything open is on the machine that worked last; those far steps are
rows of the tables. Only the few steps that end inside a residual connection, the near ones, are listed.
"""

from __future__ import annotations

import dataclasses

from bottlekit.errors import PlanError
from bottlekit.planning.schedule.costs import CLOUD, MOBILE, Sending, Vector, sending_from_problem
from bottlekit.planning.schedule.problem import ScheduleProblem, Tensor

# Where an open tensor is: one bit a machine.
_ON = (1, 2)
MOST_STATES_AT_A_BOUNDARY = 2_000


@dataclasses.dataclass(frozen=True)
class NearStep:
    """Layers from the state's boundary up to boundary `until` on `machine`, leading to state `target`."""

    machine: int
    until: int
    target: int
    sending: Vector


@dataclasses.dataclass(frozen=True)
class State:
    """`boundary`, `machine`: where one is and who worked last. `places`: bits for each tensor open there.

    `far_sending[m]`: the cost of sending machine m all it lacks, for groups that end at `horizon` or later; None
    if the work may not move to m. `end_sending`: the cost of bringing the mobile what it wants, at boundary n.
    """

    boundary: int
    machine: int
    places: tuple[int, ...]
    far_sending: tuple[Vector | None, Vector | None]
    near: tuple[NearStep, ...]
    end_sending: Vector | None


@dataclasses.dataclass(frozen=True)
class States:
    """All states, in the order of their boundaries; state 0 is the start.

    `at[b]`: those of boundary b. `settled[m][b]`: the number of the state at b in which all is on machine m.
    `horizon[b]`: from which boundary on a group that begins at b ends in a settled state.
    """

    all: tuple[State, ...]
    at: tuple[tuple[int, ...], ...]
    settled: tuple[tuple[int, ...], tuple[int, ...]]
    horizon: tuple[int, ...]


def open_tensors(problem: ScheduleProblem) -> tuple[tuple[Tensor, ...], ...]:
    """For each boundary 0..n the tensors that exist there and are still to be read."""
    found: list[list[Tensor]] = [[] for _ in range(problem.count + 1)]
    for tensor in problem.tensors:
        for boundary in range(tensor.source, max(tensor.readers, default=-1) + 1):
            found[boundary].append(tensor)
    return tuple(tuple(tensors) for tensors in found)


def states_from_problem(problem: ScheduleProblem) -> States:
    """The states and steps of a problem. PlanError if so many tensors are open at once that there are too many."""
    return _Builder(problem).build()


class _Builder:
    def __init__(self, problem: ScheduleProblem) -> None:
        self.problem = problem
        self.count = problem.count
        self.sending: Sending = sending_from_problem(problem)
        self.open = open_tensors(problem)
        # A reader n is the application: nothing that it waits for is settled before the end.
        self.horizon = tuple(
            1 + max((max(tensor.readers) for tensor in self.open[boundary]), default=boundary)
            for boundary in range(self.count + 1)
        )
        self.keys: list[tuple[int, int, tuple[int, ...]]] = []
        self.numbers: list[dict[tuple[int, tuple[int, ...]], int]] = [{} for _ in range(self.count + 1)]

    def build(self) -> States:
        start = (MOBILE, tuple(_ON[MOBILE] for _ in self.open[0]))
        near: dict[
            tuple[int, tuple[int, tuple[int, ...]]], list[tuple[int, int, tuple[int, tuple[int, ...]], Vector]]
        ]
        near = {}
        found: list[dict[tuple[int, tuple[int, ...]], None]] = [{} for _ in range(self.count + 1)]
        found[0][start] = None
        for boundary in range(self.count + 1):
            if boundary:
                for machine in (MOBILE, CLOUD):
                    found[boundary][self._settled(boundary, machine)] = None
            if len(found[boundary]) > MOST_STATES_AT_A_BOUNDARY:
                names = ", ".join(tensor.name for tensor in self.open[boundary][:4])
                raise PlanError(
                    f"{len(self.open[boundary])} tensors cross boundary {boundary} ({names}, ...): too many places "
                    "they could be in; merge the layers of that block into one, or forbid switches inside it"
                )
            for key in list(found[boundary]):
                steps = self._near_steps(boundary, key)
                near[boundary, key] = steps
                for _, until, target, _ in steps:
                    found[until][target] = None
        numbers: dict[tuple[int, tuple[int, tuple[int, ...]]], int] = {}
        for boundary, keys in enumerate(found):
            for key in keys:
                numbers[boundary, key] = len(numbers)
        states = [
            State(
                boundary=boundary,
                machine=key[0],
                places=key[1],
                far_sending=(self._far(boundary, key, MOBILE), self._far(boundary, key, CLOUD)),
                near=tuple(
                    NearStep(machine, until, numbers[until, target], sending)
                    for machine, until, target, sending in near[boundary, key]
                ),
                end_sending=self._end(key) if boundary == self.count else None,
            )
            for boundary, key in numbers
        ]
        return States(
            all=tuple(states),
            at=tuple(tuple(numbers[boundary, key] for key in keys) for boundary, keys in enumerate(found)),
            settled=(self._settled_numbers(numbers, MOBILE), self._settled_numbers(numbers, CLOUD)),
            horizon=self.horizon,
        )

    def _settled(self, boundary: int, machine: int) -> tuple[int, tuple[int, ...]]:
        return machine, tuple(_ON[machine] for _ in self.open[boundary])

    def _settled_numbers(
        self, numbers: dict[tuple[int, tuple[int, tuple[int, ...]]], int], machine: int
    ) -> tuple[int, ...]:
        # At boundary 0 nobody has worked yet; nothing leads there.
        return (0, *(numbers[boundary, self._settled(boundary, machine)] for boundary in range(1, self.count + 1)))

    def _may_run(self, boundary: int, key: tuple[int, tuple[int, ...]], machine: int) -> bool:
        if self.problem.whole_runs and boundary and machine == key[0]:
            return False
        return machine == key[0] or boundary not in self.problem.fixed_boundaries

    def _lacking(self, boundary: int, key: tuple[int, tuple[int, ...]], machine: int, until: int) -> list[Tensor]:
        """What `machine` does not have and the layers from `boundary` up to `until` read."""
        return [
            tensor
            for tensor, place in zip(self.open[boundary], key[1], strict=True)
            if not place & _ON[machine] and any(boundary <= reader < until for reader in tensor.readers)
        ]

    def _far(self, boundary: int, key: tuple[int, tuple[int, ...]], machine: int) -> Vector | None:
        if not self._may_run(boundary, key, machine):
            return None
        return self.sending.cost(
            machine, self._lacking(boundary, key, machine, self.count + 1), switches=machine != key[0]
        )

    def _near_steps(
        self, boundary: int, key: tuple[int, tuple[int, ...]]
    ) -> list[tuple[int, int, tuple[int, tuple[int, ...]], Vector]]:
        steps = []
        for machine in (MOBILE, CLOUD):
            if not self._may_run(boundary, key, machine):
                continue
            for until in range(boundary + 1, min(self.horizon[boundary], self.count + 1)):
                sent = self._lacking(boundary, key, machine, until)
                names = {tensor.name for tensor in sent}
                before = {
                    tensor.name: place | (_ON[machine] if tensor.name in names else 0)
                    for tensor, place in zip(self.open[boundary], key[1], strict=True)
                }
                places = tuple(before.get(tensor.name, _ON[machine]) for tensor in self.open[until])
                cost = self.sending.cost(machine, sent, switches=machine != key[0])
                steps.append((machine, until, (machine, places), cost))
        return steps

    def _end(self, key: tuple[int, tuple[int, ...]]) -> Vector:
        wanted = self._lacking(self.count, key, MOBILE, self.count + 1)
        return self.sending.cost(MOBILE, wanted, switches=bool(wanted) and key[0] == CLOUD)
