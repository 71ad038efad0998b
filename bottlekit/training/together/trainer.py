"""The mobile's side of collaborative training: images, labels and the loss are here, pieces here and there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bottlekit.device.segments.client import SegmentClient
from bottlekit.device.segments.source import Span
from bottlekit.device.wire.addresses import ConnectionLost
from bottlekit.device.wire.layers import load_layers_rpc
from bottlekit.errors import ServerBusyError, ServerUnreachableError
from bottlekit.training.together.pieces import Arrays, Pieces
from bottlekit.training.together.plan import TrainingPlan

Loss = Callable[[Tensor], Tensor]
# Between two attempts to connect again; each is twice as long as the one before.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class _Task(NamedTuple):
    """The forward or backward of a piece."""

    piece: int
    backward: bool
    there: bool
    reads: list[str]
    makes: list[str]


class Trainer:
    """Collaborative training of `network`, used as `with Trainer(...) as trainer: loss = trainer.step(...)`.

        images = a0 --forward--> a1 ==> a2 ... aK --loss--> gK --backward--> ... ==> g1 --> steps, there and here
                                                            then: weights of the pieces updated there ==> here

    A tensor crosses once, when it is read. After a step `network` is whole: it has what the server changed. A step
    whose server dies is done again from its beginning, with another connection, within `patience_s`; after that the
    error is raised, and `network` is as after the step before. What is random in forward passes there (dropout) is
    drawn there: such networks train, but not to the same numbers as on one machine.

    `settings`: the optimiser's, see `optimizer_from_settings`.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: TrainingPlan,
        address: tuple[str, int],
        settings: dict[str, str],
        timeout_s: float = 60.0,
        patience_s: float = 60.0,
        tls_folder: str | None = None,
        server_name: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan
        count = len(plan.forward_there)
        here = [number for number in range(count) if not plan.backward_there[number]]
        self.pieces = Pieces(network, plan.cuts, here, settings)
        self._address = address
        self._patience_s = patience_s
        self._options = (timeout_s, tls_folder, server_name)
        self._say = say
        self._settings = {
            **settings,
            "backbone": plan.model.backbone,
            "classes": str(plan.model.num_classes),
            "input_size": str(plan.model.input_size),
            "cuts": ",".join(plan.cuts),
            "backward": ",".join(str(number) for number in range(count) if plan.backward_there[number]),
        }
        # What the server's optimiser keeps of the pieces that are updated there, as of the last whole step.
        self._remote: dict[int, Arrays] = {}
        self._client: SegmentClient | None = None
        self._tasks = _tasks(plan)
        self._rpc = load_layers_rpc().types.Task
        self.sent_bytes = 0
        self.received_bytes = 0
        self.redone = 0

    def __enter__(self) -> Trainer:
        if self.plan.there:
            self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    def step(self, images: Tensor, loss: Loss, rate: float) -> float:
        """One step at a learning rate; the loss, which `loss` makes of the network's result.

        Raises WireError when the server stays away, RemoteError and the like for what it refuses.
        """
        deadline: float | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            buffers = {name: value.clone() for name, value in self.pieces.network.named_buffers()}
            dice = torch.get_rng_state()
            try:
                if self.plan.there and self._client is None:
                    self._connect()
                return self._step(images, loss, rate)
            except (ConnectionLost, ServerUnreachableError, ServerBusyError) as error:
                self._hang_up()
                self.pieces.forget()
                torch.set_rng_state(dice)
                with torch.no_grad():
                    for name, value in self.pieces.network.named_buffers():
                        value.copy_(buffers[name])
                now = time.monotonic()
                if deadline is None:
                    deadline = now + self._patience_s
                    self._say(f"the step is done again: {error}")
                if now + pause_s > deadline:
                    raise
            self.redone += 1
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)

    def state(self) -> list[Arrays]:
        """Of each piece the weights, and the optimiser's state wherever it is kept."""
        return [
            {**self.pieces.state(number), **self._remote.get(number, {})}
            for number in range(len(self.pieces.modules))
        ]

    def load_state(self, state: list[Arrays]) -> None:
        """Continue from what `state` gave, before entering."""
        for number, arrays in enumerate(state):
            self.pieces.load(number, arrays)
            if self.plan.backward_there[number]:
                self._remote[number] = _of_the_optimizer(arrays)

    def _connect(self) -> None:
        timeout_s, tls_folder, server_name = self._options
        spans = [Span(number, number) for number in self.plan.there]
        client = SegmentClient(
            *self._address, self.plan.sha256, spans, self._settings, timeout_s, tls_folder, server_name
        )
        self._client = client.__enter__()
        for number in self.plan.there:
            self._load(number)

    def _hang_up(self) -> None:
        if self._client is not None:
            self.sent_bytes += self._client.sent_bytes
            self.received_bytes += self._client.received_bytes
            self._client.close()
            self._client = None

    def _ask(self, task: int, piece: int, arrays: Arrays, wanted: list[str]) -> Arrays:
        assert self._client is not None
        return self._client.run(task, self.plan.there.index(piece), arrays, wanted)

    def _load(self, number: int) -> None:
        """Bring a piece's weights, and the optimiser's state if it is updated there, to the server."""
        arrays = self.pieces.state(number)
        if self.plan.backward_there[number]:
            arrays = {**arrays, **self._remote.get(number, {})}
        else:
            arrays = {name: value for name, value in arrays.items() if name not in _of_the_optimizer(arrays)}
        self._ask(self._rpc.LOAD, number, arrays, [])

    def _step(self, images: Tensor, loss: Loss, rate: float) -> float:
        values = {"a0": images}
        there: set[str] = set()
        result = f"a{len(self.pieces.modules)}"
        value: float | None = None
        for at, task in enumerate(self._tasks):
            if value is None and task.backward:
                value = _loss_and_gradient(values, result, loss)
            if not task.there:
                self._here(task, values)
                continue
            wanted = [name for name in self._read_next(at, result) if name not in values]
            lacking = {name: values[name].detach().numpy() for name in task.reads if name not in there}
            there.update(task.reads + task.makes)
            kind = self._rpc.BACKWARD if task.backward else self._rpc.FORWARD
            answer = self._ask(kind, task.piece, lacking, [name for name in wanted if name in there])
            values.update({name: torch.from_numpy(array) for name, array in answer.items()})
        assert value is not None
        self._finish(rate)
        return value

    def _here(self, task: _Task, values: dict[str, Tensor]) -> None:
        number = task.piece
        if not task.backward:
            values[f"a{number + 1}"] = self.pieces.forward(number, values[f"a{number}"])
            return
        gradient = self.pieces.backward(number, values[f"g{number + 1}"], values.get(f"a{number}"))
        if gradient is not None:
            values[f"g{number}"] = gradient

    def _read_next(self, at: int, result: str) -> list[str]:
        """What is read here after a task of the server's and before its next one; the loss reads the result."""
        names = []
        for task in self._tasks[at + 1 :]:
            if task.backward and not self._tasks[at].backward and result not in names:
                names.append(result)
            if task.there:
                return names
            names.extend(name for name in task.reads if name not in names)
        return names

    def _finish(self, rate: float) -> None:
        """The optimiser's step on both machines; nothing changes here before the server's changes are here."""
        changed = [number for number in self.plan.there if self.plan.backward_there[number]]
        fresh: dict[int, Arrays] = {}
        if changed:
            bits = np.asarray(np.float64(rate).view(np.int64))
            self._ask(self._rpc.APPLY, changed[0], {"rate_bits": bits}, [])
            fresh = {number: self._ask(self._rpc.STATE, number, {}, []) for number in changed}
        self.pieces.step(rate)
        for number, arrays in fresh.items():
            self.pieces.load(number, arrays)
            self._remote[number] = _of_the_optimizer(arrays)
        for number in self.plan.there:
            if not self.plan.backward_there[number]:
                self._load_updated(number)

    def _load_updated(self, number: int) -> None:
        """Bring weights that were updated here. If the server dies now, the next step finds out."""
        try:
            self._load(number)
        except ConnectionLost:
            self._hang_up()


def _tasks(plan: TrainingPlan) -> list[_Task]:
    found = []
    for number, place in enumerate(plan.forward_there):
        found.append(_Task(number, False, place, [f"a{number}"], [f"a{number + 1}"]))
    for number in reversed(range(len(plan.backward_there))):
        place = plan.backward_there[number]
        reads = [f"g{number + 1}"] + ([f"a{number}"] if place != plan.forward_there[number] else [])
        found.append(_Task(number, True, place, reads, [f"g{number}"] if number else []))
    return found


def _loss_and_gradient(values: dict[str, Tensor], result: str, loss: Loss) -> float:
    logits = values[result].detach().requires_grad_()
    value = loss(logits)
    torch.autograd.backward(value)
    assert logits.grad is not None
    values["g" + result[1:]] = logits.grad
    return float(value.detach())


def _of_the_optimizer(arrays: Arrays) -> Arrays:
    return {name: value for name, value in arrays.items() if name.startswith("optimizer/")}
